"""Functions that open S3 buckets and choose the options for uploads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from batchrec_dagster.errors import UserError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

MB = 1024 * 1024
CHUNK_BYTES = 8 * MB
# S3's limits for an upload in parts, and for a put or a copy without parts:
# docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PARTS = 10_000
MAX_PUT_BYTES = 5 * 1024 * MB
# The memory in bytes that an upload may use. An upload with larger parts sends fewer of its parts
# at the same time.
BUFFER_BYTES = 12 * CHUNK_BYTES
# Requests are retried through minutes of throttling, server errors and broken connections. Each
# pause is random, up to `base` times the last pause. With the usual base of 2 the pauses would not
# grow on average.
RETRIES: RetryConfig = {
    "max_retries": 100,
    "retry_timeout": timedelta(minutes=5),
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=10),
        "base": 4,
    },
}
HTML = {"Content-Type": "text/html; charset=utf-8"}


def open_bucket(bucket: str, session: boto3.Session, endpoint_url: str | None) -> S3Store:
    """Return the bucket, opened with the session's credentials and region.

    endpoint_url: the URL of S3; None for AWS.
    Raises UserError if the session has no credentials.
    """
    if session.get_credentials() is None:
        raise UserError(
            f"no AWS credentials found for s3://{bucket}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
            " and AWS_SECRET_ACCESS_KEY"
        )
    # The option is left out for AWS, because obstore accepts no None. No environment variable
    # overrides an option with this name.
    endpoint: dict[str, Any] = {"aws_endpoint_url_s3": endpoint_url} if endpoint_url else {}
    return S3Store(
        bucket,
        region=session.region_name or "us-east-1",
        client_options={
            "allow_http": bool(endpoint_url),
            "connect_timeout": "10s",
            # This limit is for each read, so that a large object may take hours.
            "read_timeout": "60s",
            "timeout": "24h",
        },
        retry_config=RETRIES,
        # botocore renews credentials before they expire, so obstore asks botocore each time.
        credential_provider=Boto3CredentialProvider(session, ttl=timedelta(0)),
        **endpoint,
    )


def choose_upload(key: str, data: bytes | Path | Iterable[bytes]) -> dict[str, Any]:
    """Return obstore's options for a put.

    A large object, or an object of unknown size, is uploaded in parts.
    """
    if isinstance(data, bytes):
        # Browsers show an object with this content type, and download other objects.
        html: dict[str, Any] = {"attributes": HTML} if key.endswith(".html") else {}
        return {"use_multipart": len(data) > CHUNK_BYTES, **html}
    size = data.stat().st_size if isinstance(data, Path) else None
    if size is not None and size <= CHUNK_BYTES:
        return {"use_multipart": False}
    part_bytes = CHUNK_BYTES if size is None else choose_part_size(size)
    return {"chunk_size": part_bytes, "max_concurrency": max(1, BUFFER_BYTES // part_bytes)}


def choose_part_size(size: int) -> int:
    """Return the size in bytes of each part of a put of `size` bytes.

    The size is a whole number of MB, and large enough for at most MAX_PARTS parts.
    """
    return max(CHUNK_BYTES, -(-size // (MAX_PARTS * MB)) * MB)
