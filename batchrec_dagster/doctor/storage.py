"""The storage: whether what the pipelines do to objects can be done there."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor.findings import Finding, client, failed, ok, unknown, warning
from batchrec_dagster.personalize.permissions import credentials_trouble
from batchrec_dagster.storage.object_store import StorageError, split_uri
from batchrec_dagster.storage.resource import StorageResource

# AWS refuses what is signed so many seconds off its own time; half a minute off is not by chance.
REFUSED, SUSPECT = 300, 30


def storage_findings(deployment: Deployment) -> Iterator[Finding]:
    if deployment.storage.startswith("s3://"):
        found = list(_bucket(deployment))
        yield from found
        if any(finding.status == "failed" for finding in found):
            return
    storage: StorageResource = deployment.resources()["storage"]
    yield from _objects(storage)


def _objects(storage: StorageResource) -> Iterator[Finding]:
    """Writes a small object, looks at it and removes it, as a pipeline would."""
    uri = storage.uri(f"doctor-{uuid.uuid4().hex}")

    def lease() -> None:
        """By an object that only one can create."""
        if storage.store.create(uri, b"another's"):
            raise StorageError(
                f"{uri} was created though it was there; use a storage that knows If-None-Match:"
                " without it two runs at once do the same work"
            )

    steps: dict[str, Callable[[], object]] = {
        "write": lambda: storage.store.put(uri, b"x"),
        "lease": lease,
        "list": lambda: storage.store.list(uri),
        "read": lambda: storage.store.get(uri),
        "delete": lambda: storage.store.delete(uri),
    }
    for name, step in steps.items():
        try:
            step()
        except StorageError as error:
            message, _, fix = str(error).partition("; ")
            yield failed(f"storage {name}", message, fix or "see what it says")
            if name == "write":
                return
        else:
            yield ok(f"storage {name}", storage.where(uri).rpartition("/")[0])


def _bucket(deployment: Deployment) -> Iterator[Finding]:
    bucket, _ = split_uri(deployment.storage)
    check = "bucket"
    try:
        answer: Any = client(deployment, "s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    except BotoCoreError as error:
        yield failed(
            check,
            f"s3://{bucket} was not reached: {error}",
            "look at the network, AWS_ENDPOINT_URL_S3, AWS_PROFILE and the credentials",
        )
        return
    metadata = answer["ResponseMetadata"]
    headers, status = metadata["HTTPHeaders"], metadata["HTTPStatusCode"]
    yield clock(headers.get("date"), datetime.now(UTC))
    region = headers.get("x-amz-bucket-region")
    trouble = credentials_trouble(answer.get("Error", {}).get("Code", ""), "")
    if trouble:
        yield failed(check, f"s3://{bucket} refuses these credentials", trouble)
    elif status == 404:
        yield failed(check, f"there is no bucket {bucket}", "create it, or fix BATCHREC_STORAGE")
    elif region and deployment.region and region != deployment.region:
        yield failed(
            check,
            f"{bucket} lies in {region}, this runs in {deployment.region}",
            "use a bucket of the same region: Personalize reads no other",
        )
    elif status == 403:
        yield unknown(
            check,
            f"{bucket} is not to be looked at",
            f"allow these credentials s3:ListBucket on arn:aws:s3:::{bucket}",
        )
    elif status >= 400:
        yield failed(check, f"s3://{bucket} answers {status}", "look at the endpoint and the name")
    else:
        yield ok(check, f"{bucket} is there{f', in {region}' if region else ''}")


def clock(date: str | None, now: datetime) -> Finding:
    """Beside a server's, by the Date of its answer."""
    if date is None:
        return unknown("clock", "the server told no time", "compare it with `ntpdate -q`")
    off = (now - parsedate_to_datetime(date)).total_seconds()
    said = f"this machine's clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}"
    fix = "set it by NTP (chrony, systemd-timesyncd)"
    if abs(off) >= REFUSED:
        return failed("clock", f"{said}: requests are refused", fix)
    if abs(off) >= SUSPECT:
        return warning("clock", said, fix)
    return ok("clock", "it agrees with the server's")
