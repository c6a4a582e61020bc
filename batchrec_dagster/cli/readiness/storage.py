"""Checks of the storage: a folder or bucket that a pipeline can write, and its server's clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.cli.readiness.folders import check_writable
from batchrec_dagster.config.environment import Environment
from batchrec_dagster.errors import UserError
from batchrec_dagster.reporting.insight.readiness import (
    Readiness,
    failed,
    ok,
    unknown,
    warning,
)
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.objects import split_uri
from batchrec_dagster.storage.permissions import explain_credentials_error, find_partition

SHORT_TIMEOUTS = Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=15)

# AWS refuses requests from a clock that is this many seconds off.
REFUSED_SECONDS = 300
# The network alone does not delay an answer by this many seconds.
SUSPECT_SECONDS = 30


def check_storage(environment: Environment, storage: Storage) -> Iterator[Readiness]:
    """Yield findings about the folder or the bucket, and then about objects in it."""
    if environment.storage.startswith("s3://"):
        findings = list(_check_bucket(storage))
    else:
        findings = [_check_storage_folder(Path(environment.storage).absolute(), environment.home)]
    yield from findings
    if any(finding.status == "failed" for finding in findings):
        return
    yield from _check_objects(storage)


def _check_storage_folder(folder: Path, home: Path) -> Readiness:
    """Check that this user can write the folder, and that other users cannot read its data."""
    check = "storage folder"
    in_closed_home = folder.is_relative_to(home) and not home.stat().st_mode & 0o007
    if folder.is_dir() and in_closed_home:
        return ok(check, f"BATCHREC_STORAGE {folder} is in BATCHREC_HOME, which others cannot read")
    return check_writable(check, folder, "BATCHREC_STORAGE")


def _check_objects(storage: Storage) -> Iterator[Readiness]:
    """Write, list, read and delete a small object, as a pipeline does.

    Yields a finding for each step. The step `lock` checks that an object cannot be created twice.
    """
    uri = storage.uri(f"check-{uuid.uuid4().hex}")

    def check_lock() -> None:
        if storage.store.create(uri, b"another's"):
            raise UserError(
                f"{uri} already existed, yet the storage created it again; use a storage that"
                " supports If-None-Match: without it, two runs can do the same work at once"
            )

    steps: dict[str, Callable[[], object]] = {
        "write": lambda: storage.store.put(uri, b"x"),
        "lock": check_lock,
        "list": lambda: storage.store.list(uri),
        "read": lambda: storage.store.get(uri),
        "delete": lambda: storage.store.delete(uri),
    }
    for name, step in steps.items():
        try:
            step()
        except UserError as error:
            message, _, fix = str(error).partition("; ")
            yield failed(f"storage {name}", message, fix or "fix what the message names")
            if name == "write":
                return
        else:
            yield ok(f"storage {name}", storage.where(uri).rpartition("/")[0])


def _check_bucket(storage: Storage) -> Iterator[Readiness]:
    bucket, _ = split_uri(storage.root)
    own_region = storage.s3.region_name
    check = "bucket"
    try:
        client = storage.client("s3", config=SHORT_TIMEOUTS)
        answer: Any = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    except (BotoCoreError, UserError) as error:
        yield failed(
            check,
            f"cannot reach s3://{bucket}: {error}",
            "check the network, AWS_ENDPOINT_URL_S3, AWS_PROFILE and the credentials",
        )
        return
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    yield check_clock(headers.get("date"), datetime.now(UTC))
    region = headers.get("x-amz-bucket-region")
    trouble = explain_credentials_error(answer.get("Error", {}).get("Code", ""), "")
    if trouble:
        yield failed(check, f"s3://{bucket} rejects these credentials", trouble)
    elif status == 404:
        yield failed(check, f"there is no bucket {bucket}", "create it, or fix BATCHREC_STORAGE")
    elif region and own_region and region != own_region:
        yield failed(
            check,
            f"{bucket} is in {region}, but AWS_REGION is {own_region}",
            "use a bucket in the same region: Personalize reads no other",
        )
    elif status == 403:
        yield unknown(
            check,
            f"no permission to check {bucket}",
            f"allow these credentials s3:ListBucket on"
            f" arn:{find_partition(own_region)}:s3:::{bucket}",
        )
    elif status >= 400:
        yield failed(
            check,
            f"s3://{bucket} answers HTTP {status}",
            "check the endpoint and the bucket's name",
        )
    else:
        yield ok(check, f"{bucket} exists{f', in {region}' if region else ''}")


def check_clock(date: str | None, now: datetime) -> Readiness:
    """Compare this machine's clock with the Date header of a server's answer.

    date: the header; None if the answer has no such header.
    """
    if date is None:
        return unknown("clock", "the server sent no Date header", "compare it with `ntpdate -q`")
    seconds_off = (now - parsedate_to_datetime(date)).total_seconds()
    direction = "ahead" if seconds_off > 0 else "behind"
    message = f"this machine's clock is {abs(seconds_off):.0f} s {direction}"
    fix = "set it by NTP (chrony, systemd-timesyncd)"
    if abs(seconds_off) >= REFUSED_SECONDS:
        return failed("clock", f"{message}: AWS refuses its requests", fix)
    if abs(seconds_off) >= SUSPECT_SECONDS:
        return warning("clock", message, fix)
    return ok("clock", "agrees with the server's")
