"""A boto3 client for a local Personalize in this process.

Pipeline runs import only this module from the package. The command line imports `command`, and
`testing` starts the service itself.

boto3 serialises requests and parses responses as on AWS. A handler of botocore's `before-send`
event replaces the network, and nothing else.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.loaders import create_loader
from urllib3 import HTTPResponse

from batchrec_dagster.personalize.measurements import HEADER
from batchrec_dagster.personalize.schemas import FILTER_HISTORY
from batchrec_dagster.storage.extras import require
from batchrec_dagster.storage.objects import ObjectStore

from .. import ACCOUNT_ID, REGION

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

    from .service import LocalPersonalize

# The client ignores this machine's AWS configuration, which may be missing or broken.
_SESSION = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
# Without a common loader, each session would parse botocore's model of Amazon Personalize again.
_LOADER = create_loader()
_ENDPOINT = "http://personalize.localhost"


def embedded_client(
    home: Path,
    store: ObjectStore,
    *,
    region: str = REGION,
    account: str = ACCOUNT_ID,
    filter_interactions: int = FILTER_HISTORY,
) -> PersonalizeClient:
    """Return a `personalize` client for the local Personalize in the folder `home`.

    Jobs run in threads of this process. Jobs that are unfinished when the process ends fail.

    store: the store of the S3 objects that requests name.
    region, account: the region and account in the ARNs of new resources.
    filter_interactions: the number of a user's latest interactions of an event type that a filter
        considers.

    Raises CatalogueError, UserError if an optional dependency is missing, and OSError if the folder
    cannot be created.
    """
    require("local", "the embedded Personalize")
    # The libraries for training are imported only if a Personalize runs, and not if pipelines are
    # only loaded.
    from .service import LocalPersonalize

    service = LocalPersonalize(
        home,
        store,
        region=region,
        account=account,
        filter_interactions=filter_interactions,
    )
    return make_client(service)


def make_client(service: LocalPersonalize) -> PersonalizeClient:
    """Return a `personalize` client for a running local Personalize."""

    def respond(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        target, events = (
            _decode_header(request.headers.get(name, "")) for name in ("X-Amz-Target", HEADER)
        )
        response = service.answer(target, _encode_body(request.body), events)
        raw = HTTPResponse(BytesIO(response.body), preload_content=False)
        answer_headers = HTTPHeaders.from_dict(response.headers)
        return AWSResponse(request.url, response.status, answer_headers, raw)

    session = botocore.session.Session(session_vars=_SESSION)
    session.register_component("data_loader", _LOADER)
    client = cast(
        "PersonalizeClient",
        session.create_client(
            "personalize",
            region_name=service.region,
            endpoint_url=_ENDPOINT,
            aws_access_key_id="local",
            # Nobody checks the signature.
            aws_secret_access_key="local",  # noqa: S106
            # A retry would get the same answer from this process.
            config=Config(retries={"mode": "legacy", "total_max_attempts": 1}, proxies={}),
        ),
    )
    client.meta.events.register("before-send.personalize", cast(Any, respond))
    return client


def _decode_header(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _encode_body(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")
