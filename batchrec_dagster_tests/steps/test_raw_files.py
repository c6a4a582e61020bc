"""The record of raw files reads what earlier runs wrote, and copies are what it says."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.steps.raw_files import (
    FileRecord,
    RawFiles,
    RawRecord,
    bring_raw_files,
    open_raw_files,
)
from batchrec_dagster.storage.connection import S3Connection, StorageResource
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectStore
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

COPIED = {
    "source": "orders/*.csv",
    "version": "0123456789abcdef",
    "files": [
        {
            "source": "orders/a.csv",
            "uri": "s3://lake/shop/raw/a.csv",
            "fingerprint": "10 bytes, 20 ns",
            "size": 10,
            "sha256": "0123456789abcdef" * 4,
        }
    ],
}


def test_a_record_is_written_as_it_was_read() -> None:
    assert RawRecord.from_json(COPIED).to_json() == COPIED


def test_without_a_record_there_are_no_files() -> None:
    assert RawRecord.from_json({}).files == ()


def test_the_version_changes_with_any_file() -> None:
    first, second = (FileRecord("a.csv", "s3://lake/a.csv", "1", 3, sha) for sha in ("1a", "2b"))
    records = [RawRecord("a", files) for files in [(first,), (second,), (first, first)]]
    assert len({record.version for record in records}) == 3


@contextmanager
def raw_files(folder: Path) -> Iterator[tuple[RawFiles, StorageResource]]:
    storage = StorageResource(root=str(folder / "storage"), s3=S3Connection())
    record, source = "shop/r.json", parse_source("orders/")
    with bring_raw_files(source, storage, folder, record=record, place="shop/raw/{}".format) as raw:
        yield raw, storage


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    folder = tmp_path / "orders"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.csv").write_text("1,2\n")
    return folder


def test_a_source_that_grows_during_the_copy_is_said_to(
    orders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ObjectStore.put

    def grow_and_put(store: ObjectStore, uri: str, data: object) -> str:
        for name in "ab":
            with (orders / f"{name}.csv").open("a") as file:
                file.write("3,4\n")
        return put(store, uri, data)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "put", grow_and_put)
    with raw_files(tmp_path) as (raw, _):
        message = "copied, as they were at the start: orders/a.csv and 1 more changed since"
        assert raw.outcome.replace(f"{tmp_path}/", "") == message
        assert [file.size for file in raw.record.files] == [4, 4, 4]
        assert all(file.fingerprint.startswith("4 bytes") for file in raw.record.files)


@pytest.fixture(params=["folder", "bucket"])
def copied(
    request: pytest.FixtureRequest, orders: Path, tmp_path: Path
) -> tuple[StorageResource, RawRecord]:
    """The storage with copies of the orders, and their record."""
    storage = StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())
    if request.param == "bucket":
        s3: S3Server = request.getfixturevalue("s3")
        storage = StorageResource(
            root=f"s3://{s3.create_bucket()}",
            s3=S3Connection(
                endpoint_url=s3.endpoint,
                region_name=REGION,
                aws_access_key_id=OWNER.access,
                aws_secret_access_key=OWNER.secret,
            ),
        )
    raw = bring_again(storage, tmp_path)
    assert raw.copied == 3
    return storage, raw.record


def bring_again(storage: StorageResource, folder: Path) -> RawFiles:
    """What a run brings, and records for the next."""
    record, source = "shop/r.json", parse_source("orders/")
    with bring_raw_files(source, storage, folder, record=record, place="shop/raw/{}".format) as raw:
        content = json.dumps(raw.record.to_json()).encode()
        storage.store.put(storage.uri(record), content)
    return raw


def damage_copy(storage: StorageResource, record: RawRecord) -> str:
    """Replace the second copy by other data of its length and its time. Returns where it is."""
    uri = record.files[1].uri
    path = storage.store.local_path(uri)
    if path is None:
        storage.store.put(uri, b"1,3\n")
    else:
        times = path.stat()
        path.write_text("1,3\n")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return storage.where(uri)


def test_a_copy_of_other_content_is_named_and_made_again(
    copied: tuple[StorageResource, RawRecord], tmp_path: Path
) -> None:
    storage, record = copied
    place = damage_copy(storage, record)
    raw = bring_again(storage, tmp_path)
    assert raw.outcome == f"copied 1 of 3; {place} had another content than recorded"
    assert raw.unchanged_version is None
    assert raw.record.version == record.version
    with open_raw_files(raw.record, storage) as files:
        # Messages name the source's file, because nobody can correct a row in its copy.
        assert [file.name for file in files] == [file.source for file in raw.record.files]
        assert not any("raw/" in file.name for file in files)
        assert [file.path.read_text() for file in files] == ["1,2\n"] * 3
    raw = bring_again(storage, tmp_path)
    assert raw.outcome == "unchanged: not copied again"
    assert raw.unchanged_version == record.version


def test_a_copy_of_other_content_is_not_read(
    copied: tuple[StorageResource, RawRecord], tmp_path: Path
) -> None:
    storage, record = copied
    place = damage_copy(storage, record)
    with (
        pytest.raises(DamagedObjectError) as refusal,
        open_raw_files(record, storage),
    ):
        pass
    assert str(refusal.value) == (
        f"{place} is damaged (its content differs from the one that was copied): run the refresh,"
        " which copies it again"
    )


def test_a_copy_in_s3_with_the_recorded_etag_is_not_read(
    copied: tuple[StorageResource, RawRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, record = copied
    uris_read = []
    chunks = ObjectStore.chunks

    def note_and_read(store: ObjectStore, uri: str, etag: str | None = None) -> Iterator[bytes]:
        uris_read.append(uri)
        return chunks(store, uri, etag)

    monkeypatch.setattr(ObjectStore, "chunks", note_and_read)
    assert bring_again(storage, tmp_path).unchanged_version == record.version
    assert uris_read == ([] if storage.in_s3 else [file.uri for file in record.files])
