"""JSON that lies within objects: the message of a run names the form, and has the query to set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.nested_json import recognise_nested_form
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster_tests.preparation.own_data import prepare_interactions

SECONDS = 1_577_836_800
DAY = "2020-01-01T00:00:00Z"
MS = SECONDS * 1_000
ORDER = {"user_id": "u", "sku": "i", "ts": MS}

# Those that shapes.py does not have.
FORMS: dict[str, tuple[str, Sequence[Mapping[str, object]]]] = {
    "a list in each order": (
        "nested JSON",
        [{"customerId": "u", "time": MS, "tags": ["a", "b"], "items": [{"sku": "i"}]}],
    ),
    "lists in lists": (
        "nested JSON",
        [{"user": "u", "visits": [{"ts": MS, "views": [{"product": {"id": "i"}}]}]}],
    ),
    "mongo": (
        "MongoDB's extended JSON",
        [{"_id": {"$oid": "d"}, "userId": {"$oid": "u"}, "itemId": "i", "at": {"$date": DAY}}],
    ),
    "debezium": (
        "Debezium's change events",
        [
            {"schema": {"name": "x"}, "payload": {"before": None, "after": ORDER, "op": "c"}},
            {"schema": {"name": "x"}, "payload": {"before": ORDER, "after": None, "op": "d"}},
        ],
    ),
    "a topic": (
        "a dump of a Kafka topic",
        [{"key": "u", "value": ORDER, "offset": 7}],
    ),
    "a topic with texts": (
        "a dump of a Kafka topic",
        [{"topic": "t", "partition": 0, "ts": MS + 5, "payload": json.dumps(ORDER)}],
    ),
}


def write_lines(folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
    (folder / "events.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_message(folder: Path, **settings: object) -> str:
    with pytest.raises(PreparationError) as error:
        prepare_interactions(folder, {"ratings": {"source": "events.json", **settings}})
    return str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_the_message_has_the_query_that_flattens_it(tmp_path: Path, form: str) -> None:
    words, rows = FORMS[form]
    write_lines(tmp_path, rows)
    message = read_message(tmp_path)
    assert message.startswith(f"events.json is {words}")
    assert "\n" not in message
    query = message.partition("ratings.query: ")[2]
    lines, _ = prepare_interactions(
        tmp_path, {"ratings": {"source": "events.json", "query": query}}
    )
    assert lines == [f"u,i,{SECONDS},rating"]


def test_one_object_over_many_lines_has_its_rows_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "events.json").write_text(json.dumps({"next": None, "data": [ORDER]}, indent=2))
    message = read_message(tmp_path)
    assert message.startswith("events.json is one JSON object that has its rows in a list")
    query = message.partition("ratings.query: ")[2]
    lines, _ = prepare_interactions(
        tmp_path, {"ratings": {"source": "events.json", "query": query}}
    )
    assert lines == [f"u,i,{SECONDS},rating"]


def test_columns_that_are_declared_and_hold_objects_need_the_query_too(tmp_path: Path) -> None:
    write_lines(tmp_path, FORMS["mongo"][1])
    columns = {"user": "userId", "item": "itemId", "timestamp": "at"}
    assert 'userId."$oid" AS user_id' in read_message(tmp_path, columns=columns)


def test_names_that_say_nothing_become_columns_to_choose_from(tmp_path: Path) -> None:
    write_lines(tmp_path, [{"who": {"nr": 1, "mail": "m"}, "what": {"nr": 2}, "order": {"nr": 3}}])
    message = read_message(tmp_path)
    assert re.search(r"who\.nr AS who_nr, .*\"order\"\.nr AS order_nr", message)
    assert message.endswith("and ratings.columns, of its columns, by what they hold")


def test_flat_json_has_no_nested_form(tmp_path: Path) -> None:
    write_lines(tmp_path, [{"who": 1, "what": 2}])
    path = tmp_path / "events.json"
    assert recognise_nested_form(OpenedFile(path, path.name, path.stat().st_size)) is None
    assert "could not recognise the user and item" in read_message(tmp_path)
