"""Filters from CreateFilter to the lines of a batch job."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from batchrec_dagster_tests.guard.servers.personalize import SEEN, Local, build_taste_rows

Answers = list[dict[str, Any]]


def import_metadata(
    local: Local, group: str, kind: str, fields: list[dict[str, Any]], rows: str
) -> None:
    """A dataset of Items or Users with these rows of CSV."""
    schema = {
        "type": "record",
        "name": kind,
        "namespace": "com.amazonaws.personalize.schema",
        "fields": fields,
        "version": "1.0",
    }
    schema_answer = local.client.create_schema(name=kind, schema=json.dumps(schema))
    dataset = local.client.create_dataset(
        name=kind, schemaArn=schema_answer["schemaArn"], datasetGroupArn=group, datasetType=kind
    )["datasetArn"]
    header = ",".join(field["name"] for field in fields)
    local.store.put(f"s3://data/{kind}.csv", f"{header}\n{rows}".encode())
    local.wait_until_active(
        local.start_import(local.wait_until_active(dataset), f"s3://data/{kind}.csv", name=kind)
    )


@pytest.fixture
def group(local: Local) -> str:
    """Interactions, items with genres (lower case in the schema) and prices, users with ages."""
    group, _ = local.import_rows(build_taste_rows())
    import_metadata(
        local,
        group,
        "Items",
        [
            {"name": "ITEM_ID", "type": "string"},
            {"name": "genres", "type": ["null", "string"], "categorical": True},
            {"name": "price", "type": "float"},
        ],
        "".join(
            f"i{n},{['horror', 'comedy', 'horror|comedy', ''][n % 4]},{n}.5\n" for n in range(40)
        ),
    )
    import_metadata(
        local,
        group,
        "Users",
        [{"name": "USER_ID", "type": "string"}, {"name": "AGE", "type": "int"}],
        "".join(f"u{n},{n}\n" for n in range(60)),
    )
    return group


def run(
    local: Local, group: str, expression: str, lines: list[dict[str, Any]], recipe: str
) -> Answers:
    """What a batch inference job with this filter answers."""
    version = local.wait_until_active(local.create_version(local.create_solution(group, recipe)))
    local.store.put("s3://data/in.json", "\n".join(map(json.dumps, lines)).encode())
    arn = local.create_filter(group, expression)
    local.wait_until_active(
        local.create_batch_job(version, "s3://data/in.json", filterArn=arn, numResults=40)
    )
    return [json.loads(line) for line in local.read_lines("s3://data/out/in.json.out")]


def read_numbers(answer: dict[str, Any]) -> set[int]:
    """Which items were recommended."""
    assert answer["error"] is None
    return {int(item.removeprefix("i")) for item in answer["output"]["recommendedItems"]}


def list_numbers(holds: Callable[[int], bool]) -> set[int]:
    return {n for n in range(40) if holds(n)}


def test_items_are_chosen_by_their_metadata(local: Local, group: str) -> None:
    expression = 'include itemid where ITEMS.GENRES in ("comedy") and items.PRICE < 30'
    lines = [{"userId": "u1"}, {"userId": "stranger"}]
    for answer in run(local, group, expression, lines, "aws-user-personalization-v2"):
        assert read_numbers(answer) == list_numbers(lambda n: n % 4 in (1, 2) and n < 30)


def test_if_conditions_depend_on_the_user(local: Local, group: str) -> None:
    expression = (
        'EXCLUDE ItemID WHERE Items.genres IN ("horror") IF CurrentUser.AGE < 18'
        f" | {SEEN} IF CurrentUser.AGE >= 18"
    )
    lines = [{"userId": user} for user in ("u5", "u17", "u18", "stranger")]
    answers = run(local, group, expression, lines, "aws-user-personalization")
    assert (
        read_numbers(answers[0])
        == read_numbers(answers[1])
        == list_numbers(lambda n: n % 4 in (1, 3))
    )
    had = {int(item[1:]) for user, item, _ in build_taste_rows() if user == "u18"}
    assert read_numbers(answers[2]) == list_numbers(lambda n: n not in had)
    assert read_numbers(answers[3]) == list_numbers(lambda n: True)


def test_segments_have_only_users_that_the_filter_includes(local: Local, group: str) -> None:
    version = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-item-affinity"))
    )
    lines = [{"itemId": "i1"}, {"itemId": "i2"}]
    local.store.put("s3://data/queries.json", "\n".join(map(json.dumps, lines)).encode())
    arn = local.create_filter(group, "INCLUDE UserID WHERE Users.AGE >= 50")
    local.wait_until_active(local.create_segment_job(version, filterArn=arn, numResults=60))
    answers = [json.loads(line) for line in local.read_lines("s3://data/segments/queries.json.out")]
    for answer in answers:
        users = {int(user[1:]) for user in answer["output"]["usersList"]}
        assert users
        assert min(users) >= 50


def test_a_filter_that_does_not_fit_the_schemas_is_refused(local: Local, group: str) -> None:
    invalid = local.client.exceptions.InvalidInputException
    for expression, message in {
        "INCLUDE ItemID WHERE Items.GENRE = 1": "Items.GENRE is not in the schema.*genres, price",
        'INCLUDE ItemID WHERE Items.GENRES IN ("a"': "ends too early",
        'EXCLUDE ItemID WHERE Items.PRICE > "5"': "of type float, compare it with a number",
    }.items():
        with pytest.raises(invalid, match=message):
            local.create_filter(group, expression)
    assert local.client.list_filters()["Filters"] == []
