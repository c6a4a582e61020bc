"""Opens S3 buckets, and says how objects are put into them."""

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
# Bytes of memory an upload uses: the larger its parts, the fewer it sends at the same time.
BUFFER_BYTES = 12 * CHUNK_BYTES
# Outlasts minutes of throttling, server errors and broken connections. Each pause is random, up to
# `base` times the last: with the usual 2 the pauses would not grow.
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
    """The bucket, with the session's credentials and region. Raises UserError without any.

    endpoint_url: where S3 is, if not at AWS.
    """
    if session.get_credentials() is None:
        raise UserError(
            f"no AWS credentials found for s3://{bucket}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
            " and AWS_SECRET_ACCESS_KEY"
        )
    # Omitted for AWS, as obstore accepts no None. Under this name, no variable overrides it.
    endpoint: dict[str, Any] = {"aws_endpoint_url_s3": endpoint_url} if endpoint_url else {}
    return S3Store(
        bucket,
        region=session.region_name or "us-east-1",
        client_options={
            "allow_http": bool(endpoint_url),
            "connect_timeout": "10s",
            # For each read, so that a large object may take hours.
            "read_timeout": "60s",
            "timeout": "24h",
        },
        retry_config=RETRIES,
        # botocore renews credentials before they expire, so ask it each time.
        credential_provider=Boto3CredentialProvider(session, ttl=timedelta(0)),
        **endpoint,
    )


def choose_upload(key: str, data: bytes | Path | Iterable[bytes]) -> dict[str, Any]:
    """obstore's options for a put: in parts if the object is large, or if its size is not known."""
    if isinstance(data, bytes):
        # Browsers show an object with this type and download any other.
        html: dict[str, Any] = {"attributes": HTML} if key.endswith(".html") else {}
        return {"use_multipart": len(data) > CHUNK_BYTES, **html}
    size = data.stat().st_size if isinstance(data, Path) else None
    if size is not None and size <= CHUNK_BYTES:
        return {"use_multipart": False}
    part_bytes = CHUNK_BYTES if size is None else choose_part_size(size)
    return {"chunk_size": part_bytes, "max_concurrency": max(1, BUFFER_BYTES // part_bytes)}


def choose_part_size(size: int) -> int:
    """The bytes of each part of a put of `size` bytes: whole MB, at most MAX_PARTS parts."""
    return max(CHUNK_BYTES, -(-size // (MAX_PARTS * MB)) * MB)
