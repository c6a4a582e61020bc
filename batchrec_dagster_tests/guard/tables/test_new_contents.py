"""Tests that `batchrec new` reads columns' contents.

A column's name alone proves nothing: the contents must fit. Odd rows are reported.
"""

from __future__ import annotations

from decimal import Decimal

import duckdb
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import Project
from batchrec_dagster_tests.guard.tables.new_command import (
    RATINGS,
    ROWS,
    START,
    read_declaration,
    run_new,
    working_project,
    write_ratings_file,
)

__all__ = ["working_project"]

HOUR = 3600


def write_lines(project: Project, name: str, header: str, lines: list[str]) -> None:
    text = "\n".join([header, *lines] if header else lines)
    (project.root / name).write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize("cell", ["", "true", "90"], ids=["empty", "flags", "durations"])
def test_a_column_with_the_name_of_a_time_but_without_times_is_not_the_time(
    working_project: Project, cell: str
) -> None:
    write_ratings_file(
        working_project.root / "orders.csv",
        "userId,itemId,rating,bought,date",
        {"date": lambda _: cell},
    )
    code, output = run_new("shop", "--ratings", "orders.csv")
    assert code == 0, output
    assert read_declaration(working_project)["ratings"]["columns"]["timestamp"] == "bought"


def test_an_empty_time_is_asked_for(working_project: Project) -> None:
    lines = [f"{user},{item}," for user, item in ROWS]
    write_lines(working_project, "orders.csv", "userId,itemId,date", lines)
    code, output = run_new("shop", "--ratings", "orders.csv")
    assert code == 2
    assert "couldn't recognise the time column" in output
    assert "--time none" in output


def test_the_column_with_ids_is_chosen_among_two_user_names(working_project: Project) -> None:
    write_ratings_file(
        working_project.root / "orders.csv",
        "customer_id,itemId,rating,time,user_id",
        {"empty": lambda _: ""},
    )
    code, output = run_new("shop", "--ratings", "orders.csv")
    assert code == 0, output
    assert read_declaration(working_project)["ratings"]["columns"]["user"] == "customer_id"


def test_flags_and_texts_are_not_when_an_item_was_created(working_project: Project) -> None:
    write_ratings_file(working_project.root / "orders.csv", "userId,itemId,rating,time")
    lines = [f"{item},Lamp {item},true,2020-01-0{1 + item % 9}" for item in range(80)]
    write_lines(working_project, "items.csv", "Id,Title,Published,Created At", lines)
    code, output = run_new("shop", "--ratings", "orders.csv", "--items", "items.csv")
    assert code == 0, output
    assert read_declaration(working_project)["items"]["columns"]["created"] == "Created At"


@pytest.mark.parametrize(
    ("category", "column"),
    [("0", None), ("{}", None), ("rating", 3)],
    ids=["one", "many", "rating"],
)
def test_numbers_in_a_file_without_a_header_are_ratings_only_on_a_scale(
    working_project: Project, category: str, column: int | None
) -> None:
    lines = []
    for number, (user, item) in enumerate(ROWS):
        cell = str(RATINGS[number]) if category == "rating" else category.format(item % 12)
        lines.append(f"{user},{item},{cell},{START + number * HOUR}")
    write_lines(working_project, "clicks.dat", "", lines)
    code, output = run_new("shop", "--ratings", "clicks.dat")
    assert code == 0, output
    columns = read_declaration(working_project)["ratings"]["columns"]
    assert columns.get("rating") == column
    assert columns["timestamp"] == 4


def test_a_second_column_with_times_is_named(working_project: Project) -> None:
    lines = [
        f"{user},{item},{START + user * HOUR},{START + number * HOUR}"
        for number, (user, item) in enumerate(ROWS)
    ]
    write_lines(working_project, "orders.csv", "userId,itemId,created_at,purchased_on", lines)
    code, output = run_new("shop", "--ratings", "orders.csv")
    assert code == 0, output
    assert (
        "Warning: purchased_on has times too, and created_at was taken. If an interaction happened"
        " at another: --time purchased_on\n  To change it, edit " in output
    )
    # The named line is the line to edit.
    line = int(output.partition("defs.yaml, line ")[2].partition(".")[0])
    file = working_project.package / "defs" / "shop" / "defs.yaml"
    assert file.read_text().splitlines()[line - 1].strip() == "timestamp: created_at"
    code, output = run_new("shop2", "--ratings", "orders.csv", "--time", "purchased_on")
    assert code == 0, output
    assert "has times too" not in output


@pytest.mark.parametrize("kind", ["decimal", "text"])
def test_decimals_as_ids_in_parquet_are_named(working_project: Project, kind: str) -> None:
    items = [Decimal(f"{item}.0") for _, item in ROWS]
    frame = pl.DataFrame(
        {
            "userId": [user for user, _ in ROWS],
            "itemId": pl.Series(items, dtype=pl.Decimal(10, 1)),
            "time": [START + number * HOUR for number in range(len(ROWS))],
        }
    )
    if kind == "text":
        frame = frame.with_columns(pl.col("itemId").cast(pl.String))
    frame.write_parquet(working_project.root / "orders.parquet")
    code, output = run_new("shop", "--ratings", "orders.parquet")
    assert code == 0, output
    assert "Warning: orders.parquet: the item ids (column itemId) are decimals such as" in output


