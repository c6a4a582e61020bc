"""Tests of a recipe's training data: event types, values and weights, and items nobody had yet.

The data have two tastes: even users like even items, odd users like odd items.
"""

from __future__ import annotations

import pytest

from batchrec_dagster_tests.guard.servers.personalize import SEEN, Films, Local
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_csv,
    write_interactions_schema,
)

pytestmark = pytest.mark.slow

ROWS = build_taste_rows()
FOR_USERS = ("aws-user-personalization", "aws-user-personalization-v2")


@pytest.mark.parametrize("recipe", FOR_USERS)
def test_event_type_chooses_what_is_trained_on(local: Local, recipe: str) -> None:
    skips = encode_csv([(u, f"other-{i}", t) for u, i, t in ROWS], event_type="skip")
    local.store.put("s3://data/rows.csv", encode_csv(ROWS) + skips.partition(b"\n")[2])
    group = local.create_group()
    local.wait_until_active(local.start_import(local.create_dataset(group), "s3://data/rows.csv"))
    version = local.train_version(group, recipe, eventType="watch")
    items = local.recommend(version, ["u1"], numResults=100)["u1"]
    assert len(items) == 40
    assert not [item for item in items if item.startswith("other-")]


def import_valued_lines(local: Local, lines: list[str]) -> str:
    """Import these lines with EVENT_TYPE and EVENT_VALUE, and return the dataset group."""
    schema = write_interactions_schema({"name": "EVENT_VALUE", "type": ["null", "double"]})
    group = local.create_group()
    answer = local.client.create_dataset(
        name="films",
        schemaArn=local.client.create_schema(name="valued", schema=schema)["schemaArn"],
        datasetGroupArn=group,
        datasetType="Interactions",
    )
    dataset = local.wait_until_active(answer["datasetArn"])
    header = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE"
    local.store.put("s3://data/rows.csv", "\n".join([header, *lines]).encode())
    local.wait_until_active(local.start_import(dataset, "s3://data/rows.csv"))
    return group


@pytest.mark.parametrize("recipe", FOR_USERS)
def test_events_below_the_threshold_are_seen_and_not_trained_on(local: Local, recipe: str) -> None:
    values = {"whole": "0.9", "half": "0.5", "little": "0.4", "unknown": ""}
    lines = [
        f"{user},{kind}-{item},{time},watch,{value}"
        for kind, value in values.items()
        for user, item, time in ROWS
    ]
    # A user with all items below the threshold has seen the items, and gets a stranger's list.
    item = f"whole-{ROWS[0][1]}"
    lines += [f"new,{item},{time},watch,0.1" for time in (1, 2)]
    group = import_valued_lines(local, lines)
    version = local.train_version(group, recipe, solutionConfig={"eventValueThreshold": "0.5"})
    lists = local.recommend(version, ["u1", "new", "stranger"], "all", numResults=500)
    assert {name.split("-")[0] for name in lists["u1"]} == {"whole", "half"}
    assert item in lists["new"] == lists["stranger"]
    unseen = local.recommend(version, ["new"], numResults=500, filterArn=local.create_filter(group))
    assert item not in unseen["new"]


def test_event_weights_choose_what_is_trained_on_and_what_comes_first(local: Local) -> None:
    lines = [
        f"{user},{kind}-{item},{time},{kind},{value}".replace("rate-i", "rate-")
        for kind, value in (("buy", ""), ("rate", 4.5), ("rate", 2), ("view", ""), ("skip", ""))
        for user, item, time in ROWS
    ]
    group = import_valued_lines(local, lines)
    events = [
        {"eventType": "buy", "weight": 0.8},
        {"eventType": "rate", "eventValueThreshold": 4.0, "weight": 0.2},
        {"eventType": "skip", "weight": 0.0},
    ]
    config = {"eventsConfig": {"eventParametersList": events}}
    version = local.train_version(group, solutionConfig=config)
    items = local.recommend(version, ["u1"], numResults=500)["u1"]
    assert {item.split("-")[0] for item in items} == {"buy", "rate"}
    # All users bought the items that they rated. A purchase counts four times as much as a rating.
    assert all(item.startswith("buy") for item in items[:5])
    with pytest.raises(local.client.exceptions.InvalidInputException, match="eventsConfig"):
        local.create_solution(group, FOR_USERS[0], name="first", solutionConfig=config)


KINDS = {
    f"{stem}{n}": ("even", "odd")[n % 2]
    for stem, many in (("i", 40), ("new", 12))
    for n in range(many)
}
NEW = {item for item in KINDS if item.startswith("new")}
ITEM_FIELDS = (
    {"name": "ITEM_ID"},
    {"name": "KIND", "type": ["null", "string"], "categorical": True},
)


