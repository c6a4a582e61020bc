"""Which line names the columns: declared, or as the first lines show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from batchrec_dagster.config import Pipeline
from batchrec_dagster.preparation.csv_form import find_header, names_columns
from batchrec_dagster.preparation.items import ItemsLayout, parse_items
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.user_attributes import UsersLayout, parse_user_attributes
from batchrec_dagster.preparation.users import read_users
from batchrec_dagster_tests.preparation.own_data import prepare_interactions

POSITIONS = {"user": 1, "item": 2, "timestamp": 3}
ROWS = "u1;i1;1500000000\nu2;i2;1500000001\n"
NAMED = f"user;item;time\n{ROWS}"
WIDE = "user;item;time;item;note;note\nu1;i1;1500000000;x;;\nu2;i2;1500000001;x;a;b\n"
EXPECTED = ["u1,i1,1500000000,rating", "u2,i2,1500000001,rating"]
REPORT = 'Orders "of May\n\nby;Ann;on;Monday\n# checked\n'


def prepare(folder: Path, text: str, **settings: Any) -> list[str]:
    (folder / "orders.csv").write_text(text)
    return prepare_interactions(folder, {"ratings": {"source": "orders.csv", **settings}})[0]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (NAMED, {"header": 1}),
        (REPORT + NAMED, {"header": 5}),
        (REPORT + NAMED.replace(";", "::"), {"header": 5}),
        (REPORT + NAMED, {"header": 5, "columns": POSITIONS}),
        (REPORT + ROWS, {"header": 4, "columns": POSITIONS}),
        (REPORT + ROWS.replace(";", "::"), {"header": 4, "columns": POSITIONS}),
        (ROWS, {"header": "none", "columns": POSITIONS}),
        (f"sep=;\n{NAMED}", {}),
        (f"sep=;\r\n{NAMED}", {"columns": {"item": "item"}}),
        (f"\ufeffSEP=;\n{ROWS}", {"columns": POSITIONS}),
        (WIDE, {"header": 1, "columns": POSITIONS}),
        (WIDE.replace("x", "").replace("time;item", "time;other"), {}),
    ],
)
def test_lines_before_the_rows_are_left_out(
    tmp_path: Path, text: str, settings: dict[str, Any]
) -> None:
    assert prepare(tmp_path, text, **settings) == EXPECTED


def test_messages_count_lines_from_the_start_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"^orders\.csv, line 7: no user"):
        prepare(tmp_path, REPORT + NAMED.replace("u2", ""), header=5)
    with pytest.raises(PreparationError, match=r"^orders\.csv, line 6: a field that starts with"):
        prepare(tmp_path, REPORT + NAMED.replace("u1", '"u1'), header=5)
    with pytest.raises(PreparationError, match="has nothing in line 2, where by its header"):
        prepare(tmp_path, REPORT + NAMED, header=2)


def test_positions_in_a_file_with_names_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(NAMED)
    for header, count in ((None, 1), (1, 0)):
        reading = ReadSettings(columns=POSITIONS, header=header)
        with open_ratings([RawFile(path, path.name)], reading, Rules("skip")) as read:
            warnings = read.recognised_layout.warnings
            assert read.inspect_rows().bad.total == count
        assert len(warnings) == count
        assert all("(user;item;time): set ratings.header: 1" in warning for warning in warnings)


def test_the_rows_of_a_workbook_are_counted_as_people_see_them(tmp_path: Path) -> None:
    book = xlsxwriter.Workbook(tmp_path / "orders.xlsx")
    sheet = book.add_worksheet()
    for number, line in enumerate(["Report", "", *NAMED.splitlines()], 2):
        sheet.write_row(number, 0, line.split(";"))
    book.close()
    ratings: dict[str, Any] = {"source": "orders.xlsx"}
    with pytest.raises(PreparationError, match=r"may \(user, item, time\): set ratings.header: 5"):
        prepare_interactions(tmp_path, {"ratings": ratings})
    lines, _ = prepare_interactions(tmp_path, {"ratings": {**ratings, "header": 5}})
    assert lines == EXPECTED


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            REPORT + NAMED,
            {},
            "line 1 does not name the columns, but line 5 may (user, item, time): set"
            " ratings.header: 5",
        ),
        ("who;what\nu1;i1\nu1;i2\n", {}, "could not recognise the user and item"),
        (
            "u1;i1;a\nu1;i2;b\n",
            {},
            "no names in line 1: set ratings.columns by position",
        ),
        (
            WIDE,
            {"columns": {"user": "user", "item": "item", "timestamp": "time"}},
            "has several columns 'item' (ratings.columns.item)",
        ),
        ('{"user": 1}', {"header": 1}, "is json, whose columns have names: omit header"),
        (NAMED, {"header": "none"}, "give columns by position"),
        (NAMED, {"header": 0}, "lines count from 1"),
        (NAMED, {"header": {"source": 1}}, "name the tables that source names"),
    ],
)
def test_what_is_not_a_header_is_refused(
    tmp_path: Path, text: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((PreparationError, ValueError)) as error:
        prepare(tmp_path, text, **settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (NAMED, None),
        (REPORT + NAMED, 5),
        ("a;b\nc\n" + NAMED.replace("user", "who").replace("item", "what"), 3),
        ("# a comment\nwho;what\na;b\nc;d\n", 2),
        ("just text\nand more\n", None),
        (REPORT + ROWS + ROWS, None),
        ("a,b\nc,d\ne\n", None),
    ],
)
def test_the_header_is_found_below_other_lines(tmp_path: Path, text: str, line: int | None) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert find_header(OpenedFile(path, path.name, len(text))) == line


@pytest.mark.parametrize(
    ("fields", "rows", "are_names"),
    [
        (["anna", "alien"], [["bob", "up"]], True),
        (["anna", "alien"], [["anna", "up"]], False),
        (["u-1", "x"], [["u-27", "y"]], False),
        (["q1", "x"], [["7", "y"]], True),
        (["who", "what"], [["a", "b"], ["who", "what"]], True),
        (["user", "what"], [["user", "b"]], True),
    ],
)
def test_a_line_like_those_below_it_is_a_row(
    fields: list[str], rows: list[list[str]], *, are_names: bool
) -> None:
    assert names_columns(fields, rows) is are_names


def test_items_and_users_have_headers_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Made on Monday\nid,name,name\n1,A,x\n2,B,y\n")
    file = RawFile(path, path.name)
    items = parse_items(file, ItemsLayout(None, item=1, title=2, header=2))
    assert items.titles.rows() == [("1", "A"), ("2", "B")]
    with pytest.raises(PreparationError, match=r"several columns 'name' \(items.columns.title"):
        parse_items(file, ItemsLayout(None, item="id", title="name", header=2))
    path.write_text("Made on Monday\nid,name,age\n1,A,x\n2,B,y\n")
    users = parse_user_attributes(file, UsersLayout(None, "id", categories={"A": "age"}, header=2))
    assert users.good.rows() == [("1", "x"), ("2", "y")]


@pytest.mark.parametrize(
    ("text", "settings", "users"),
    [
        ("u1\nu2\n", {}, ["u1", "u2"]),
        ("7\n8\n", {}, ["7", "8"]),
        ("7,x\n8,y\n", {"column": 1}, ["7", "8"]),
        ("who\nu1\nu2\n", {}, ["u1", "u2"]),
        ("anna\nbob\n", {"header": "none"}, ["anna", "bob"]),
        ("anna\nbob\n", {"header": 1}, ["bob"]),
        ("anna\nbob\n", {"column": 1}, ["anna", "bob"]),
        ("List of May\n\nuser_id\nanna\n", {"header": 3}, ["anna"]),
    ],
)
def test_a_list_of_users_keeps_its_first_one(
    tmp_path: Path, text: str, settings: dict[str, Any], users: list[str]
) -> None:
    path = tmp_path / "users.csv"
    path.write_text(text)
    attributes = {"ratings": {"source": "a"}, "batch_users": {"source": "users.csv", **settings}}
    declared = Pipeline.model_validate({"name": "a", **attributes}).batch_users
    read = read_users([RawFile(path, path.name)], declared.column, header=declared.file_header)
    assert read.to_series().to_list() == users


def test_a_list_of_words_needs_the_column(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("anna\nbob\n")
    message = "line 1 may name the column or be a user: set batch_users.column to the name"
    with pytest.raises(PreparationError, match=message):
        read_users([RawFile(path, path.name)], None)
