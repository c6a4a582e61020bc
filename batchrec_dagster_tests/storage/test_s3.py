"""Large parts, ETags and credentials of the storage in S3, on a real server."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    assert_etags_are_given,
)
from batchrec_dagster_tests.guard.servers.s3 import (
    OWNER,
    READER,
    REGION,
    Keys,
    S3Server,
)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.create_bucket()


def test_the_parts_of_a_large_file_grow_with_it(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.storage.buckets.MAX_PARTS", 2)
    file, data = tmp_path / "large", os.urandom(35_000_000)
    file.write_bytes(data)
    # S3 appends the number of parts to the ETag.
    assert s3.store().put(f"s3://{bucket}/large", file).strip('"').endswith("-2")
    assert s3.store().get(f"s3://{bucket}/large") == data


def test_what_is_written_is_known_by_its_etag(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    assert_etags_are_given(s3.store(), tmp_path, f"s3://{bucket}")


class Temporary:
    """Credentials of a role, of which AWS hands out new ones before the old ones expire."""

    def __init__(self, *keys: Keys, seconds: float) -> None:
        self.keys = list(keys)
        self.seconds = seconds
        self.sessions_given = 0

    def __call__(self) -> dict[str, str]:
        keys = self.keys[min(self.sessions_given, len(self.keys) - 1)]
        self.sessions_given += 1
        expires = datetime.now(UTC) + timedelta(seconds=self.seconds)
        return {
            "access_key": keys.access,
            "secret_key": keys.secret,
            "token": "",
            "expiry_time": expires.isoformat(),
        }

    def make_session(self) -> boto3.Session:
        botocore_session = botocore.session.get_session()
        botocore_session._credentials = RefreshableCredentials.create_from_metadata(  # type: ignore[attr-defined]
            self(), refresh_using=self, method="test", mandatory_timeout=0, advisory_timeout=0
        )
        return boto3.Session(botocore_session=botocore_session, region_name=REGION)


@pytest.mark.slow
def test_credentials_that_expire_in_the_middle_of_a_night_are_renewed(
    s3: S3Server, bucket: str
) -> None:
    """The first are withdrawn when they have expired: a store that kept them would be refused."""
    role = Temporary(READER, OWNER, seconds=10)
    store = ObjectStore({}, role.make_session, s3.endpoint)
    uri = f"s3://{bucket}/key"
    assert store.list(uri) == []
    with pytest.raises(UserError, match="permission denied"):
        store.put(uri, b"x")
    assert role.sessions_given == 1
    time.sleep(10)
    store.put(uri, b"x")
    assert store.get(uri) == b"x"
    assert role.sessions_given >= 2
