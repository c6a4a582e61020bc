"""A table is replaced whole, and what it replaces is kept: in a folder and in a bucket alike."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from batchrec_dagster.storage.editions import Edition, PublishedTable, TableWriter, read_footer
from batchrec_dagster.storage.objects import (
    ObjectNotFoundError,
    ObjectStore,
)
from batchrec_dagster_tests.guard.editions import make_edition
from batchrec_dagster_tests.guard.servers.s3 import S3Server

TABLE = "shop/curated/lists/lists.parquet"
HISTORY = "shop/curated/history/lists/"
KEEP = 3


@pytest.fixture(params=["folder", "bucket"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> PublishedTable:
    if request.param == "folder":
        return open_table(tmp_path)
    s3: S3Server = request.getfixturevalue("s3")
    return PublishedTable(s3.store(), f"s3://{s3.create_bucket()}/{TABLE}")


def open_table(folder: Path) -> PublishedTable:
    return PublishedTable(ObjectStore({"lake": folder / "lake"}), f"s3://lake/{TABLE}")


def publish(table: PublishedTable, folder: Path, version: str) -> Edition:
    """Publish the next edition: 30 rows that say their version, written in three pieces."""
    with TableWriter(folder / f"{version}.parquet") as writer:
        for start in (0, 10, 20):
            rows = {"version": [version] * 10, "row": list(range(start, start + 10))}
            writer.write(pa.table(rows))
        writer.finish(make_edition({"number": table.next_number(), "version": version}))
    return table.publish(writer.path, KEEP)


def find_version(table: PublishedTable) -> str:
    """The version of what is published, all of which is there."""
    edition, frame = table.read()
    assert edition == table.current()
    assert frame.collect().get_column("row").to_list() == list(range(30))
    (version,) = frame.collect().get_column("version").unique()
    assert edition.version == version
    return str(version)


def list_older_versions(table: PublishedTable) -> list[str]:
    return [edition.name for edition in table.older()]


def list_keys(table: PublishedTable) -> set[str]:
    root = table.uri.removesuffix(TABLE)
    return {info.uri.removeprefix(root) for info in table.store.list(root)}


def test_before_the_first_there_is_nothing(table: PublishedTable) -> None:
    assert table.current() is None
    assert table.older() == []
    assert table.next_number() == 1
    with pytest.raises(ObjectNotFoundError, match=TABLE):
        table.read()


def test_the_companions_of_an_edition_go_with_it(table: PublishedTable, tmp_path: Path) -> None:
    folder = f"{table.uri.removesuffix(TABLE)}shop/companions/"
    table = replace(table, companions=folder)
    for version in ("killed", *"abcde"):
        table.store.put(f"{folder}{version}.parquet", b"")
        if version != "killed":
            publish(table, tmp_path, version)
    companions = {info.uri.removeprefix(folder) for info in table.store.list(folder)}
    assert companions == {f"{version}.parquet" for version in "bcde"}


def test_one_path_has_the_newest_and_says_what_it_is(table: PublishedTable, tmp_path: Path) -> None:
    for version in "abcde":
        publish(table, tmp_path, version)
    assert find_version(table) == "e"
    footer = read_footer(io.BytesIO(table.store.get(table.uri)))
    assert footer == make_edition({"number": 5, "version": "e"})
    versions_kept = ["000004-d", "000003-c", "000002-b"]
    assert list_older_versions(table) == versions_kept
    assert list_keys(table) == {TABLE, *(f"{HISTORY}{name}.parquet" for name in versions_kept)}


def test_what_is_published_already_replaces_nothing(table: PublishedTable, tmp_path: Path) -> None:
    first = publish(table, tmp_path, "a")
    assert publish(table, tmp_path, "a") == first
    assert list_older_versions(table) == []
    assert table.next_number() == 2


def test_an_older_one_is_put_back_and_what_it_replaces_kept(
    table: PublishedTable, tmp_path: Path
) -> None:
    for version in "abc":
        publish(table, tmp_path, version)
    before = table.store.get(f"{table.history}000001-a.parquet")
    table.put_back(table.older()[-1], KEEP)
    assert find_version(table) == "a"
    assert table.store.get(table.uri) == before
    assert list_older_versions(table) == ["000003-c", "000002-b"]
    # The next has a number of its own, and what it replaces stays although others are newer.
    assert publish(table, tmp_path, "d").name == "000004-d"
    assert list_older_versions(table) == ["000003-c", "000002-b", "000001-a"]
    for version in "efg":
        publish(table, tmp_path, version)
    table.put_back(table.older()[-1], KEEP)
    publish(table, tmp_path, "h")
    publish(table, tmp_path, "i")
    assert list_older_versions(table) == ["000008-h", "000007-g", "000006-f"]


def test_what_is_being_read_stays_as_it_is(table: PublishedTable, tmp_path: Path) -> None:
    publish(table, tmp_path, "a")
    _, frame = table.read()
    for version in "bc":
        publish(table, tmp_path, version)
    rows = frame.collect(engine="streaming")
    assert rows.get_column("version").to_list() == ["a"] * 30


def test_a_long_footer_is_read_too(table: PublishedTable, tmp_path: Path) -> None:
    with TableWriter(tmp_path / "long.parquet") as writer:
        for row in range(500):
            writer.write(pa.table({"row": [row], "text": ["x" * 100]}))
        writer.finish(make_edition({"settings": {"long": "x" * 100_000}}))
    table.publish(writer.path, KEEP)
    current = table.current()
    assert current is not None
    assert len(current.settings["long"]) == 100_000
