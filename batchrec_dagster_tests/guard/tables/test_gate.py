"""Tests of the gate: which models' lists are published, and when there are too few data."""

from __future__ import annotations

import random
from typing import Any

import pytest

from batchrec_dagster_tests.guard.seams.gate import (
    Sizes,
    judge_model,
    judge_next_model,
    judge_sizes,
)

TITLE, IMAGE = "items.columns.title", "items.columns.image"


@pytest.mark.parametrize(
    ("gate", "model", "setting"),
    [
        # The first model is compared with popular items.
        ({}, {"ndcg": 0.1, "popular": 0.05}, None),
        ({}, {"ndcg": 0.1}, None),
        ({}, {"ndcg": 0.05, "popular": 0.05}, None),
        ({}, {"ndcg": 0.04, "popular": 0.05}, "most popular items"),
        # Popular items of the last days count too, if they are better by more than chance.
        ({}, {"ndcg": 0.1, "popular": 0.05, "recent_popular": 0.08}, None),
        ({}, {"ndcg": 0.075, "popular": 0.05, "recent_popular": 0.08}, None),
        (
            {},
            {"ndcg": 0.05, "popular": 0.04, "recent_popular": 0.08},
            "most popular items of the last 30 days",
        ),
        ({}, {"ndcg": 0.04, "popular": 0.05, "recent_popular": 0.03}, "most popular items"),
        # Later models are compared with the model of the published lists.
        ({"max_drop": 0.3}, {"ndcg": 0.071, "published_ndcg": 0.1}, None),
        ({"max_drop": 0.3}, {"ndcg": 0.069, "published_ndcg": 0.1}, "gate.max_drop allows 30%"),
        ({"max_drop": 0.5}, {"ndcg": 0.069, "published_ndcg": 0.1}, None),
        ({"max_drop": 0}, {"ndcg": 0.099, "published_ndcg": 0.1}, "gate.max_drop allows 0%"),
        ({"max_drop": 1}, {"ndcg": 0.0, "published_ndcg": 0.1}, None),
        # Measurements on other interactions are not compared.
        ({}, {"ndcg": 0.01, "published_ndcg": 0.1, "is_comparable": False}, None),
        # The live model has passed the gate before.
        (
            {"min_ndcg_at_25": 0.5},
            {"ndcg": 0.1, "popular": 0.2, "published_ndcg": 0.1, "is_published": True},
            None,
        ),
        ({"min_ndcg_at_25": 0.2}, {"ndcg": 0.1}, "gate.min_ndcg_at_25 is 0.2"),
        ({"min_coverage": 0.3}, {"ndcg": 0.1, "coverage": 0.2}, "gate.min_coverage is 0.3"),
        # A model without tested users fails only the declared floors.
        ({}, {"ndcg": 0.0, "coverage": 0.0, "published_ndcg": 0.1, "tested_users": 0}, None),
        ({"min_ndcg_at_25": 0.1}, {"ndcg": 0.0, "tested_users": 0}, "gate.min_ndcg_at_25 is 0.1"),
    ],
)
def test_the_gate_refuses_a_worse_model_and_names_the_setting(
    gate: dict[str, float], model: dict[str, Any], setting: str | None
) -> None:
    judgement = judge_model(gate, **model)
    assert judgement.is_refused is (setting is not None)
    assert setting is None or setting in judgement.text
    anyway = judge_model(gate, **model, publish_anyway=True)
    assert not anyway.is_refused
    assert setting is None or setting in anyway.text


def test_all_reasons_of_a_refusal_are_named() -> None:
    judgement = judge_model(
        {"min_coverage": 0.1, "max_drop": 0.3},
        ndcg=0.02,
        popular=0.03,
        coverage=0.05,
        published_ndcg=0.1,
    )
    for part in ("0.0200", "0.0300", "most popular items", "gate.max_drop", "gate.min_coverage"):
        assert part in judgement.text
    assert "\n" not in judgement.text


