"""Tests of the columns' roles and of the first row, recognised or declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from batchrec_dagster_tests.guard.builders import write_source
from batchrec_dagster_tests.guard.seams import preparation

SECONDS = 1_500_000_000
NAMES = {"user": "u", "item": "i", "timestamp": "t"}
POSITIONS = {"user": 1, "item": 2, "timestamp": 3}
ROWS = f"u1;i1;{SECONDS}\nu2;i2;{SECONDS + 1}\n"
NAMED = f"user;item;time\n{ROWS}"
WIDE = f"user;item;time;item;note;note\nu1;i1;{SECONDS};x;;\nu2;i2;{SECONDS + 1};x;a;b\n"
EXPECTED = [("u1", "i1", SECONDS), ("u2", "i2", SECONDS + 1)]
REPORT = 'Orders "of May\n\nby;Ann;on;Monday\n# checked\n'


def read(folder: Path, text: str, **ratings: Any) -> preparation.Interactions:
    source = write_source(folder, text, "orders.csv")
    return preparation.prepare(folder, {"ratings": {"source": source, **ratings}})


def read_refusal(folder: Path, text: str, **ratings: Any) -> str:
    with pytest.raises(preparation.UserError) as error:
        read(folder, text, **ratings)
    return str(error.value)


# Columns


@pytest.mark.parametrize(
    ("header", "expected_columns"),
    [
        ("userId,movieId,rating,timestamp", ["userId", "movieId"]),
        ("user_id,item_id,rating,timestamp", ["user_id", "item_id"]),
        ("userID\tmovieID\trating\ttimestamp", ["userID", "movieID"]),
        ("USER_ID,ITEM_ID,TIMESTAMP", ["USER_ID", "ITEM_ID"]),
        ("timestamp,visitorid,event,itemid", ["visitorid", "itemid"]),
        ("user_id:token\titem_id:token\ttimestamp:float", ["user_id:token", "item_id:token"]),
        ("reviewerID;asin;overall;unixReviewTime", ["reviewerID", "asin"]),
        ("event_time,event_type,product_id,user_id", ["user_id", "product_id"]),
        ("order_id,Customer,sku,quantity,ordered_at", ["Customer", "sku"]),
    ],
)
def test_columns_of_common_names_need_no_declaration(
    tmp_path: Path, header: str, expected_columns: list[str]
) -> None:
    delimiter = next(sign for sign in "\t;," if sign in header)
    names = header.split(delimiter)
    times = ("time", "_at")
    row = [str(SECONDS) if any(t in name.lower() for t in times) else name for name in names]
    row = [cell if names[index] != "event_type" else "view" for index, cell in enumerate(row)]
    interactions = read(tmp_path, f"{header}\n{delimiter.join(row)}\n")
    assert interactions.rows == [(*expected_columns, SECONDS)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("columns", [NAMES, {"user": 1, "item": 2, "timestamp": 4}])
def test_the_delimiter_is_the_one_that_makes_the_declared_columns(
    tmp_path: Path, delimiter: str, columns: dict[str, Any]
) -> None:
    rows = [["a", "b,b" if delimiter == ";" else "b", "", str(SECONDS)]]
    if columns == NAMES:
        rows.insert(0, ["u", "i", "n", "t"])
    content = "".join(delimiter.join(row) + "\n" for row in rows)
    interactions = read(tmp_path, content, columns=columns)
    assert interactions.rows == [("a", rows[-1][1], SECONDS)]


@pytest.mark.parametrize(
    ("content", "ratings"),
    [
        (f"1\t10\t5\t{SECONDS}\n", {"columns": {"user": 1, "item": 2, "timestamp": 4}}),
        (f"{SECONDS};10;5;1\n", {"columns": {"user": 4, "item": 2, "timestamp": 1}}),
        (f't,"i","u",r\n{SECONDS},10,"1",5\n', {"columns": NAMES}),
        (f"\ufeffu,i,r,t\r\n1,10,5,{SECONDS}\r\n\r\n", {"columns": NAMES}),
        (
            f"1::10::Alien: 3::{SECONDS}\r\n\r\n",
            {"columns": {"user": 1, "item": 2, "timestamp": 4}},
        ),
        (f"user_id,parent,item_id,time\n1,10,3,{SECONDS}\n", {"columns": {"item": "parent"}}),
    ],
    ids=["tabs", "another order", "quotes", "a BOM, CRLF, a blank line", "colons", "one of them"],
)
def test_declared_columns_take_precedence_over_known_names(
    tmp_path: Path, content: str, ratings: dict[str, Any]
) -> None:
    assert read(tmp_path, content, **ratings).rows == [("1", "10", SECONDS)]


@pytest.mark.parametrize(
    ("text", "ratings", "message"),
    [
        (
            "who,what,when\n1,2,3\n",
            {},
            "could not recognise the user and item and timestamp column",
        ),
        ("who,what,when\n1,2,3\n", {}, "Found: who, what, when"),
        ("1,2,3.5,1500000000\n", {}, "has no names in line 1"),
        ("a,b,c,d\n1,2,3,4\n", {"columns": NAMES}, "has no column 'u' (ratings.columns.user)"),
        ("u\ti\tt\n1\t2\t3\n", {"columns": NAMES, "delimiter": ","}, r"ratings.delimiter '\t'?"),
        ("1::2::3\n", {"columns": POSITIONS, "delimiter": ","}, "is ratings.delimiter '::'?"),
        ("1,2\n", {"columns": POSITIONS}, "column 3, but line 1 has 2"),
        (WIDE, {"columns": {"user": "user", "item": "item"}}, "has several columns 'item'"),
        ("a," * 300_000 + "\n1\n", {}, "300,001 columns"),
    ],
)
def test_columns_that_are_not_there_are_named(
    tmp_path: Path, text: str, ratings: dict[str, Any], message: str
) -> None:
    refusal = read_refusal(tmp_path, text, **ratings)
    assert refusal.startswith("orders.csv")
    assert message in refusal
    assert "\n" not in refusal
    assert not (tmp_path / "interactions.csv").exists()


def test_a_rating_is_looked_for_where_it_counts(tmp_path: Path) -> None:
    content = f"user_id,item_id,stars,time\n1,2,4,{SECONDS}\n1,3,2,{SECONDS}\n"
    ratings = {"source": write_source(tmp_path, content)}
    blocks: dict[str, Any] = {"ratings": ratings, "interactions": {"min_rating": 3}}
    assert preparation.prepare(tmp_path, blocks).rows == [("1", "2", SECONDS)]


def test_kinds_and_values_of_events_are_carried_over_as_they_are_written(tmp_path: Path) -> None:
    content = (
        f'{{"user_id": 1, "item_id": "a", "time": {SECONDS}, "event": "buy", "price": 1.50}}\n'
        f'{{"user_id": 2, "item_id": "b", "time": {SECONDS}, "event": "view"}}\n'
    )
    columns = {"event_type": "event", "event_value": "price"}
    interactions = read(tmp_path, content, columns=columns)
    assert interactions.events == [("buy", "1.50"), ("view", "")]


# Lines before the rows


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
    assert read(tmp_path, text, **settings).rows == EXPECTED


@pytest.mark.parametrize(
    ("text", "header", "message"),
    [
        (NAMED.replace("u2", ""), 5, "orders.csv, line 7: no user"),
        (NAMED.replace("u1", '"u1'), 5, "orders.csv, line 6: a field that starts with"),
        (NAMED, 2, "has nothing in line 2, where by its header"),
    ],
)
def test_messages_count_lines_from_the_start_of_the_file(
    tmp_path: Path, text: str, header: int, message: str
) -> None:
    assert message in read_refusal(tmp_path, REPORT + text, header=header)


def test_positions_in_a_file_with_names_are_warned_of(tmp_path: Path) -> None:
    columns = {"columns": POSITIONS, "on_bad_rows": "skip"}
    guessed = read(tmp_path, NAMED, **columns)
    assert sum(guessed.left_out.values()) == 1
    assert "set ratings.header: 1" in guessed.warnings[0]
    assert read(tmp_path, NAMED, header=1, **columns).warnings == ()


def test_the_rows_of_a_workbook_are_counted_as_people_see_them(tmp_path: Path) -> None:
    book = xlsxwriter.Workbook(tmp_path / "orders.xlsx")
    sheet = book.add_worksheet()
    for number, line in enumerate(["Report", "", *NAMED.splitlines()], 2):
        sheet.write_row(number, 0, line.split(";"))
    book.close()
    ratings: dict[str, Any] = {"source": "orders.xlsx"}
    with pytest.raises(preparation.UserError, match=r"set ratings.header: 5"):
        preparation.prepare(tmp_path, {"ratings": ratings})
    ratings["header"] = 5
    assert preparation.prepare(tmp_path, {"ratings": ratings}).rows == EXPECTED


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (REPORT + NAMED, {}, "line 5 may (user, item, time): set ratings.header: 5"),
        ("# a comment\n" * 3 + NAMED, {}, "set ratings.header: 4"),
        ("u1;i1;a\nu1;i2;b\n", {}, "no names in line 1: set ratings.columns by position"),
        (NAMED, {"header": "none"}, "give columns by position"),
        (NAMED, {"header": 0}, "write a number of 1 or more, or none"),
    ],
)
def test_an_invalid_header_is_refused(
    tmp_path: Path, text: str, settings: dict[str, Any], message: str
) -> None:
    assert message in read_refusal(tmp_path, text, **settings)


# Lists of users


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
        ("id\n007\nb\n007\n", {}, ["007", "b"]),
        ("name;user_id\nx;b\ny;007\n", {}, ["007", "b"]),
        ("name;who\nx;b\ny;007\n", {"column": "who"}, ["007", "b"]),
        ("x;b\ny;007\n", {"column": 2}, ["007", "b"]),
        ('{"userId": "b"}\n{"userId": "007"}\n', {}, ["007", "b"]),
        ("user\r\né\r\n\r\nz\r\nZ\r\n", {}, ["Z", "z", "é"]),
    ],
)
def test_a_list_has_each_user_once_in_order_and_keeps_the_first(
    tmp_path: Path, text: str, settings: dict[str, Any], users: list[str]
) -> None:
    source = write_source(tmp_path, text)
    assert preparation.list_users(tmp_path, {"source": source, **settings}) == users


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("anna\nbob\n", "set batch_users.column to the name if it is one, or to 1"),
        ("a,b\n1,2\n", "user column. Found: a, b. Set batch_users.column"),
        ("user\nx\n" + "y" * 300 + "\n", "data.csv, line 3: there is no user id"),
        ("user,name\nx,a\n,b\n", "data.csv, line 3: there is no user id"),
        ('{"user": 1}\n{"user": [1]}\n', "data.csv, line 2: there is no user id"),
        ("user\nx\nNULL\n", "data.csv, line 3: there is no user id"),
        ('user\n"x\n', "data.csv cannot be read: "),
    ],
)
def test_a_list_of_users_that_cannot_be_used_says_why(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(preparation.UserError) as error:
        preparation.list_users(tmp_path, {"source": write_source(tmp_path, content)})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
