"""The record of raw files reads what earlier runs wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.steps.raw_files import (
    FileRecord,
    RawFiles,
    RawRecord,
    bring_raw_files,
    open_raw_files,
)
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.resource import S3Connection, StorageResource

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
    "columns": {"user": "userId"},
}
IN_PLACE = {
    "source": "a.csv",
    "files": [{"source": "a.csv", "uri": None, "fingerprint": "10 bytes, 20 ns"}],
}


def test_a_record_is_written_as_it_was_read() -> None:
    for record in (COPIED, IN_PLACE):
        read = RawRecord.from_json(record)
        assert {**read.to_json(), "version": None} == {**record, "version": None}
    assert RawRecord.from_json(COPIED).version == COPIED["version"]


def test_without_a_record_there_are_no_files() -> None:
    assert RawRecord.from_json({}).files == ()


def test_the_version_changes_with_any_file() -> None:
    first_record = FileRecord("a.csv", None, "1")
    records = [
        RawRecord("a", files)
        for files in [
            (first_record,),
            (FileRecord("a.csv", None, "2"),),
            (first_record, first_record),
        ]
    ]
    assert len({record.version for record in records}) == 3


@contextmanager
def raw_files(folder: Path, *, copy: bool) -> Iterator[tuple[RawFiles, StorageResource]]:
    storage = StorageResource(root=str(folder / "storage"), s3=S3Connection())
    place = "shop/raw/{}".format if copy else None
    source = parse_source("orders/")
    with bring_raw_files(source, storage, folder, record="shop/r.json", place=place) as raw:
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
    with raw_files(tmp_path, copy=True) as (raw, _):
        message = "copied, as they were at the start: orders/a.csv and 1 more changed since"
        assert raw.outcome.replace(f"{tmp_path}/", "") == message
        assert [file.size for file in raw.record.files] == [4, 4, 4]
        assert all(file.fingerprint.startswith("4 bytes") for file in raw.record.files)


@pytest.mark.parametrize("change", ["before", "while", "gone", "more"])
def test_what_is_read_in_place_is_the_recorded_files_or_refused(
    orders: Path, tmp_path: Path, change: str
) -> None:
    source, file = parse_source("orders/"), orders / "b.csv"
    with raw_files(tmp_path, copy=False) as (raw, storage):
        pass
    with open_raw_files(raw.record, source, storage, tmp_path) as files:
        assert [file.path.read_text() for file in files] == ["1,2\n"] * 3
    if change == "before":
        file.write_text("1,2\n3,4\n")
    elif change == "gone":
        file.unlink()
    elif change == "more":
        file = orders / "d.csv"
        file.write_text("1,2\n")
    message = f"{file} is read in place, and changed after .* materialize raw_ratings again"
    opened_files = []

    def read() -> None:
        with open_raw_files(raw.record, source, storage, tmp_path) as files:
            opened_files.extend(files)
            file.write_text("1,2\n3,4\n")

    with pytest.raises(SourceError, match=message):
        read()
    assert bool(opened_files) is (change == "while")