def import_with_items(local: Local, kinds: dict[str, str]) -> str:
    """Import interactions and items with a kind, where nobody had any of NEW; return the group."""
    group, _ = local.import_rows(ROWS)
    lines = [f"{item},{kind}" for item, kind in kinds.items()]
    local.import_metadata(group, "Items", ITEM_FIELDS, lines)
    return group


@pytest.mark.parametrize("recipe", FOR_USERS)
def test_new_items_are_recommended_to_users_who_like_their_kind(local: Local, recipe: str) -> None:
    version = local.train_version(import_with_items(local, KINDS), recipe)
    (group,) = local.client.list_dataset_groups()["datasetGroups"]
    users = [f"u{number}" for number in range(60)]
    filter_arn = local.create_filter(group["datasetGroupArn"], SEEN)
    lists = local.recommend(version, users, numResults=10, filterArn=filter_arn)
    liked = [
        KINDS[item] == ("even", "odd")[int(user[1:]) % 2]
        for user, items in lists.items()
        for item in items
        if item in NEW
    ]
    assert len(liked) > 30
    assert sum(liked) >= 0.9 * len(liked)


def test_exploration_weight_bounds_the_share_of_new_items(local: Local) -> None:
    version = local.train_version(import_with_items(local, KINDS), FOR_USERS[0])
    users = [f"u{number}" for number in range(60)]
    for weight, most in (("0", 0), ("0.5", 5)):
        config = {"itemExplorationConfig": {"explorationWeight": weight}}
        lists = local.recommend(
            version, users, f"job{most}", numResults=10, batchInferenceJobConfig=config
        )
        shares = [len(NEW & set(items)) for items in lists.values()]
        assert max(shares) <= most
        assert any(shares) == bool(most)
    # Items that a user has had count too, if the filter lets them in.
    bought = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("buy")'
    (group,) = local.client.list_dataset_groups()["datasetGroups"]
    filter_arn = local.create_filter(group["datasetGroupArn"], bought, "bought")
    filtered = local.recommend(
        version,
        users,
        "filtered",
        numResults=10,
        filterArn=filter_arn,
        batchInferenceJobConfig=config,
    )
    assert filtered == lists
    for weight in ("1.5", "some", "nan"):
        config = {"itemExplorationConfig": {"explorationWeight": weight}}
        with pytest.raises(
            local.client.exceptions.InvalidInputException, match="explorationWeight"
        ):
            local.create_batch_job(version, batchInferenceJobConfig=config)


def test_filters_hold_for_new_items(local: Local) -> None:
    group = import_with_items(local, KINDS)
    version = local.train_version(group)
    odd = local.create_filter(group, 'INCLUDE ItemID WHERE Items.KIND IN ("odd")', "odd")
    items = local.recommend(version, ["u1"], numResults=20, filterArn=odd)["u1"]
    assert NEW & set(items)
    assert {KINDS[item] for item in items} == {"odd"}
    # An item since the training counts as seen, though the training did not know it.
    later = [*ROWS, ("u1", "new1", 1_700_000_000), ("u1", "new3", 1_700_000_001)]
    local.store.put("s3://data/more.csv", encode_csv(later))
    dataset = f"{group.replace('dataset-group', 'dataset')}/INTERACTIONS"
    local.wait_until_active(local.start_import(dataset, "s3://data/more.csv", "more"))
    seen = local.create_filter(group, SEEN)
    items = local.recommend(version, ["u1"], "later", numResults=20, filterArn=seen)["u1"]
    assert not {"new1", "new3"} & set(items)


@pytest.mark.parametrize("kind", ["one", ""])
def test_items_that_say_nothing_change_nothing(films: Films, local: Local, kind: str) -> None:
    version = local.train_version(import_with_items(local, dict.fromkeys(KINDS, kind)))
    users = [f"u{number}" for number in range(60)]
    expected = films.recommend(films.train(FOR_USERS[1]), users, f"plain-{kind}")
    assert local.recommend(version, users) == expected


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [
                *((f"u{n}", "i1", n) for n in range(1000)),
                *((f"u{n}", "i2", n) for n in range(24)),
            ],
            "25 users",
        ),
        (
            [
                *((f"u{n}", "i1", n) for n in range(2501)),
                *((f"u{n}", "i2", n) for n in range(25)),
            ],
            "1 %",
        ),
    ],
)
def test_too_little_data_to_train_on_fails_with_what_is_missing(
    local: Local, rows: list[tuple[str, str, int]], reason: str
) -> None:
    group, _ = local.import_rows(rows)
    version = local.wait(local.create_version(local.create_solution(group)))
    assert version["status"] == "CREATE FAILED"
    assert reason in version["failureReason"]
    other = local.create_solution(group, name="bought", eventType="buy")
    version = local.wait(local.create_version(other))
    assert "1000" in version["failureReason"]
