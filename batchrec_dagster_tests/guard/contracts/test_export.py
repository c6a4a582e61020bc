"""Tests of exported lists, which any reader of CSV or JSON Lines reads, and no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.faults.crashes import crash_at_each_write
from batchrec_dagster_tests.guard.hostile import HOSTILE
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.publishing import Sink, SinkFailedError
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.sink_tables import (
    build_large_table,
    build_lists_table,
    build_mail_table,
    build_similar_items_table,
)

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1"]
TITLES = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8
) | st.sampled_from(
    [*FORMULAS, "a;=1+1;b", 'a;"=1', 'a|""-1', "a\n=1", "a,b", 'a"b', "a\nb", "'=1", "007", " x "]
)
STARTS = tuple("=+-@\uff1d\uff0b\uff0d")


def write(folder: Path, lists: pl.DataFrame, **settings: Any) -> str:
    """Export the lists, and return the file's content."""
    path = folder / "out/lists"
    block = {"path": str(path), **settings}
    Sink("export", block, Store.open(folder / "storage"), project=folder).write(lists)
    return path.read_bytes().decode()


def read_csv(text: str, delimiter: str = ",") -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def test_a_row_for_each_user_has_items_in_columns(tmp_path: Path) -> None:
    lists = build_lists_table({"1": [("a", "A, or B"), ("b", 'The "C"')], "2": [("c", "Ü")]})
    assert read_csv(write(tmp_path, lists)) == [
        ["user_id", "item_1", "title_1", "item_2", "title_2"],
        ["1", "a", "A, or B", "b", 'The "C"'],
        ["2", "c", "Ü", "", ""],
    ]


def test_similar_items_have_a_row_for_each_item(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, build_similar_items_table())) == [
        ["item_id", "item_1", "title_1", "item_2", "title_2"],
        ["a", "b", "B", "c", ""],
        ["b", "a", "A", "", ""],
    ]


def test_in_an_experiment_a_row_has_its_users_arm(tmp_path: Path) -> None:
    lists = build_lists_table({"1": ["a", "b"]}, titles=False).with_columns(arm=pl.lit("control"))
    assert read_csv(write(tmp_path, lists)) == [
        ["user_id", "arm", "item_1", "item_2"],
        ["1", "control", "a", "b"],
    ]
    (line,) = map(json.loads, write(tmp_path, lists, format="jsonl").splitlines())
    assert line["arm"] == "control"


def test_a_row_for_each_item_is_as_in_the_table(tmp_path: Path) -> None:
    lists = build_lists_table({"1": [("a", "A"), "b"], "2": ["c"]})
    assert read_csv(write(tmp_path, lists, rows="per_item")) == [
        ["user_id", "rank", "item_id", "title", "score"],
        ["1", "1", "a", "A", "0.5"],
        ["1", "2", "b", "", "0.25"],
        ["2", "1", "c", "", "0.5"],
    ]