@pytest.mark.parametrize(
    ("cell", "form", "plain"),
    [
        ("\"['Garden', 'Home']\"", "a list", "Garden, Home"),
        ('"{""id"": 1}"', "an object", "id: 1"),
    ],
)
def test_categories_that_are_written_as_code_are_named(
    working_project: Project, cell: str, form: str, plain: str
) -> None:
    write_ratings_file(working_project.root / "orders.csv", "userId,itemId,rating,time")
    lines = [f"{item},Lamp {item},{cell}" for item in range(80)]
    write_lines(working_project, "items.csv", "itemId,title,categories", lines)
    code, output = run_new("shop", "--ratings", "orders.csv", "--items", "items.csv")
    assert code == 0, output
    assert f"Warning: categories has {form} in each cell, such as" in output
    query = output.partition("set items.query: ")[2].splitlines()[0]
    items = pl.read_csv(working_project.root / "items.csv")
    with duckdb.connect() as connection:
        connection.register("source", items.to_arrow())
        rows = connection.execute(query).fetchall()
    assert rows == [(number, title, plain) for number, title, _ in items.rows()]


def test_names_below_other_lines_are_found_and_declared(working_project: Project) -> None:
    lines = [f"{user},{item},{START + number}" for number, (user, item) in enumerate(ROWS)]
    header = "Sales report\nMade on a Monday\n\ncustomer_id,sku,ordered_at"
    write_lines(working_project, "report.csv", header, lines)
    write_lines(
        working_project,
        "catalogue.csv",
        "Catalogue\n\nsku,title",
        [f"{item},Lamp {item}" for item in range(80)],
    )
    code, output = run_new("shop", "--ratings", "report.csv", "--items", "catalogue.csv")
    assert code == 0, output
    assert "Warning: line 4 was taken for the names of the columns: customer_id, sku" in output
    declared = read_declaration(working_project)
    assert (declared["ratings"]["header"], declared["items"]["header"]) == (4, 3)
    assert f"{len(ROWS):,} rows (csv)" in output


def test_names_that_are_given_are_found_below_other_lines(working_project: Project) -> None:
    lines = [f"{user};{item};{START + number}" for number, (user, item) in enumerate(ROWS)]
    write_lines(working_project, "report.csv", "Bericht\n\nKunde;Artikel;Wann", lines)
    code, output = run_new("shop", "--ratings", "report.csv")
    assert code == 2
    assert "Found: Bericht." in output
    assert "Bericht\nKunde;Artikel;Wann\n1;1;1500000000\n" in output
    options = ("--user", "Kunde", "--item", "Artikel", "--time", "Wann")
    code, output = run_new("shop", "--ratings", "report.csv", *options)
    assert code == 0, output
    assert read_declaration(working_project)["ratings"]["header"] == 3


def test_only_a_doubled_name_that_is_used_is_refused(working_project: Project) -> None:
    write_ratings_file(
        working_project.root / "orders.csv",
        "userId,itemId,rating,time,note,note",
        {"note": lambda _: "x", "more": lambda _: "y"},
    )
    code, output = run_new("shop", "--ratings", "orders.csv")
    assert code == 0, output
    write_ratings_file(
        working_project.root / "doubled.csv",
        "userId,itemId,rating,time,itemId",
        {"item_again": lambda _: 1},
    )
    code, output = run_new("shop2", "--ratings", "doubled.csv")
    assert code == 2
    assert "doubled.csv has several columns 'itemId' (ratings.columns.item): rename" in output
    lines = [f"{item},Lamp,Lantern" for item in range(80)]
    write_lines(working_project, "items.csv", "itemId,title,title", lines)
    code, output = run_new("shop2", "--ratings", "orders.csv", "--items", "items.csv")
    assert code == 2
    assert "items.csv has several columns 'title' (items.columns.title): rename" in output


def test_the_only_column_with_times_is_taken_whatever_their_format(
    working_project: Project,
) -> None:
    lines = [
        f"{user},{item},{1 + number % 28:02}.01.2024" for number, (user, item) in enumerate(ROWS)
    ]
    write_lines(working_project, "orders.csv", "userId,itemId,Bestelldatum", lines)
    code, output = run_new("shop", "--ratings", "orders.csv")
    assert code == 0, output
    ratings = read_declaration(working_project)["ratings"]
    assert ratings["columns"]["timestamp"] == "Bestelldatum"
    assert ratings["timestamp_format"] == "%d.%m.%Y"


def test_the_guess_goes_by_words_and_the_first_rows_are_shown(
    working_project: Project,
) -> None:
    lines = [
        f"#{number},Ann,a{user}@example.com,2020-01-{1 + user % 28:02},"
        f"2021-01-{1 + number % 28:02},P{item}"
        for number, (user, item) in enumerate(ROWS)
    ]
    header = "Name,Shown,Email,Since,Paid,Lineitem sku"
    write_lines(working_project, "shopify.csv", header, lines)
    code, output = run_new("shop", "--ratings", "shopify.csv", "--user", "Email")
    assert code == 2
    assert "Since and Paid have times. Try: --item 'Lineitem sku' --time Since (or" in output
    assert "Name  Shown  Email           Since       Paid        Lineitem sku\n#0    Ann" in output
    code, output = run_new("shop", "--ratings", "shopify.csv")
    assert "Try: --user Email --item 'Lineitem sku' --time Since (or" in output