def test_two_models_are_compared_on_the_same_people() -> None:
    chance = random.Random(1)
    before = {f"u{number}": chance.betavariate(0.5, 1.5) for number in range(1_000)}
    # The model is a little worse for every user, and users differ by much.
    now = {user: max(0.0, ndcg - chance.uniform(0.0, 0.02)) for user, ndcg in before.items()}
    is_worse, text = judge_next_model(before, now)
    assert is_worse
    assert "by groups of the same people" in text
    # On different users, the difference may be chance.
    is_worse, text = judge_next_model(before, {f"other {user}": now[user] for user in now})
    assert not is_worse
    assert not judge_next_model(before, before)[0]


def test_without_groups_of_people_a_lead_is_reported_as_possible_chance() -> None:
    text = judge_model({}, ndcg=0.1, popular=0.05, engine="Amazon Personalize").text
    assert "without an interval, as Amazon Personalize gives means alone" in text
    assert "95% interval 0.0" in judge_model({}, ndcg=0.1, recent_popular=0.05).text


@pytest.mark.parametrize(
    ("sizes", "published", "max_shrink", "is_refused"),
    [
        (Sizes(2000), Sizes(1000), 0.2, False),
        (Sizes(800), Sizes(1000), 0.2, False),
        (Sizes(799), Sizes(1000), 0.2, True),
        (Sizes(999), Sizes(1000), 0.0, True),
        (Sizes(500), Sizes(1000), 0.5, False),
        (Sizes(0), Sizes(1000), 0.2, True),
        (Sizes(0), Sizes(1000), 1.0, False),
        # Users are compared separately.
        (Sizes(1000, {"users": 79}), Sizes(1000, {"users": 100}), 0.2, True),
        (Sizes(1000, {"users": 80}), Sizes(1000, {"users": 100}), 0.2, False),
        # Half of the orders may be a small share of all rows.
        (Sizes(960, events={"buy": 35}), Sizes(1000, events={"buy": 100}), 0.3, True),
        (Sizes(930), Sizes(1000, events={"buy": 100}), 0.3, True),
        (Sizes(970, events={"buy": 70}), Sizes(1000, events={"buy": 100}), 0.3, False),
        # The number of rare events varies.
        (Sizes(960, events={"buy": 9}), Sizes(1000, events={"buy": 99}), 0.3, False),
        # The filled cells of each column are compared too.
        (Sizes(1000, filled={TITLE: 790}), Sizes(1000, filled={TITLE: 1000}), 0.2, True),
        (Sizes(1000, filled={TITLE: 800}), Sizes(1000, filled={TITLE: 1000}), 0.2, False),
        (Sizes(1000, filled={TITLE: 0}), Sizes(1000, filled={TITLE: 1000}), 1.0, False),
        # The number of rarely filled cells varies; only an empty column counts.
        (Sizes(1000, filled={TITLE: 100}), Sizes(1000, filled={TITLE: 490}), 0.2, False),
        (Sizes(1000, filled={TITLE: 0}), Sizes(1000, filled={TITLE: 490}), 0.2, True),
        # A new column, or a column that is no longer declared.
        (Sizes(1000, filled={IMAGE: 0}), Sizes(1000, filled={TITLE: 1000}), 0.2, False),
    ],
)
def test_data_that_shrank_by_more_than_is_allowed_are_refused(
    sizes: Sizes, published: Sizes, max_shrink: float, *, is_refused: bool
) -> None:
    judgement = judge_sizes(sizes, published, max_shrink)
    assert judgement.is_refused is is_refused
    assert ("gate.max_shrink" in judgement.text) is is_refused
    assert not judge_sizes(sizes, published, max_shrink, publish_anyway=True).is_refused


def test_all_losses_are_named() -> None:
    text = judge_sizes(
        Sizes(500, {"users": 10}, {TITLE: 0, IMAGE: 500}),
        Sizes(1000, {"users": 100}, {TITLE: 1000, IMAGE: 900}),
        0.2,
    ).text
    for part in ("1,000 to 500", "users", "100 to 10", TITLE, "100% to 0%"):
        assert part in text
    assert IMAGE not in text
