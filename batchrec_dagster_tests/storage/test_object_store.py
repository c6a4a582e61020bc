"""URIs, and objects in a folder; tests on a real S3 server are in test_s3.py."""

from __future__ import annotations

import os
import shutil
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

from batchrec_dagster.storage import durable
from batchrec_dagster.storage.object_store import (
    MAX_PARTS,
    ObjectNotFoundError,
    ObjectStore,
    StorageError,
    choose_part_size,
    split_uri,
)
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import assert_etags_are_given


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore({"local": tmp_path / "folder"})


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "storage"
    with pytest.raises(StorageError, match=f"^cannot make the folder {folder}: Not a directory"):
        ObjectStore({"local": folder}).put("s3://local/a", b"x")
    kernel = Path("/sys/kernel")  # nobody may write there
    with pytest.raises(StorageError, match=f"^cannot write {kernel}/a: permission denied; let"):
        ObjectStore({"local": kernel}).put("s3://local/a", b"x")


def test_what_is_put_can_be_read_listed_and_deleted(store: ObjectStore) -> None:
    store.put("s3://local/a/ü b.csv", b"x,y\n")
    assert store.get("s3://local/a/ü b.csv") == b"x,y\n"
    info = store.head("s3://local/a/ü b.csv")
    assert info is not None
    assert info.size == 4
    assert store.list("s3://local/a/") == [info]
    store.delete("s3://local/a/ü b.csv")
    store.delete("s3://local/a/ü b.csv")
    assert store.head("s3://local/a/ü b.csv") is None
    with pytest.raises(ObjectNotFoundError, match=r"cannot read s3://local/a/ü b\.csv"):
        store.get("s3://local/a/ü b.csv")


@pytest.mark.parametrize("request_name", ["head", "get"])
def test_a_read_whose_connection_is_cut_is_repeated(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, request_name: str
) -> None:
    store.put("s3://local/a", b"four")
    send = getattr(obstore, request_name)
    cut = GenericError("Generic S3 error: HTTP error: error sending request")
    answers = iter([cut, cut])

    def send_when_whole(*arguments: object, **options: object) -> object:
        for error in answers:
            raise error
        return send(*arguments, **options)

    monkeypatch.setattr(obstore, request_name, send_when_whole)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if request_name == "head":
        info = store.head("s3://local/a")
        assert info is not None
        assert info.size == 4
    else:
        assert store.get("s3://local/a") == b"four"
    assert next(answers, None) is None

    refused = GenericError("the server is out of order")
    monkeypatch.setattr(obstore, request_name, Mock(side_effect=refused))
    with pytest.raises(StorageError, match="the server is out of order"):
        getattr(store, request_name)("s3://local/a")


