"""The Items dataset in the training, through the API: new items, and data that say nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from batchrec_dagster.personalize.schemas import build_items_schema
from batchrec_dagster_tests.guard.servers.personalize import (
    SEEN,
    Local,
    build_taste_rows,
    encode_csv,
    encode_user_lines,
)

pytestmark = pytest.mark.slow

EVEN = {f"new{n}" for n in range(0, 12, 2)}
ODD = {f"new{n}" for n in range(1, 12, 2)}
KINDS = {f"i{n}": ("even", "odd")[n % 2] for n in range(40)} | {
    f"new{n}": ("even", "odd")[n % 2] for n in range(12)
}
USERS = [f"u{n}" for n in range(60)]


def _create_group_with_empty_items(local: Local) -> tuple[str, str]:
    """A group with interactions, and its Items dataset without rows."""
    group, _ = local.import_rows(build_taste_rows())
    schema = local.client.create_schema(
        name="items", schema=build_items_schema(created=False, categories=["KIND"], numbers=[])
    )["schemaArn"]
    dataset_answer = local.client.create_dataset(
        name="items", schemaArn=schema, datasetGroupArn=group, datasetType="Items"
    )
    return group, local.wait_until_active(dataset_answer["datasetArn"])


def _create_group_with_items(local: Local, rows: Iterable[tuple[str, str]]) -> str:
    """A group with interactions, and an Items dataset of these ids and categories."""
    group, dataset = _create_group_with_empty_items(local)
    lines = ["ITEM_ID,KIND", *(f"{item},{kind}" for item, kind in rows), ""]
    local.store.put("s3://data/items.csv", "\n".join(lines).encode())
    local.wait_until_active(local.start_import(dataset, "s3://data/items.csv", "items"))
    return group


def _build_exploration_options(weight: str) -> Mapping[str, Any]:
    config = {"itemExplorationConfig": {"explorationWeight": weight}}
    return {"batchInferenceJobConfig": config}


@pytest.mark.parametrize("recipe", ["aws-user-personalization", "aws-user-personalization-v2"])
def test_new_items_are_recommended_to_who_likes_their_kind(local: Local, recipe: str) -> None:
    group = _create_group_with_items(local, KINDS.items())
    version = local.wait_until_active(local.create_version(local.create_solution(group, recipe)))
    filter_arn = local.create_filter(group, SEEN)
    lists = local.recommend(version, USERS, numResults=10, filterArn=filter_arn)
    for user, items in lists.items():
        even = int(user[1:]) % 2 == 0
        assert not (ODD if even else EVEN) & set(items)
    assert sum(bool((EVEN | ODD) & set(items)) for items in lists.values()) > 30


def test_exploration_weight_bounds_the_share_and_0_turns_it_off(local: Local) -> None:
    group = _create_group_with_items(local, KINDS.items())
    version = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-user-personalization"))
    )
    filter_arn = local.create_filter(group, SEEN)
    largest_shares = []
    for weight in ("0", "0.1", "0.5"):
        lists = local.recommend(
            version,
            USERS,
            f"job{weight[-1]}",
            numResults=10,
            filterArn=filter_arn,
            **_build_exploration_options(weight),
        )
        largest_shares.append(max(len((EVEN | ODD) & set(items)) for items in lists.values()))
        assert largest_shares[-1] <= float(weight) * 10
    assert largest_shares[0] == 0
    assert largest_shares[1] == 1
    assert largest_shares[2] > 1


def test_filters_work_on_new_items(local: Local) -> None:
    group = _create_group_with_items(local, KINDS.items())
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    odd_filter_arn = local.create_filter(group, 'INCLUDE ItemID WHERE Items.KIND IN ("odd")', "odd")
    for items in local.recommend(
        version, ["u1", "u3"], numResults=20, filterArn=odd_filter_arn
    ).values():
        assert ODD & set(items)
        assert {KINDS[item] for item in items} == {"odd"}
    # Items that a user has interacted with since then are seen, though new to the training.
    later_rows = [*build_taste_rows(), ("u1", "new1", 1_700_000_000), ("u1", "new3", 1_700_000_001)]
    local.store.put("s3://data/more.csv", encode_csv(later_rows))
    dataset = next(
        d["datasetArn"]
        for d in local.client.list_datasets(datasetGroupArn=group)["datasets"]
        if d["datasetType"] == "INTERACTIONS"
    )
    local.wait_until_active(local.start_import(dataset, "s3://data/more.csv", "more"))
    seen_filter_arn = local.create_filter(group, SEEN)
    items = local.recommend(version, ["u1"], "later", numResults=20, filterArn=seen_filter_arn)[
        "u1"
    ]
    assert not {"new1", "new3"} & set(items)
    assert ODD & set(items)


@pytest.mark.parametrize(
    "rows",
    [
        [(item, "one") for item in KINDS],
        [(item, "") for item in KINDS],
        [(f"other{n}", f"value{n}") for n in range(100_000)],
    ],
    ids=["one category for all", "no value", "100,000 values of unknown items"],
)
def test_items_that_say_nothing_change_nothing(
    local: Local, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    group = _create_group_with_items(local, rows)
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    plain = Local(tmp_path_factory.mktemp("plain"))
    group_without_items, _ = plain.import_rows(build_taste_rows())
    expected = plain.wait_until_active(
        plain.create_version(plain.create_solution(group_without_items))
    )
    assert local.recommend(version, USERS) == plain.recommend(expected, USERS)


def test_an_empty_items_dataset_changes_nothing(local: Local) -> None:
    group, _ = _create_group_with_empty_items(local)
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    assert len(local.recommend(version, ["u1"], numResults=30)["u1"]) == 30


def test_version_2_lines_say_that_new_items_are_explored(local: Local) -> None:
    group = _create_group_with_items(local, KINDS.items())
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    local.store.put("s3://data/users.json", encode_user_lines(["u1"]))
    arn = local.create_batch_job(version, numResults=40)
    local.wait_until_active(arn)
    assert '"Exploration"' not in local.read_lines("s3://data/out/users.json.out")[0]
    local.client = local.open_client(v2_lines=True)
    local.wait_until_active(
        local.create_batch_job(version, target="s3://data/v2/", jobName="v2", numResults=40)
    )
    output = json.loads(local.read_lines("s3://data/v2/users.json.out")[0])["output"]
    reasons = dict(zip(output["recommendedItems"], output["reasons"], strict=True))
    explored_items = {
        item for item, item_reasons in reasons.items() if item_reasons == ["Exploration"]
    }
    assert explored_items == {item for item in reasons if item.startswith("new")}
    assert ODD & explored_items
