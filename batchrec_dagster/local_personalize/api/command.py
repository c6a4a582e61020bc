"""The command that starts the local Personalize as a server."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import click

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.extras import require
from batchrec_dagster.web.hosts import allowed_hosts

from .. import ACCOUNT_ID, REGION

DEFAULT_HOME = Path(".batchrec/personalize")


def _parse_buckets(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Path]:
    """Return the folder of each bucket by the bucket's name. This is a callback of click."""
    buckets = {}
    for value in values:
        bucket, separator, folder = value.partition("=")
        if not (bucket and separator and folder):
            raise click.BadParameter(f"{value!r} is not of the form BUCKET=FOLDER")
        buckets[bucket] = Path(folder).absolute()
    return buckets


def _make_pattern_check(pattern: str, meaning: str) -> Callable[..., str]:
    """Return a callback of click that accepts only values that match the pattern.

    meaning: a description of a valid value, for the error message.
    """

    def check(context: click.Context, parameter: click.Parameter, value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise click.BadParameter(f"{value!r} is not {meaning}")
        return value

    return check


def _check_extras() -> None:
    """Raise click.ClickException if an optional dependency is missing.

    This is called late, so that --help does not wait for the imports.
    """
    try:
        for extra in ("local", "serve"):
            require(extra, "batchrec local-personalize")
    except UserError as error:
        raise click.ClickException(str(error)) from None


@click.command("local-personalize")
@click.option("--port", type=click.IntRange(0, 65535), default=9500, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    show_default=True,
    help="The folder for its catalogue, data and models.",
)
@click.option(
    "--region",
    default=REGION,
    show_default=True,
    envvar="BATCHREC_LOCAL_PERSONALIZE_REGION",
    show_envvar=True,
    callback=_make_pattern_check(r"[a-z]{2}(-[a-z]+)+-\d+", "a region, such as us-east-1"),
    help="The region in ARNs.",
)
@click.option(
    "--account",
    default=ACCOUNT_ID,
    show_default=True,
    envvar="BATCHREC_LOCAL_PERSONALIZE_ACCOUNT",
    show_envvar=True,
    callback=_make_pattern_check(r"\d{12}", "an account: 12 digits"),
    help="The account in ARNs, for programs that take it from STS.",
)
@click.option("--s3-endpoint", metavar="URL", help="The URL of S3, if not AWS's.")
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    metavar="BUCKET=FOLDER",
    callback=_parse_buckets,
    help="Use a folder as the bucket s3://BUCKET. Repeat for more buckets.",
)
@click.option(
    "--access-key-id",
    envvar="BATCHREC_LOCAL_PERSONALIZE_ACCESS_KEY_ID",
    show_envvar=True,
    help="Accept only requests signed with this key.",
)
@click.option(
    "--secret-access-key",
    envvar="BATCHREC_LOCAL_PERSONALIZE_SECRET_ACCESS_KEY",
    show_envvar=True,
    help="The key's secret. Prefer the environment variable.",
)
@allowed_hosts
def local_personalize(
    port: int,
    host: str,
    home: Path,
    region: str,
    account: str,
    s3_endpoint: str | None,
    buckets: dict[str, Path],
    access_key_id: str | None,
    secret_access_key: str | None,
    allowed_hosts: frozenset[str],
) -> None:
    """Serve Amazon Personalize's batch API on this machine.

    Point any AWS SDK, or the aws command, at it: AWS_ENDPOINT_URL_PERSONALIZE=http://HOST:PORT

    \b
    Examples:
      batchrec local-personalize --bucket batchrec-local=.batchrec/storage
      batchrec local-personalize --port 0 --s3-endpoint http://127.0.0.1:8333
    """  # noqa: D301
    _check_extras()
    from batchrec_dagster.storage.objects import ObjectStore

    from ..errors import CatalogueError
    from .server import serve
    from .service import LocalPersonalize
    from .signatures import AccessKey

    if bool(access_key_id) != bool(secret_access_key):
        raise click.UsageError("an access key needs both --access-key-id and --secret-access-key")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    key = AccessKey(access_key_id, secret_access_key or "") if access_key_id else None
    store = ObjectStore(buckets, endpoint_url=s3_endpoint)
    try:
        service = LocalPersonalize(
            home,
            store,
            region=region,
            account=account,
        )
    except (CatalogueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    serve(service, host, port, key=key, hosts=allowed_hosts)
