"""Tests of the promises of each sink: PostgreSQL, DynamoDB and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from batchrec_dagster_tests.guard.hostile import HOSTILE
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.publishing import Sink, SinkFailedError, SinkRetryError
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.guard.sink_tables import (
    build_large_table,
    build_lists_table,
    build_mail_table,
    build_similar_items_table,
)

pytestmark = pytest.mark.slow

AWS = {
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
}
URL_ENV = "SHOP_DATABASE_URL"
TABLE = "shop-lists"
# Texts that PostgreSQL and UTF-8 can hold.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
LISTS = st.dictionaries(TEXT, st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=3), max_size=4)
HOSTILE_LISTS: dict[str, list[tuple[str, str | None]]] = {
    text.replace("\0", ""): [(text, text)] for text in HOSTILE
}

Rows = list[dict[str, Any]]


@dataclass
class Place:
    """A sink, and its readers' way to read it."""

    sink: Sink
    read: Callable[[str, list[str]], Rows]
    """The function that reads the rows of a table, in order of user and rank.

    Its arguments are the column that identifies a list, and the columns to read."""

    def read_rows(self, table: pl.DataFrame) -> list[tuple[Any, ...]]:
        """Return the sink's rows in the columns of the table."""
        key, columns = table.columns[0], table.columns
        rows = self.read(key, columns)
        return sorted(tuple(row.get(column) for column in columns) for row in rows)


def read_postgres(postgres: PostgresServer, url: str, key: str, columns: list[str]) -> Rows:
    rows = postgres.query(f"SELECT {', '.join(columns)} FROM lists", url=url)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def read_dynamodb(key: str, columns: list[str]) -> Rows:
    """Return the rows of DynamoDB's items, which have a user's list each, the best first."""
    pages = open_dynamodb().get_paginator("scan").paginate(TableName=TABLE)
    rows = []
    for item in (item for page in pages for item in page["Items"]):
        for rank, entry in enumerate(item["items"]["L"], 1):
            values = {name: read_value(value) for name, value in entry["M"].items()}
            rows.append({key: item[key]["S"], "rank": rank, **values})
    return rows


def read_value(value: dict[str, str]) -> str | float:
    return float(value["N"]) if "N" in value else value["S"]


def read_file(path: Path, key: str, columns: list[str]) -> Rows:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def open_dynamodb() -> Any:
    return boto3.Session("key", "secret", region_name="eu-central-1").client("dynamodb")


def create_dynamodb_table(key: str = "user_id") -> None:
    open_dynamodb().create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
    )