def test_files_and_pieces_can_be_put_too(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789" * 1_000_000)
    store.put("s3://local/file", file)
    store.put("s3://local/pieces", (b"0123456789" * 1000 for _ in range(1000)))
    assert b"".join(store.chunks("s3://local/file")) == file.read_bytes()
    assert store.get("s3://local/pieces") == file.read_bytes()


@given(st.integers(0, 5 * 1024**4))
def test_s3_takes_the_parts_of_an_object_of_any_size(size: int) -> None:
    part = choose_part_size(size)
    assert 5 * 1024**2 <= part <= 5 * 1024**3
    assert -(-size // part) <= MAX_PARTS


def test_what_is_written_is_known_by_its_etag(store: ObjectStore, tmp_path: Path) -> None:
    assert_etags_are_given(store, tmp_path, "s3://local")


def test_a_put_that_breaks_off_leaves_the_old_object(store: ObjectStore) -> None:
    def break_off() -> object:
        yield b"new" * 10_000_000
        raise OSError("the source is gone")

    store.put("s3://local/a", b"old")
    with pytest.raises(StorageError, match="the source is gone"):
        store.put("s3://local/a", break_off())  # type: ignore[arg-type]
    assert store.get("s3://local/a") == b"old"
    assert [info.uri for info in store.list("s3://local/")] == ["s3://local/a"]


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


def test_a_listing_goes_by_prefix_to_the_letter(store: ObjectStore) -> None:
    for key in ("folder/1", "folder_test/2", "other/3"):
        store.put(f"s3://local/{key}", b"")
    assert [info.uri for info in store.list("s3://local/folder")] == [
        "s3://local/folder/1",
        "s3://local/folder_test/2",
    ]
    assert [info.uri for info in store.list("s3://local/folder/")] == ["s3://local/folder/1"]


@pytest.mark.parametrize(
    "uri",
    ["", "local/a", "http://local/a", "s3://", "s3:///a", "s3://local/../a", "s3://local/a/./b",
     "s3://local//etc/passwd", "s3://local/a//b", "s3://local//", "s3://local/a//",
     "s3://local/a\\b", "s3://local/a\0b", "s3://../a"],
)  # fmt: skip
def test_what_is_no_storage_uri_is_refused(uri: str) -> None:
    with pytest.raises(StorageError):
        split_uri(uri)


def test_an_empty_part_leads_out_of_no_bucket(store: ObjectStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    uri = f"s3://local/{secret}"
    with pytest.raises(StorageError, match="has an empty part: write one slash"):
        store.local_path(uri)
    for attempt in (store.get, store.open, store.head, store.delete, store.list):
        with pytest.raises(StorageError, match="has an empty part"):
            attempt(uri)
    with pytest.raises(StorageError, match="has an empty part"):
        store.put(uri, b"changed")
    with pytest.raises(StorageError, match="has an empty part"):
        ObjectStore().get("s3://bucket//etc/passwd")
    assert secret.read_text() == "secret"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_key_leaves_its_folder(key: str) -> None:
    try:
        bucket, key_inside = split_uri(f"s3://local/{key}")
    except StorageError:
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
    store = StorageResource(root=str(tmp_path), s3=S3Connection()).store
    store.put("s3://batchrec-local/a", b"1")
    assert store.get("s3://batchrec-local/a") == b"1"
    with pytest.raises(ObjectNotFoundError):
        store.get("s3://batchrec-local/b")


def test_without_credentials_a_bucket_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda self: None)
    with pytest.raises(StorageError, match="no AWS credentials found for s3://shop: set AWS_PRO"):
        ObjectStore({}, partial(boto3.Session, region_name="eu-west-1")).get("s3://shop/a")


def test_a_part_of_an_object_and_the_folders_in_a_folder(store: ObjectStore) -> None:
    store.put("s3://local/a/one", b"0123456789")
    store.put("s3://local/a/b/two", b"")
    info = store.head("s3://local/a/one")
    assert info is not None
    assert store.read_range("s3://local/a/one", 2, 3, info.etag) == b"234"
    store.put("s3://local/a/one", b"another")
    with pytest.raises(StorageError, match="s3://local/a/one"):
        store.read_range("s3://local/a/one", 2, 3, info.etag)
    assert store.subfolders("s3://local/") == ("a",)
    assert store.subfolders("s3://local/a/") == ("b",)
    assert store.subfolders("s3://local/a/b/") == ()


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets the umask, which is the usual one until a test sets another."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def read_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.attack
def test_a_storage_that_is_new_can_be_read_by_its_user_alone(
    tmp_path: Path, umask: Callable[[int], int]
) -> None:
    root = tmp_path / "srv/storage"
    store = ObjectStore({"lake": root})
    assert store.list("s3://lake/") == []
    for _ in range(2):
        store.put("s3://lake/raw/ratings.csv", b"ana bought a test")
        store.create("s3://lake/lease", b"x")
        store.copy("s3://lake/raw/ratings.csv", "s3://lake/curated/ratings.csv")
        folders = (root.parent, root, root / "raw", root / "curated")
        assert {read_mode(path) for path in folders} == {0o700}
        assert {read_mode(path) for path in root.rglob("*") if path.is_file()} == {0o600}
        shutil.rmtree(root.parent)  # Somebody starts over while this process lives.
        store.put("s3://lake/first", b"x")


def test_a_storage_that_a_team_shares_stays_shared(
    tmp_path: Path, umask: Callable[[int], int]
) -> None:
    umask(0o007)
    root = tmp_path / "storage"
    root.mkdir()
    root.chmod(0o770)
    store = ObjectStore({"lake": root})
    store.put("s3://lake/raw/ratings.csv", b"ana bought a test")
    assert [read_mode(root), read_mode(root / "raw"), read_mode(root / "raw/ratings.csv")] == [
        0o770,
        0o770,
        0o660,
    ]


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
