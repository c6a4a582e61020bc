"""The export: files that any reader of CSV or JSON Lines understands, and no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrec_dagster.sinks import SinkError, SinkUnavailableError, export
from batchrec_dagster.sinks import sink as lists
from batchrec_dagster.sinks.export import ExportSink
from batchrec_dagster.sinks.sink import SinkContext, SinkCounts, SinkResult
from batchrec_dagster.storage.object_store import ObjectStore, StorageError
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.hostile import HOSTILE
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.sinks.support import (
    build_large_table,
    build_lists_table,
    build_mail_table,
    build_similar_items_table,
)

URI = "s3://bucket/exports/lists"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.sampled_from(
    [*FORMULAS, "a;=1+1;b", 'a;"=1', 'a|""-1', "a\n=1", "a,b", 'a"b', "a\nb", "'=1", "007", " x "]
)
STARTS = tuple("=+-@\uff1d\uff0b\uff0d")
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


def test_a_row_for_each_user_has_items_in_columns(tmp_path: Path) -> None:
    frame = build_lists_table({"1": [("a", "A, or B"), ("b", 'The "C"')], "2": [("c", "Ü")]})
    result = write(tmp_path, frame)
    assert read_rows(tmp_path) == [
        ["user_id", "item_1", "title_1", "item_2", "title_2"],
        ["1", "a", "A, or B", "b", 'The "C"'],
        ["2", "c", "Ü", "", ""],
    ]
    assert result.counts == SinkCounts(3, 2, 2)
    size = len(read_content(tmp_path))
    file = str(tmp_path / "exports/lists")
    assert result.facts == {"file": file, "lines": 2, "bytes": size, "formulas_escaped": 0}
    write(tmp_path, frame.drop("title").tail(1))
    assert read_content(tmp_path) == b'"user_id","item_1"\n"2","c"\n'


def test_in_an_experiment_a_row_has_its_users_arm(tmp_path: Path) -> None:
    frame = build_lists_table({"1": ["a", "b"]}, titles=False).with_columns(arm=pl.lit("control"))
    write(tmp_path, frame)
    assert read_rows(tmp_path) == [
        ["user_id", "arm", "item_1", "item_2"],
        ["1", "control", "a", "b"],
    ]
    write(tmp_path, frame, rows="per_item")
    assert read_rows(tmp_path)[1] == ["1", "1", "a", "0.5", "control"]
    write(tmp_path, frame, format="jsonl")
    (line,) = map(json.loads, read_content(tmp_path).splitlines())
    assert line["arm"] == "control"
    assert "arm" not in line["items"][0]


def test_similar_items_have_a_row_for_each_item(tmp_path: Path) -> None:
    write(tmp_path, build_similar_items_table())
    assert read_rows(tmp_path) == [
        ["item_id", "item_1", "title_1", "item_2", "title_2"],
        ["a", "b", "B", "c", ""],
        ["b", "a", "A", "", ""],
    ]


def test_a_row_for_each_item_is_as_in_the_table(tmp_path: Path) -> None:
    frame = build_lists_table({"1": [("a", "A"), "b"], "2": ["c"]})
    assert write(tmp_path, frame, rows="per_item").facts["lines"] == 3
    assert read_rows(tmp_path) == [
        ["user_id", "rank", "item_id", "title", "score"],
        ["1", "1", "a", "A", "0.5"],
        ["1", "2", "b", "", "0.25"],
        ["2", "1", "c", "", "0.5"],
    ]


def test_json_lines_hold_lists_or_rows(tmp_path: Path) -> None:
    frame = build_lists_table({"1": [("a", "=A"), "b"], "2": ["c"]})
    assert write(tmp_path, frame, format="jsonl").facts["lines"] == 2
    assert [json.loads(line) for line in read_content(tmp_path).splitlines()] == [
        {
            "user_id": "1",
            "items": [
                {"rank": 1, "item_id": "a", "title": "=A", "score": 0.5},
                {"rank": 2, "item_id": "b", "title": None, "score": 0.25},
            ],
        },
        {
            "user_id": "2",
            "items": [{"rank": 1, "item_id": "c", "title": None, "score": 0.5}],
        },
    ]
    assert write(tmp_path, frame, format="jsonl", rows="per_item").facts["lines"] == 3
    assert pl.read_ndjson(read_content(tmp_path)).equals(frame)


def test_columns_of_the_items_are_in_each_form_of_the_file(tmp_path: Path) -> None:
    frame = build_mail_table()
    write(tmp_path, frame)
    header, *rows = read_rows(tmp_path)
    fields = ["item", "title", "image", "price", "reason", "reason_item"]
    assert header == ["user_id", *(f"{field}_{place}" for place in (1, 2) for field in fields)]
    picture = "https://a.example/a.png"
    assert rows == [
        ["1", "a", "A", picture, "19.9", "because", "z", "b", "", "", "", "popular", ""],
        ["2", "c", "C", "", "5.0", *[""] * 8],
    ]
    write(tmp_path, frame, rows="per_item")
    header, *rows = read_rows(tmp_path)
    assert header == frame.columns
    assert rows[0] == ["1", "1", "a", "A", picture, "19.9", "because", "z", "0.5"]
    write(tmp_path, frame, format="jsonl", rows="per_item")
    assert pl.read_ndjson(read_content(tmp_path)).equals(frame)
    write(tmp_path, frame, format="jsonl")
    first_line = read_content(tmp_path).splitlines()[0]
    assert first_line.startswith(b'{"user_id":"1","items":[')
    item = json.loads(first_line)["items"][0]
    assert [*item.items()] == [
        ("rank", 1),
        ("item_id", "a"),
        ("title", "A"),
        ("image", picture),
        ("price", 19.9),
        ("reason", "because"),
        ("reason_item", "z"),
        ("score", 0.5),
    ]


@pytest.mark.parametrize("row_form", ["per_user", "per_item"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_nobody_to_recommend_to_leaves_an_empty_file(
    tmp_path: Path, form: str, row_form: str
) -> None:
    assert write(tmp_path, build_large_table(0), format=form, rows=row_form).facts["lines"] == 0
    assert read_content(tmp_path).count(b"\n") == (1 if form == "csv" else 0)


def test_users_are_whole_over_the_ends_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "BATCH_ROWS", 7)
    assert write(tmp_path, build_large_table(50).drop("title")).counts == (250, 50, 5)
    assert [row[0] for row in read_rows(tmp_path)[1:]] == [str(user) for user in range(50)]
    assert all(all(row) for row in read_rows(tmp_path))


def test_cells_that_begin_like_formulas_are_text(tmp_path: Path) -> None:
    frame = build_lists_table({"-7": [("+a", title) for title in FORMULAS] + [("x", "a = 1")]})
    result = write(tmp_path, frame, rows="per_item")
    users, _, items, titles, _ = zip(*read_rows(tmp_path)[1:], strict=True)
    after = {"\t=1": "'\t'=1", "\r=1": "'\r'=1", "\n=1": "'\n'=1"}
    assert list(titles) == [*(after.get(title, f"'{title}") for title in FORMULAS), "a = 1"]
    assert set(users) == {"'-7"}
    assert items == ("'+a",) * len(FORMULAS) + ("x",)
    assert result.facts["formulas_escaped"] == 3 * len(FORMULAS) + 1


def test_a_cell_that_ends_at_a_semicolon_elsewhere_is_text(tmp_path: Path) -> None:
    frame = build_lists_table({"1": [("a", "a;=1+1;b"), ("b", 'x;"@SUM(A1)'), ("c", "1; 2 - 3")]})
    assert write(tmp_path, frame).facts["formulas_escaped"] == 2
    assert read_rows(tmp_path)[1][2::2] == ["a;'=1+1;b", "x;\"'@SUM(A1)", "1; 2 - 3"]


@pytest.mark.slow
@pytest.mark.attack
@settings(max_examples=repeats(60, 15), deadline=None)
@example(wild=HOSTILE_LISTS, row_form="per_user")
@example(wild=HOSTILE_LISTS, row_form="per_item")
@given(wild=LISTS, row_form=st.sampled_from(["per_user", "per_item"]))
def test_whatever_the_text_is_it_comes_back_and_no_cell_begins_a_formula(
    tmp_path_factory: pytest.TempPathFactory,
    wild: dict[str, list[tuple[str, str | None]]],
    row_form: Literal["per_user", "per_item"],
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    frame = build_lists_table(wild)
    result = write(folder, frame, rows=row_form)
    text = read_content(folder).decode()
    _, *read = csv.reader(io.StringIO(text, newline=""))
    assert result.facts["lines"] == len(read)
    assert not [
        cell for row in read for cell in row if cell.startswith((*STARTS, "\t", "\r", "\n"))
    ]
    # As spreadsheets of some countries read it.
    for delimiter in ";|\t":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            assert not [cell for cell in row if cell.startswith(STARTS)]
    titles = set(frame.get_column("title").drop_nulls())
    titles |= {*frame.get_column("user_id"), *frame.get_column("item_id"), ""}
    titles = {text.replace("'", "") for text in titles}
    texts = [
        cell
        for row in read
        for n, cell in enumerate(row)
        if row_form == "per_user" or n in (0, 2, 3)
    ]
    assert {cell.replace("'", "") for cell in texts} <= titles


def test_lists_that_change_while_they_are_written_are_not_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, build_large_table(2))
    before = read_content(tmp_path)
    monkeypatch.setattr(lists, "count_lists", lambda _: SinkCounts(16, 3, 5))
    with pytest.raises(SinkUnavailableError, match=r"4 users were written .* there are 3 users"):
        write(tmp_path, build_large_table(4))
    with pytest.raises(SinkUnavailableError, match="3 users and 20 rows were written"):
        write(tmp_path, build_large_table(4), rows="per_item")
    assert read_content(tmp_path) == before


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "exports").write_text("a file where a folder should be")
    with pytest.raises(SinkError, match="cannot write s3://bucket/exports/lists") as error:
        write(tmp_path, build_large_table(1))
    assert isinstance(error.value.__cause__, StorageError)


def test_a_new_folder_can_be_read_as_the_umask_says(tmp_path: Path) -> None:
    storage = StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())
    context = SinkContext("shop", storage, tmp_path, {})
    tmp_path.chmod(0o755)
    before = os.umask(0o022)
    try:
        ExportSink(path="for-mailing/lists.csv").write(build_large_table(1).lazy(), context)
    finally:
        os.umask(before)
    target = tmp_path / "for-mailing/lists.csv"
    assert [path.stat().st_mode & 0o777 for path in (target.parent, target)] == [0o755, 0o644]


def test_what_arrives_in_part_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectStore, "head", lambda *_: None)
    with pytest.raises(SinkUnavailableError, match="but nothing is there"):
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
