"""Tests of `query`: SQL over the declared sources."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.builders import real_data
from batchrec_dagster_tests.guard.contracts.querying import base, put, query_rows, read_refusal
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation

__all__ = ["base"]


def test_a_join_of_two_files(base: Path) -> None:
    put(base, "orders.csv", "order_id,user_id,day\n7,007,2024-01-02\n8,b,2024-01-03\n")
    put(base, "lines.csv.gz", gzip.compress(b"order_id;product\n7;x\n7;y\n9;z\n"))
    rows = query_rows(
        base,
        "SELECT user_id, product, day FROM lines JOIN orders USING (order_id) ORDER BY product;",
        {"orders": "orders.csv", "lines": "lines.csv.gz"},
    )
    assert rows.rows() == [("007", "x", "2024-01-02"), ("007", "y", "2024-01-02")]


def test_lists_of_json_are_exploded_and_texts_stay_as_written(base: Path) -> None:
    item = "123E4567-E89B-12D3-A456-426614174000"
    events = [
        {"user": "007", "at": "2024-01-02T03:04:05+02:00", "items": [{"id": item}, {"id": 5}]},
        {"user": 8, "at": "2024-01-02", "items": []},
        {"user": "9", "items": [{"id": "2024-01-02", "late": {"UUID": "x"}}]},
    ]
    put(base, "events.jsonl", "".join(json.dumps(event) + "\n" for event in events))
    query = """SELECT user, "at", item.id, item.late.UUID AS late
        FROM source, unnest(items) AS _(item)"""
    assert query_rows(base, query, "events.jsonl").rows() == [
        ("007", "2024-01-02T03:04:05+02:00", item, None),
        ("007", "2024-01-02T03:04:05+02:00", "5", None),
        ("9", None, "2024-01-02", "x"),
    ]


def test_an_object_of_many_fields_is_a_map(base: Path) -> None:
    purchases = {f"p{number}": "2024-01-02" for number in range(1_500)}
    put(base, "a.jsonl", json.dumps({"user": "u", "bought": purchases}))
    rows = query_rows(base, "SELECT user, bought['p7'] AS day FROM source", "a.jsonl")
    assert rows.rows() == [("u", "2024-01-02")]


def test_partitions_of_paths_are_columns(base: Path) -> None:
    for month in ("01", "02"):
        put(base, f"sales/year=2024/month={month}/part.csv", f"user,item\n{month},x\n")
    rows = query_rows(
        base, "SELECT user, year || '-' || month AS day FROM source ORDER BY 1", "sales/"
    )
    assert rows.rows() == [("01", "2024-01"), ("02", "2024-02")]


def test_files_with_other_columns_are_matched_by_name(base: Path) -> None:
    put(base, "a/1.csv", "user,item\na,b\n")
    put(base, "a/2.csv", "item;user;price\nd;c;1,5\n")
    rows = query_rows(base, "SELECT * FROM source", "a/")
    assert rows.rows(named=True) == [
        {"user": "a", "item": "b", "price": None},
        {"user": "c", "item": "d", "price": "1,5"},
    ]


def test_the_delimiter_is_not_one_in_quotes(base: Path) -> None:
    put(base, "a.csv", 'user;"item, name"\na;"1,5"\n')
    assert query_rows(base, "SELECT * FROM source", "a.csv").rows() == [("a", "1,5")]


def test_a_line_of_numbers_is_no_header(base: Path) -> None:
    put(base, "ratings.dat", "1::2::5::978300760\n")
    rows = query_rows(
        base, "SELECT column_1 AS u, column_4::BIGINT AS t FROM source", "ratings.dat"
    )
    assert rows.rows() == [("1", 978300760)]


def test_columns_of_one_name_get_numbers(base: Path) -> None:
    put(base, "a.csv", "user,item,USER,user_1\na,b,c,d\n")
    message = read_refusal(base, "SELECT item, user FROM source", "a.csv")
    assert "a.csv has several columns 'user', and the query uses it" in message
    rows = query_rows(base, "SELECT item, user_2 FROM source", "a.csv")
    assert rows.rows() == [("b", "a")]


def test_whether_there_is_a_header_is_decided_once_for_all_files(base: Path) -> None:
    put(base, "a/1.csv", "u1,i1,2024-01-01\nu2,i2,2024-01-02\n")
    put(base, "a/2.csv", "u3,i3,\nu4,i4,\n")
    put(base, "b/1.csv", "u1,i1,2024-01-01\n")
    put(base, "b/2.csv", "user,item,day\nu5,i5,2024-01-01\n")
    query = "SELECT column_1, column_2 FROM source"
    message = read_refusal(base, query, "b/")
    assert "2.csv names its columns, and that of" in message
    expected = [(f"u{number}", f"i{number}") for number in (1, 2, 3, 4)]
    assert query_rows(base, query, "a/").rows() == expected


def test_text_alone_is_a_row_where_it_is_declared_or_shows(base: Path) -> None:
    put(base, "a.csv", "anna,alien\nbob,up\n")
    put(base, "b.csv", "anna,alien\nanna,up\n")
    query = "SELECT column_1 FROM source"
    assert query_rows(base, query, "a.csv", header="none").rows() == [("anna",), ("bob",)]
    assert query_rows(base, query, "b.csv").rows() == [("anna",), ("anna",)]
    rows = query_rows(
        base,
        "SELECT alien, column_2 FROM a CROSS JOIN b ORDER BY 2",
        {"a": "a.csv", "b": "b.csv"},
        header={"a": 1, "b": "none"},
    )
    assert rows.rows() == [("up", "alien"), ("up", "up")]


@pytest.mark.parametrize("before", ["Report of May;by Ann\n\n", "sep=;\n"])
def test_lines_before_the_header_are_left_out(base: Path, before: str) -> None:
    put(base, "a.csv", f"{before}user;item\nu1;i1\n")
    header = None if before.startswith("sep") else before.count("\n") + 1
    rows = query_rows(base, "SELECT * FROM source", "a.csv", header=header)
    assert rows.rows(named=True) == [{"user": "u1", "item": "i1"}]
    put(base, "a.json", '{"user": 1}')
    shutil.rmtree(base / "raw")
    message = read_refusal(base, "SELECT * FROM source", "a.json", header=2)
    assert "header is of csv" in message


def test_types_that_parquet_lacks_become_text(base: Path) -> None:
    put(base, "a.csv", "n\n9\n")
    sql = """SELECT sum(n::INT) AS s, uuid() AS u, max(n)::DECIMAL(4,2) AS d, TIME '10:00' AS t
        FROM source"""
    rows = query_rows(base, sql, "a.csv")
    assert rows.dtypes == [pl.Decimal(38, 0), pl.String, pl.Decimal(4, 2), pl.String]
    assert rows.get_column("s").cast(pl.String).item() == "9"


def test_unchanged_files_are_not_queried_again(base: Path) -> None:
    put(base, "a.csv", "user\na\n")

    def find_version(query: str) -> str:
        (version,) = preparation.list_files(base, {"source": "a.csv", "query": query}).values()
        return version

    first = find_version("SELECT user FROM source")
    assert find_version("SELECT user FROM source") == first
    assert find_version("SELECT user AS u FROM source") != first
    put(base, "a.csv", "user\nb\nc\n")
    assert find_version("SELECT user FROM source") != first


UPPER_CASE = str(UUID(int=10)).upper()
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@pytest.mark.slow
@given(
    table=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    ends=st.sampled_from(["\n", "\r\n"]),
)
@example([(" 007 ", "1.50", "NULL"), ("nan", "é", "2024-01-02")], ",", "\n")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=repeats(60, 6),
)
def test_a_query_reads_the_rows_that_python_reads(
    base: Path, table: list[tuple[str, str, str]], delimiter: str, ends: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writerows([("user", "item", "note"), *table])
    put(base, "a.csv", text.getvalue())
    read = query_rows(base, "SELECT * FROM source", "a.csv", delimiter=delimiter)
    # An empty cell is a missing cell.
    assert read.rows() == [tuple(cell or None for cell in row) for row in table]


@given(
    table=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "text": CELLS,
                "number": st.integers(-(2**63), 2**63 - 1),
                "mixed": st.one_of(CELLS, st.booleans(), st.integers(-(2**53), 2**53)),
                "list": st.lists(CELLS, max_size=2),
                "day": st.sampled_from(["2024-01-02", "2024-1-2", "10:00", UPPER_CASE]),
            },
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=repeats(60, 6),
)
def test_json_is_read_as_it_is_written(base: Path, table: list[dict[str, Any]]) -> None:
    put(base, "a.jsonl", "".join(json.dumps({"n": 1, **row}) + "\n" for row in table))
    read = query_rows(base, "SELECT * FROM source", "a.jsonl").to_dicts()
    value_types = {type(row["mixed"]) for row in table if "mixed" in row}
    for row, expected_row in zip(read, table, strict=True):
        for name in read[0].keys() - {"n"}:
            value = expected_row.get(name)
            if name == "mixed" and len(value_types) > 1 and value is not None:
                value = value if isinstance(value, str) else json.dumps(value)
            assert row[name] == value


def test_a_real_join_is_what_pandas_makes(base: Path) -> None:
    folder = real_data("ml-latest-small")
    query = """SELECT userId, movieId, rating::DOUBLE AS rating, timestamp::BIGINT AS "at"
        FROM ratings JOIN movies USING (movieId)
        WHERE list_contains(string_split(genres, '|'), 'War')
        ORDER BY userId::INT, movieId::INT"""
    source = {"ratings": f"{folder}/ratings.csv", "movies": f"{folder}/movies.csv"}
    rows = query_rows(base, query, source)
    ratings = pd.read_csv(folder / "ratings.csv", dtype={"userId": str, "movieId": str})
    movies = pd.read_csv(folder / "movies.csv", dtype=str)
    war = movies[movies.genres.str.split("|").map(lambda genres: "War" in genres)]
    joined_rows = ratings[ratings.movieId.isin(war.movieId)]
    expected_rows = pl.from_pandas(joined_rows.rename(columns={"timestamp": "at"}))
    order = [pl.col("userId").cast(pl.Int64), pl.col("movieId").cast(pl.Int64)]
    assert rows.rows() == expected_rows.sort(order).rows()
    assert rows.height > 4_000


def test_items_of_a_query(base: Path) -> None:
    put(base, "films.csv", "id,name,released\n007,Dr. No,1962-10-05\n8,,\n")
    put(base, "genres.csv", "film,genre\n007,Action\n007,Spy\n")
    columns = {"item": "id", "title": "name", "categories": {"GENRES": "genres"}}
    query = """SELECT id, name, released::DATE AS released,
        (SELECT list(genre ORDER BY genre) FROM genres WHERE film = id) AS genres FROM films"""
    items = preparation.prepare_items(
        base,
        {
            "source": {"films": "films.csv", "genres": "genres.csv"},
            "query": query,
            "columns": {**columns, "created": "released"},
        },
    )
    assert items.titles.rows() == [("007", "Dr. No")]
    assert items.metadata.rows() == [("007", -228528000, "Action|Spy")]
    assert sum(items.left_out.values()) == 1
