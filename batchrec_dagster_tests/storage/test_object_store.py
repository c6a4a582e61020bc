"""Tests of objects in a folder and in S3 that guard/contracts/test_store.py cannot make."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import boto3
import botocore.session
import obstore
import pytest
from botocore.credentials import RefreshableCredentials
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.buckets import MAX_PARTS, choose_part_size
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.builders import assert_etags_are_given
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, REGION, Keys, S3Server


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore({"local": tmp_path / "folder"})


REQUESTS: dict[str, Callable[[ObjectStore, str], object]] = {
    "head": lambda store, uri: store.head(uri),
    "get": lambda store, uri: store.get(uri),
    "list": lambda store, uri: store.list(uri),
    "list_with_delimiter": lambda store, uri: store.subfolders("s3://local/"),
    "delete": lambda store, uri: store.delete(uri),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_whose_connection_is_cut_is_repeated(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store.put("s3://local/a", b"four")
    send = getattr(obstore, name)
    cut = GenericError("Generic S3 error: HTTP error: error sending request")
    answers = iter([cut, cut])

    def send_when_whole(*arguments: object, **options: object) -> object:
        for error in answers:
            raise error
        return send(*arguments, **options)

    monkeypatch.setattr(obstore, name, send_when_whole)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    REQUESTS[name](store, "s3://local/a")
    assert next(answers, None) is None

    refused = GenericError("the server is out of order")
    monkeypatch.setattr(obstore, name, Mock(side_effect=refused))
    with pytest.raises(UserError, match="the server is out of order"):
        REQUESTS[name](store, "s3://local/a")


def test_a_written_object_is_recognised_by_its_etag(
    store: ObjectStore, s3: S3Server, tmp_path: Path
) -> None:
    assert_etags_are_given(store, tmp_path, "s3://local")
    assert_etags_are_given(s3.store(), tmp_path, f"s3://{s3.create_bucket()}")


@given(st.integers(0, 5 * 1024**4))
def test_s3_takes_the_parts_of_an_object_of_any_size(size: int) -> None:
    part = choose_part_size(size)
    assert 5 * 1024**2 <= part <= 5 * 1024**3
    assert -(-size // part) <= MAX_PARTS


def test_the_parts_of_a_large_file_grow_with_it(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.storage.buckets.MAX_PARTS", 2)
    file, uri = tmp_path / "large", f"s3://{s3.create_bucket()}/large"
    file.write_bytes(os.urandom(35_000_000))
    # S3 appends the number of parts to the ETag.
    assert s3.store().put(uri, file).strip('"').endswith("-2")
    assert s3.store().get(uri) == file.read_bytes()


def test_files_of_a_killed_put_are_removed_and_a_running_put_is_left_alone(
    store: ObjectStore, tmp_path: Path
) -> None:
    """A put whose process is killed leaves a file that no listing shows."""
    names = ["a.parquet", "a.parquet#1", "b/c.parquet#13", "b/no#1 of ours"]
    folder = tmp_path / "folder/x"
    (folder / "b").mkdir(parents=True)
    for name in names:
        (folder / name).touch()

    def make_pieces() -> Iterator[bytes]:
        yield b"one"
        assert len([*folder.glob("running#*")]) == 1
        store.tidy("s3://local/x/")
        yield b"two"

    store.put("s3://local/x/running", make_pieces())
    leftovers = [name for name in names if (folder / name).exists()]
    assert leftovers == ["a.parquet", "b/no#1 of ours"]
    assert store.get("s3://local/x/running") == b"onetwo"
    store.tidy("s3://local/nowhere/")


def test_without_credentials_a_bucket_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda self: None)
    with pytest.raises(UserError, match="no AWS credentials found for s3://shop: set AWS_PRO"):
        ObjectStore({}, partial(boto3.Session, region_name="eu-west-1")).get("s3://shop/a")


@pytest.mark.slow
def test_credentials_that_expire_in_the_middle_of_a_night_are_renewed(s3: S3Server) -> None:
    """AWS hands out a role's new credentials before the old credentials expire.

    The first credentials are withdrawn when they have expired: a store that kept them would be
    refused.
    """
    given_out: list[Keys] = []

    def hand_out() -> dict[str, str]:
        keys = OWNER if given_out else READER
        given_out.append(keys)
        expires = datetime.now(UTC) + timedelta(seconds=10)
        parts = {"access_key": keys.access, "secret_key": keys.secret, "token": ""}
        return {**parts, "expiry_time": expires.isoformat()}

    def make_session() -> boto3.Session:
        session = botocore.session.get_session()
        session._credentials = RefreshableCredentials.create_from_metadata(  # type: ignore[attr-defined]
            hand_out(), refresh_using=hand_out, method="test", mandatory_timeout=0,
            advisory_timeout=0,
        )  # fmt: skip
        return boto3.Session(botocore_session=session, region_name=REGION)

    store, uri = ObjectStore({}, make_session, s3.endpoint), f"s3://{s3.create_bucket()}/key"
    with pytest.raises(UserError, match="permission denied"):
        store.put(uri, b"x")
    assert given_out == [READER]
    time.sleep(10)
    store.put(uri, b"x")
    assert store.get(uri) == b"x"
