"""URIs, and objects in a folder; tests on a real S3 server are in test_s3.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import boto3
import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError
from obstore.store import S3Store

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.buckets import MAX_PARTS, choose_part_size
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.objects import (
    ObjectNotFoundError,
    ObjectStore,
    split_uri,
)
from batchrec_dagster_tests.guard.builders import assert_etags_are_given


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


@given(st.integers(0, 5 * 1024**4))
def test_s3_takes_the_parts_of_an_object_of_any_size(size: int) -> None:
    part = choose_part_size(size)
    assert 5 * 1024**2 <= part <= 5 * 1024**3
    assert -(-size // part) <= MAX_PARTS


def test_what_is_written_is_known_by_its_etag(store: ObjectStore, tmp_path: Path) -> None:
    assert_etags_are_given(store, tmp_path, "s3://local")


def test_what_a_killed_put_left_is_removed_at_once_and_a_running_put_is_let_be(
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


@pytest.mark.parametrize(
    "uri",
    ["", "local/a", "http://local/a", "s3://", "s3:///a", "s3://local/../a", "s3://local/a/./b",
     "s3://local//etc/passwd", "s3://local/a//b", "s3://local//", "s3://local/a//",
     "s3://local/a\\b", "s3://local/a\0b", "s3://../a"],
)  # fmt: skip
def test_what_is_no_storage_uri_is_refused(uri: str) -> None:
    with pytest.raises(UserError):
        split_uri(uri)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_key_leaves_its_folder(key: str) -> None:
    try:
        bucket, key_inside = split_uri(f"s3://local/{key}")
    except UserError:
        return
    assert bucket == "local"
    folder = Path("/data/folder")
    assert (folder / key_inside).resolve().is_relative_to(folder)
    assert not {".", ".."} & set(key_inside.split("/"))


def test_a_bucket_on_aws_needs_no_endpoint() -> None:
    session = boto3.Session("key", "secret", region_name="eu-west-1")
    assert isinstance(ObjectStore({}, lambda: session)._bucket("shop"), S3Store)


def test_folders_need_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(boto3, "Session")
    store = Storage(root=str(tmp_path), s3=S3Connection()).store
    store.put("s3://batchrec-local/a", b"1")
    assert store.get("s3://batchrec-local/a") == b"1"
    with pytest.raises(ObjectNotFoundError):
        store.get("s3://batchrec-local/b")


def test_without_credentials_a_bucket_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda self: None)
    with pytest.raises(UserError, match="no AWS credentials found for s3://shop: set AWS_PRO"):
        ObjectStore({}, partial(boto3.Session, region_name="eu-west-1")).get("s3://shop/a")


def test_the_folders_in_a_folder(store: ObjectStore) -> None:
    store.put("s3://local/a/one", b"")
    store.put("s3://local/a/b/two", b"")
    assert store.subfolders("s3://local/") == ("a",)
    assert store.subfolders("s3://local/a/") == ("b",)
    assert store.subfolders("s3://local/a/b/") == ()


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o750, 0o640), (0o755, 0o644)])
def test_who_may_not_open_the_folder_may_not_read_its_files(
    tmp_path: Path, folder: int, file: int
) -> None:
    before = os.umask(0o022)
    try:
        tmp_path.chmod(folder)
        ObjectStore({"lake": tmp_path}).put("s3://lake/a/b.csv", b"x")
        (tmp_path / "staged").mkdir()
        (tmp_path / "staged/model.npy").write_bytes(b"x")
        durable.publish(tmp_path / "staged", tmp_path / "model")
    finally:
        os.umask(before)
    names = ("a", "a/b.csv", "model/model.npy")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in names]
    assert modes == [folder, file, file]