def test_json_lines_hold_lists_or_rows(tmp_path: Path) -> None:
    lists = build_lists_table({"1": [("a", "=A"), "b"], "2": ["c"]})
    lines = write(tmp_path, lists, format="jsonl").splitlines()
    assert [json.loads(line) for line in lines] == [
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
    rows = write(tmp_path, lists, format="jsonl", rows="per_item")
    assert pl.read_ndjson(rows.encode()).equals(lists)


def test_columns_of_the_items_are_in_each_form_of_the_file(tmp_path: Path) -> None:
    mail = build_mail_table().drop("reason_item")
    header, *rows = read_csv(write(tmp_path, mail))
    fields = ["item", "title", "image", "price", "reason"]
    assert header == ["user_id", *(f"{field}_{rank}" for rank in (1, 2) for field in fields)]
    picture = "https://a.example/a.png"
    assert rows == [
        ["1", "a", "A", picture, "19.9", "because", "b", "", "", "", "popular"],
        ["2", "c", "C", "", "5.0", *[""] * 6],
    ]
    header, *rows = read_csv(write(tmp_path, mail, rows="per_item"))
    assert header == mail.columns
    assert rows[0] == ["1", "1", "a", "A", picture, "19.9", "because", "0.5"]
    rows_text = write(tmp_path, mail, format="jsonl", rows="per_item")
    assert pl.read_ndjson(rows_text.encode()).equals(mail)
    item = json.loads(write(tmp_path, mail, format="jsonl").splitlines()[0])["items"][0]
    assert (item["image"], item["price"], item["reason"]) == (picture, 19.9, "because")


@pytest.mark.parametrize("rows", ["per_user", "per_item"])
@pytest.mark.parametrize(("form", "lines"), [("csv", 1), ("jsonl", 0)])
def test_nobody_to_recommend_to_leaves_a_file_without_rows(
    tmp_path: Path, form: str, lines: int, rows: str
) -> None:
    text = write(tmp_path, build_large_table(0), format=form, rows=rows)
    assert len(text.splitlines()) == lines


def test_titles_that_begin_like_formulas_are_text(tmp_path: Path) -> None:
    lists = build_lists_table({"7": [("a", title) for title in FORMULAS] + [("x", "a = 1")]})
    rows = read_csv(write(tmp_path, lists, rows="per_item"))[1:]
    titles = [row[3] for row in rows]
    assert [title.replace("'", "") for title in titles] == [*FORMULAS, "a = 1"]
    assert not [title for title in titles if title.startswith((*STARTS, "\t", "\r", "\n"))]
    assert titles[-1] == "a = 1"


@pytest.mark.parametrize("rows", ["per_user", "per_item"])
def test_ids_that_begin_like_formulas_stay_as_they_are(tmp_path: Path, rows: str) -> None:
    ids = ["=1+1", "+1", "-1", "@SUM(A1)", "\uff1d1"]
    lists = build_lists_table({user: [(f"{user}0", user)] for user in ids})
    _, *lines = read_csv(write(tmp_path, lists, rows=rows))
    columns = (0, 1) if rows == "per_user" else (0, 2)
    assert [tuple(line[column] for column in columns) for line in lines] == [
        (user, f"{user}0") for user in ids
    ]
    assert {line[columns[1] + 1] for line in lines} == {f"'{user}" for user in ids}


def test_a_check_makes_no_folder(tmp_path: Path) -> None:
    sink = Sink("export", {"path": "new/lists.csv"}, Store.open(tmp_path / "s"), project=tmp_path)
    assert sink.check() is None
    assert not [*tmp_path.iterdir()]


@pytest.mark.attack
@settings(max_examples=repeats(60, 15))
@example(titles=[*HOSTILE], rows="per_user")
@example(titles=[*HOSTILE], rows="per_item")
@given(titles=st.lists(TITLES, max_size=6), rows=st.sampled_from(["per_user", "per_item"]))
def test_whatever_a_title_is_it_comes_back_and_begins_no_formula(
    titles: list[str], rows: Literal["per_user", "per_item"]
) -> None:
    lists = build_lists_table({"1": [("item", title) for title in titles], "2": ["other"]})
    with TemporaryDirectory() as folder:
        text = write(Path(folder), lists, rows=rows)
    table = read_csv(text)[1:]
    cells = (
        [row[3] for row in table[:-1]] if rows == "per_item" else table[0][2::2] if titles else []
    )
    assert [cell.replace("'", "") for cell in cells] == [title.replace("'", "") for title in titles]
    assert not [cell for cell in cells if cell.startswith((*STARTS, "\t", "\r", "\n"))]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_others_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with umask(0o022):
        write(tmp_path, build_large_table(1))
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("out", "out/lists")]
    assert modes == [0o755, 0o644]


def test_readers_find_the_old_file_or_the_new_wherever_the_process_ends(tmp_path: Path) -> None:
    old, new = build_large_table(3), build_large_table(50)
    old_text = write(tmp_path, old)
    crashes = crash_at_each_write(lambda: write(tmp_path, new), tmp_path)
    seen = [(tmp_path / "out/lists").read_text() for _ in crashes]
    new_text = (tmp_path / "out/lists").read_text()
    assert new_text.count("\n") == 51
    assert {*seen} <= {old_text, new_text}
    assert old_text in seen


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(SinkFailedError, match="cannot"):
        write(tmp_path, build_large_table(1))
