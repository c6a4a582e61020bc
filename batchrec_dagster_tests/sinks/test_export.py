"""The export: files that any reader of CSV or JSON Lines understands, and no spreadsheet runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrec_dagster.errors import Retry
from batchrec_dagster.sinks import export
from batchrec_dagster.sinks import sink as lists
from batchrec_dagster.sinks.export import ExportSink
from batchrec_dagster.sinks.sink import SinkContext, SinkCounts, SinkResult
from batchrec_dagster.storage.connection import S3Connection, StorageResource
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.hostile import HOSTILE
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.sink_tables import (
    build_large_table,
    build_lists_table,
)

URI = "s3://bucket/exports/lists"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.sampled_from(
    [*FORMULAS, "a;=1+1;b", 'a;"=1', 'a|""-1', "a\n=1", "a,b", 'a"b', "a\nb", "'=1", "007", " x "]
)
HOSTILE_LISTS: dict[str, list[tuple[str, str | None]]] = {text: [(text, text)] for text in HOSTILE}
LISTS = st.dictionaries(TEXT, st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=3), max_size=4)


def write(folder: Path, frame: pl.DataFrame, **options: Any) -> SinkResult:
    return export.write_export(
        frame.lazy(), ExportSink(**options), ObjectStore({"bucket": folder}), URI
    )


def read_content(folder: Path) -> bytes:
    return (folder / "exports/lists").read_bytes()


def read_rows(folder: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(read_content(folder).decode(), newline="")))


def test_users_are_whole_over_the_ends_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "BATCH_ROWS", 7)
    assert write(tmp_path, build_large_table(50).drop("title")).counts == (250, 50, 5)
    assert [row[0] for row in read_rows(tmp_path)[1:]] == [str(user) for user in range(50)]
    assert all(all(row) for row in read_rows(tmp_path))


def test_lists_that_change_while_they_are_written_are_not_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, build_large_table(2))
    before = read_content(tmp_path)
    monkeypatch.setattr(lists, "count_lists", lambda _: SinkCounts(16, 3, 5))
    with pytest.raises(Retry, match=r"4 users were written .* there are 3 users"):
        write(tmp_path, build_large_table(4))
    with pytest.raises(Retry, match="3 users and 20 rows were written"):
        write(tmp_path, build_large_table(4), rows="per_item")
    assert read_content(tmp_path) == before


def test_what_arrives_in_part_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectStore, "head", lambda *_: None)
    with pytest.raises(Retry, match="but nothing is there"):
        write(tmp_path, build_large_table(1))


def open_export(folder: Path, **options: Any) -> tuple[ExportSink, SinkContext]:
    """The sink that writes into the folder, and what it knows."""
    sink = ExportSink(path=str(folder / "exports/lists"), **options)
    return sink, SinkContext("shop", StorageResource(root="", s3=S3Connection()), folder, {})


@pytest.mark.parametrize("rows", ["per_user", "per_item"])
@pytest.mark.parametrize("options", [{}, {"format": "jsonl"}])
@given(users=LISTS)
@example(users=HOSTILE_LISTS)
@settings(max_examples=repeats(50, 10))
def test_users_are_erased_and_the_bytes_of_the_others_stay(
    rows: Literal["per_user", "per_item"],
    options: dict[str, Any],
    users: dict[str, list[tuple[str, str | None]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("export")
    # So that the header stays, however long the lists of the others are.
    longest = max([3, *map(len, users.values())])
    others = {"somebody else": [("item", None)] * longest}
    sink, context = open_export(folder, rows=rows, **options)
    sink.write(build_lists_table({**users, **others}).lazy(), context)
    listed = {user for user, items in users.items() if items}
    assert sink.count_users(users.keys(), context) == len(listed)
    assert sink.erase_users(users.keys(), context) == len(listed)
    after = read_content(folder)
    sink.write(build_lists_table(others).lazy(), context)
    assert after == read_content(folder)


def test_nobody_is_in_an_export_that_is_missing(tmp_path: Path) -> None:
    sink, context = open_export(tmp_path)
    assert sink.count_users(["1"], context) == sink.erase_users(["1"], context) == 0
