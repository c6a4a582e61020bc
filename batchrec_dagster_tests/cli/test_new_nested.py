"""`batchrec new` on JSON whose values lie within objects: it writes the query that a run needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from batchrec_dagster_tests.cli.new_support import (
    ROWS,
    START,
    list_leftovers,
    read_attributes,
    run_new,
    unloaded_project,
    working_project,
)
from batchrec_dagster_tests.support import Project

__all__ = ["unloaded_project", "working_project"]


def write_objects(project: Project, make: Callable[[int, int, int], dict[str, Any]]) -> None:
    lines = [
        json.dumps(make(user, item, START + 3600 * number))
        for number, (user, item) in enumerate(ROWS)
    ]
    (project.root / "events.json").write_text("\n".join(lines) + "\n")


def make_mongo_order(user: int, item: int, time: int) -> dict[str, Any]:
    return {
        "_id": {"$oid": f"{time:024x}"},
        "userId": {"$oid": f"{user:024x}"},
        "items": [{"sku": str(item)}, {"sku": str(item + 1)}],
        "createdAt": {"$date": {"$numberLong": str(time * 1000)}},
    }


def make_kafka_event(user: int, item: int, time: int) -> dict[str, Any]:
    value = json.dumps({"user_id": str(user), "item_id": str(item), "ts": time})
    return {"key": str(user), "value": value, "partition": 0, "offset": time}


@pytest.mark.parametrize(
    ("make", "words", "rows"),
    [
        (make_mongo_order, "MongoDB's extended JSON", 2 * len(ROWS)),
        (make_kafka_event, "a dump of a Kafka topic (key and value)", len(ROWS)),
    ],
    ids=["mongo", "kafka"],
)
def test_the_query_of_a_known_form_is_written(
    unloaded_project: Project,
    make: Callable[[int, int, int], dict[str, Any]],
    words: str,
    rows: int,
) -> None:
    write_objects(unloaded_project, make)
    code, output = run_new("shop", "--ratings", "events.json")
    assert code == 0, output
    assert f"events.json: {rows:,} rows ({words})" in output
    ratings = read_attributes(unloaded_project)["ratings"]
    assert ratings["query"].startswith("SELECT ")
    assert ratings["columns"] == {"user": "user_id", "item": "item_id", "timestamp": "ts"}
    text = (unloaded_project.package / "defs/shop/defs.yaml").read_text()
    assert "    query: |-\n      SELECT " in text


def test_columns_that_names_do_not_show_are_asked_for(unloaded_project: Project) -> None:
    write_objects(
        unloaded_project,
        lambda user, item, time: {"who": {"key": user}, "what": {"key": item}, "ts": time},
    )
    code, output = run_new("shop", "--ratings", "events.json")
    assert code == 2
    assert "is nested JSON, of which a query makes the columns: ts, who_key, what_key." in output
    assert "for example: --user who_key --item what_key" in output
    assert list_leftovers(unloaded_project) == []
    options = ("--user", "who_key", "--item", "what_key")
    code, output = run_new("shop", "--ratings", "events.json", *options)
    assert code == 0, output
    assert read_attributes(unloaded_project)["ratings"]["columns"] == {
        "user": "who_key",
        "item": "what_key",
        "timestamp": "ts",
    }


def test_plain_json_with_an_object_to_spare_needs_no_query(unloaded_project: Project) -> None:
    write_objects(
        unloaded_project,
        lambda user, item, time: {"user_id": user, "item_id": item, "ts": time, "more": {"a": 1}},
    )
    code, output = run_new("shop", "--ratings", "events.json")
    assert code == 0, output
    assert "query" not in read_attributes(unloaded_project)["ratings"]
