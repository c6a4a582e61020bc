"""Tests of rows in files of items and users.

Rows become Personalize's columns and titles for people. Bad rows are reported with line and reason.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter

from batchrec_dagster_tests.guard.builders import real_data, write_source
from batchrec_dagster_tests.guard.seams import preparation

COLUMNS = {
    **{"item": "id", "title": "title", "created": "added"},
    **{"categories": {"GENRES": "genres"}, "numbers": {"YEAR": "year"}},
}
HEADER = "id,title,genres,year,added\n"
ROWS = "".join(f'{n},"Film, no. {n}",War;Crime,{1950 + n},2001-02-03\n' for n in range(1, 81))
# 2001-02-03 in UTC.
DAY = 981_158_400


def read(folder: Path, content: str | bytes, **items: Any) -> preparation.Attributes:
    settings = {"columns": COLUMNS, "separator": ";", **items}
    source = write_source(folder, content, "items.csv")
    return preparation.prepare_items(folder, {"source": source, **settings})


def read_refusal(folder: Path, content: str | bytes, **items: Any) -> str:
    with pytest.raises(preparation.UserError) as error:
        read(folder, content, **items)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("90,A,B,1999", "fewer than the 5 fields of line 1"),
        (" ,A,B,1999,0", "no item"),
        ("NULL,A,B,1999,0", "an id that means no value"),
        ("9,A,B,1999,0", "the item stands in an earlier row"),
        (f"{'9' * 257},A,B,1999,0", "an id longer than 256 characters"),
        ('"9\n0",A,B,1999,0', "an id with a line break or a NUL in it"),
        ("90,A,B,long ago,0", "YEAR is not a number"),
        ("90,A,B,inf,0", "YEAR is not a number"),
        ("90,A,B,1999,May", "the creation time is neither"),
        (f"90,A,{'B' * 1001},1999,0", "GENRES has a value longer than 1000 characters"),
        ("90,ü\ufffd,B,1999,0", "the title is not UTF-8 text"),
    ],
)
def test_a_bad_row_of_items_is_named_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    items = read(tmp_path, f"{HEADER}{ROWS}{row}\n")
    assert items.bad_rows[0].startswith(f"items.csv, line 82: {message}")
    assert sum(items.left_out.values()) == 1
    assert items.rows_read == 81
    assert items.metadata.height == items.titles.height == 80


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (",AT,20", "no user"),
        ("1,AT,20", "the user stands in an earlier row"),
        ("51,AT,young", "AGE is not a number"),
        ('51,AT,"20,5"', "AGE is not a number"),
        (f"51,{'A' * 1001},20", "COUNTRY has a value longer than 1000 characters"),
    ],
)
def test_a_bad_row_of_users_is_named_with_its_line(tmp_path: Path, row: str, problem: str) -> None:
    rows = "".join(f"{user},AT,{20 + user}\n" for user in range(1, 51))
    users = read_users(tmp_path, f"customer,country,age\n{rows}{row}\n")
    assert (users.rows_read, users.metadata.height) == (51, 50)
    assert users.bad_rows[0].startswith(f"users.csv, line 52: {problem}")


def read_users(folder: Path, content: str, erased: tuple[str, ...] = ()) -> preparation.Attributes:
    columns = {"user": "customer", "categories": {"COUNTRY": "country"}, "numbers": {"AGE": "age"}}
    source = write_source(folder, content, "users.csv")
    return preparation.prepare_users(folder, {"source": source, "columns": columns}, erased)


def test_rows_of_erased_users_are_left_out_and_never_shown(tmp_path: Path) -> None:
    content = "customer,country,age\n007,AT,20\ngone,AT,bad\ngone,AT,1\n ,AT,gone\n8,,\n"
    users = read_users(tmp_path, content, ("gone", "never-there"))
    assert users.metadata.rows() == [("007", "AT", 20.0), ("8", None, None)]
    assert users.rows_read - users.metadata.height == sum(users.left_out.values()) == 1
    assert "gone" not in str(users)


def test_cells_become_values_that_personalize_accepts(tmp_path: Path) -> None:
    rows = (
        '007,"Say ""hello""\nagain", Crime ; War;,\\N,2001-02-03T00:00:00+01:00\n'
        "\n"
        "ü,,,1e3,981072000123\n"
        "3, C ,;;,-1.5,981072000\n"
    )
    items = read(tmp_path, HEADER + rows)
    assert items.left_out == {}
    assert items.metadata.columns == ["ITEM_ID", "CREATION_TIMESTAMP", "GENRES", "YEAR"]
    assert items.metadata.rows() == [
        ("007", DAY - 3600, "Crime|War", None),
        ("ü", 981_072_000, None, 1000.0),
        ("3", 981_072_000, None, -1.5),
    ]
    assert items.titles.rows() == [("007", 'Say "hello"\nagain'), ("ü", None), ("3", "C")]


def test_addresses_of_pictures_and_pages_are_of_the_web_alone(tmp_path: Path) -> None:
    content = (
        "id,name,picture,page\n"
        "1,One, https://a.example/1.jpg ,http://a.example/1\n"
        "2,Two,javascript:alert(1),\n"
    )
    columns = {"item": "id", "title": "name", "image": "picture", "link": "page"}
    items = read(tmp_path, content, columns=columns)
    assert items.titles.rows() == [
        ("1", "One", "https://a.example/1.jpg", "http://a.example/1"),
        ("2", "Two", None, None),
    ]
    assert items.left_out == {}


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|", "::"])
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "recognised"])
def test_the_delimiter_is_found_by_the_declared_columns(
    tmp_path: Path, delimiter: str, is_declared: bool
) -> None:
    content = f"price{delimiter}id{delimiter}full title\n2.5{delimiter}a{delimiter}A\n"
    settings = {"delimiter": delimiter} if is_declared else {}
    columns = {"item": "id", "title": "full title", "numbers": {"PRICE": "price"}}
    items = read(tmp_path, content, columns=columns, **settings)
    assert items.metadata.rows() == [("a", 2.5)]
    assert items.titles.rows() == [("a", "A")]


@pytest.mark.parametrize(
    ("decimal", "prices", "bad"),
    [(",", [("a", 2.5), ("b", 1234.5), ("d", None)], 1), (".", [("c", 2.5), ("d", None)], 2)],
)
def test_a_comma_may_stand_for_the_point_in_numbers(
    tmp_path: Path, decimal: str, prices: list[tuple[str, float | None]], bad: int
) -> None:
    columns = {"item": "id", "numbers": {"PRICE": "price"}}
    content = "id;price\na;2,5\nb;1.234,5\nc;2.5\nd;\n"
    items = read(tmp_path, content, columns=columns, delimiter=";", decimal=decimal)
    assert items.metadata.rows() == prices
    assert sum(items.left_out.values()) == bad


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_letters_of_either_encoding_are_read(tmp_path: Path, encoding: str, pack: Any) -> None:
    content = pack('1::"Amélie"\r\n2::€15\u2019s\r\n'.encode(encoding))
    items = read(tmp_path, content, columns={"item": 1, "title": 2}, delimiter="::")
    assert items.titles.rows() == [("1", '"Amélie"'), ("2", "€15\u2019s")]


def test_a_quote_is_text_in_a_file_without_quoted_fields(tmp_path: Path) -> None:
    columns = {"item": "id", "title": "title"}
    items = read(tmp_path, 'id;title\n1;27" monitor\n2;The "Big" one\n', columns=columns)
    assert items.titles.rows() == [("1", '27" monitor'), ("2", 'The "Big" one')]
    message = read_refusal(tmp_path, 'id;title\n1;"A; B"\n2;27" monitor\n', columns=columns)
    assert "line 3: there is a single" in message


def test_a_quoted_field_may_be_long(tmp_path: Path) -> None:
    title = "A, B\n" * 30_000 + "C"
    items = read(tmp_path, f'{HEADER}1,"{title}",War,1999,2001-02-03\n')
    assert items.titles.rows() == [("1", title)]
    message = read_refusal(tmp_path, f'{HEADER}1,"{title}",War,1999,2001-02-03\n2,"open')
    assert message.startswith("items.csv, line 30003: a field that starts with")


@pytest.mark.parametrize("columns", [{"item": 1, "title": 2}, {"item": "id", "title": "name"}])
def test_the_names_of_the_columns_may_stand_below_other_lines(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    content = "Made on Monday\nid,name,note\n1,A,x\n2,B,y\n"
    items = read(tmp_path, content, columns=columns, header=2)
    assert items.titles.rows() == [("1", "A"), ("2", "B")]


ITEMS: list[dict[str, Any]] = [
    {"sku": "007", "name": "Größe", "price": 2.5},
    {"sku": "", "name": None, "price": 1.0},
]


@pytest.mark.parametrize("kind", ["Excel", "JSON array", "JSON Lines", "Parquet"])
def test_items_may_be_in_any_format(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "items"
    if kind == "Excel":
        book = xlsxwriter.Workbook(path)
        sheet = book.add_worksheet()
        rows = [list(ITEMS[0]), *(["" if v is None else v for v in row.values()] for row in ITEMS)]
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
        book.close()
    elif kind.startswith("JSON"):
        lines = [json.dumps(item, ensure_ascii=False) for item in ITEMS]
        path.write_text("\n".join(lines) if kind == "JSON Lines" else f"[{', '.join(lines)}]")
    else:
        pl.DataFrame(ITEMS).write_parquet(path)
    columns = {"item": "sku", "title": "name", "numbers": {"PRICE": "price"}}
    items = preparation.prepare_items(tmp_path, {"source": "items", "columns": columns})
    assert items.titles.rows() == [("007", "Größe")]
    assert items.metadata.rows() == [("007", 2.5)]
    assert items.bad_rows[0].startswith("items, ")
    assert items.bad_rows[0].endswith(": no item")


def test_lists_are_several_values_of_a_category(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "genres": ["War", " Crime ", None], "on": "2001-02-03"},
        {"id": 2, "genres": [], "on": "2001-02-03"},
        {"id": 3, "genres": None, "on": 20010203},
    ]
    columns = {"item": "id", "categories": {"GENRES": "genres"}, "created": "on"}
    expected_rows = [("1", DAY, "War|Crime"), ("2", DAY, None), ("3", DAY, None)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert read(tmp_path, text, columns=columns).metadata.rows() == expected_rows
    dates = pl.Series(["2001-02-03"] * 3).str.to_date()
    pl.DataFrame(rows, strict=False).with_columns(on=dates).write_parquet(tmp_path / "items")
    items = preparation.prepare_items(tmp_path, {"source": "items", "columns": columns})
    assert items.metadata.rows() == expected_rows
    items = read(
        tmp_path,
        '{"id": 1, "genres": {"name": "War"}, "on": "2001-02-03"}\n[1]\n',
        columns=columns,
    )
    assert items.metadata.is_empty()
    assert items.bad_rows[0].startswith("items.csv, line 1: genres is an object")
    assert items.bad_rows[1] == "items.csv, line 2: not a JSON object"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (HEADER, "items.csv has no rows"),
        ("a," * 300_000 + "\n1\n", "items.csv, line 1 has 300,001 columns"),
        ("id,title\n1,A\n", "items.csv has no column 'added' (items.columns.created)"),
        ("id,title,title\n1,A,B\n", "several columns 'title' (items.columns.title"),
        (HEADER + '1,"' + "A" * 1000, "items.csv, line "),
    ],
)
def test_a_file_of_items_that_cannot_be_used_says_why(
    tmp_path: Path, text: str, message: str
) -> None:
    assert message in read_refusal(tmp_path, text)


def test_a_long_field_is_read_in_quotes_or_without_them(tmp_path: Path) -> None:
    # The cell is longer than the 131,072 characters that Python's csv reads. The line is valid.
    columns = {"item": "id", "title": "title"}
    for note in ("x" * 200_000, '"' + "x" * 200_000 + '"'):
        text = f"id,title,note\n1,A,{note}\n"
        assert read(tmp_path, text, columns=columns).titles.rows() == [("1", "A")]


def test_a_missing_column_of_users_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(
        preparation.UserError, match=r"users.csv has no column 'age' \(users.columns"
    ):
        read_users(tmp_path, "customer,country\n1,AT\n")


NOTE = {"categories": {"NOTE": "note"}}


@pytest.mark.parametrize(
    ("prepare", "block", "settings"),
    [
        (preparation.prepare_items, "items", {"columns": {"item": "id", **NOTE}}),
        (preparation.prepare_users, "users", {"columns": {"user": "id", **NOTE}}),
        (preparation.list_users, "batch_users", {"column": "id"}),
    ],
)
def test_ids_of_floating_point_numbers_are_refused(
    tmp_path: Path, prepare: Callable[..., object], block: str, settings: dict[str, Any]
) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"id": [1.0, 2.0], "note": ["A", "B"]}).write_parquet(path)
    message = rf"\({block}\.column.* convert them in {block}\.query"
    with pytest.raises(preparation.UserError, match=message):
        prepare(tmp_path, {"source": str(path), **settings})


def test_real_films_are_read_with_their_genres(tmp_path: Path) -> None:
    columns = {"item": "movieId", "title": "title", "categories": {"GENRES": "genres"}}
    source = str(real_data("ml-latest-small") / "movies.csv")
    films = preparation.prepare_items(tmp_path, {"source": source, "columns": columns})
    assert (films.rows_read, films.left_out) == (9_742, {})
    assert films.titles.row(0) == ("1", "Toy Story (1995)")
    assert films.metadata.row(0) == ("1", "Adventure|Animation|Children|Comedy|Fantasy")