@pytest.fixture(params=["postgres", "dynamodb", "export"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "postgres":
        postgres, url = map(request.getfixturevalue, ("postgres", "postgres_url"))
        block = {"url_env": URL_ENV, "table": "lists"}
        sink = Sink("postgres", block, Store.open(tmp_path), {URL_ENV: url})
        yield Place(sink, lambda key, columns: read_postgres(postgres, url, key, columns))
    elif request.param == "dynamodb":
        sink = Sink("dynamodb", {"table": TABLE}, Store.open(tmp_path / "storage", AWS))
        with mock_aws():
            create_dynamodb_table()
            yield Place(sink, read_dynamodb)
    else:
        path = tmp_path / "out/lists.jsonl"
        block = {"format": "jsonl", "rows": "per_item", "path": str(path)}
        sink = Sink("export", block, Store.open(tmp_path / "storage"), project=tmp_path)
        yield Place(sink, lambda key, columns: read_file(path, key, columns))


def test_a_sink_holds_only_the_newest_lists(place: Place) -> None:
    first = build_lists_table({"1": [("a", "A"), "b"], "2": ["c"]})
    second = build_lists_table({"2": ["c", ("d", "D")], "3": ["e"]})
    for lists in (first, first, second):
        assert place.sink.write(lists) == (3, 2)
        assert place.read_rows(lists) == sorted(lists.rows())
    assert place.sink.write(first.clear()) == (0, 0)
    assert place.read_rows(first) == []
    assert place.sink.write(first) == (3, 2)
    assert place.read_rows(first) == sorted(first.rows())


@settings(
    max_examples=repeats(25, 5),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(lists=LISTS)
@example(lists=HOSTILE_LISTS)
def test_any_text_comes_back_unchanged(
    place: Place, lists: dict[str, list[tuple[str, str | None]]]
) -> None:
    table = build_lists_table(lists).with_columns(title=pl.col("title").fill_null("no title"))
    place.sink.write(table)
    assert place.read_rows(table) == sorted(table.rows())


def test_columns_of_the_items_come_and_go(place: Place) -> None:
    mail = build_mail_table()
    for columns in (mail.columns[:4], mail.columns, ["user_id", "rank", "item_id", "price"]):
        lists = mail.select(columns)
        place.sink.write(lists)
        rows = place.read("user_id", columns)
        written = sorted(tuple(row.get(column) for column in columns) for row in rows)
        assert str(written) == str(sorted(lists.rows())), columns


def test_lists_of_similar_items_are_found_by_the_item(place: Place) -> None:
    if place.sink.kind == "dynamodb":
        open_dynamodb().delete_table(TableName=TABLE)
        create_dynamodb_table("item_id")
    similar = build_similar_items_table()
    sink = replace(place.sink, address="shop/similar_items")
    assert sink.write(similar) == (3, 2)
    assert str(place.read_rows(similar)) == str(sorted(similar.rows()))
    assert sink.write(similar.filter(item_id="b")) == (1, 1)
    assert place.read_rows(similar) == [("b", 1, "a", "A", 0.5)]


def test_users_are_whole_however_many_there_are(place: Place) -> None:
    # A sink's batch of rows in memory is so small that two lists lie at the ends of batches.
    users = 200 if place.sink.kind == "dynamodb" else 21_000
    lists = build_large_table(users)
    assert place.sink.write(lists) == (5 * users, users)
    columns = ["user_id", "rank", "item_id"]
    rows = place.read("user_id", columns)
    assert {tuple(row[column] for column in columns) for row in rows} == {
        *lists.select(columns).rows()
    }


def test_in_an_experiment_people_have_their_arm(place: Place) -> None:
    lists = build_lists_table({"1": ["a"], "2": ["b"]}, titles=False)
    place.sink.write(lists.with_columns(arm=pl.Series(["model", "control"])))
    if place.sink.kind == "dynamodb":
        items = open_dynamodb().scan(TableName=TABLE)["Items"]
        arms = {item["user_id"]["S"]: item["arm"]["S"] for item in items}
    else:
        arms = {row["user_id"]: row["arm"] for row in place.read("user_id", ["user_id", "arm"])}
    assert arms == {"1": "model", "2": "control"}


def test_a_check_changes_nothing_in_the_sink(place: Place) -> None:
    place.sink.check()
    lists = build_lists_table({"1": ["a", "b"]})
    place.sink.write(lists)
    place.sink.check()
    assert place.read_rows(lists) == lists.rows()


@pytest.mark.parametrize("place", ["postgres", "dynamodb"], indirect=True)
def test_lists_of_another_pipeline_are_left_alone(place: Place) -> None:
    lists = build_lists_table({"1": ["a"]})
    place.sink.write(lists)
    other = replace(place.sink, address="another")
    with pytest.raises(SinkFailedError, match=r"has the lists of .*shop"):
        other.write(build_lists_table({"2": ["b"]}))
    assert place.read_rows(lists) == lists.rows()


def test_passing_errors_are_told_from_lasting_errors(place: Place, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    lists = build_lists_table({"1": ["a"]})
    if place.sink.kind == "postgres":
        url = f"postgresql://owner:planted@127.0.0.1:{port}/shop"
        with pytest.raises(SinkRetryError, match="refused") as error:
            replace(place.sink, environment={URL_ENV: url}).write(lists)
        assert "planted" not in str(error.value)
        wrong = replace(place.sink, environment={})
    elif place.sink.kind == "dynamodb":
        wrong = replace(place.sink, settings={"table": "missing"})
    else:
        wrong = replace(place.sink, settings={"path": str(tmp_path / "file/lists.csv")})
        (tmp_path / "file").write_text("a file where a folder should be")
    for attempt in (wrong.check, lambda: wrong.write(lists)):
        with pytest.raises(SinkFailedError) as failure:
            attempt()
        assert not isinstance(failure.value, SinkRetryError)
