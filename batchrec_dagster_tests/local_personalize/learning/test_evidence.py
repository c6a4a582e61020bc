"""How sure the metrics are: counted again another way, and intervals that cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from batchrec_dagster.local_personalize.learning import evidence
from batchrec_dagster.local_personalize.learning.evaluation import ndcg, split
from batchrec_dagster.local_personalize.learning.evidence import (
    LENGTHS,
    MIN_USERS,
    bootstrap_interval,
)
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize.measurements import ALL, Evidence
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of, train_popular

NDCG = "normalized_discounted_cumulative_gain_at_25"


@pytest.fixture(scope="module")
def data() -> Interactions:
    """600 users with 2 to 40 interactions: half of them with the items of their taste."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(600):
        size = int(rng.integers(2, 41))
        own = rng.permutation(60)[: size // 2] * 2 + user % 2
        other = 120 + rng.choice(60, size - size // 2, replace=False, p=np.arange(1, 61) / 1830)
        items = rng.permutation(np.concatenate([own, other]))
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(items)]
    return interactions_of(rows)


def test_the_evidence_agrees_with_the_metrics_of_both_models(data: Interactions) -> None:
    model = train("aws-similar-items", data, {})
    popular = train_popular(data)
    everyone, *groups = Evidence.read(model.evidence)
    held_out = split(data)
    assert held_out is not None
    assert (everyone.group, everyone.users) == (ALL, len(held_out.users))
    assert everyone.ndcg.value == pytest.approx(model.metrics[NDCG])
    # The same users and the same items, measured by another training.
    assert everyone.popular.value == pytest.approx(popular.metrics[NDCG])
    assert everyone.difference.value == pytest.approx(model.metrics[NDCG] - popular.metrics[NDCG])
    for estimate in (everyone.ndcg, everyone.popular, everyone.difference):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high

    history_lengths = [int((held_out.inputs.users == user).sum()) for user in held_out.users]
    lengths_by_label = {"1-4": range(1, 5), "5-19": range(5, 20), "20+": range(20, 99)}
    expected = {
        label: sum(length in of for length in history_lengths)
        for label, of in lengths_by_label.items()
    }
    assert {group.group: group.users for group in groups} == expected
    assert [label for _, label in LENGTHS] == [*lengths_by_label]
    assert sum(group.users * group.ndcg.value for group in groups) / everyone.users == (
        pytest.approx(everyone.ndcg.value)
    )


def test_few_users_have_no_interval(data: Interactions) -> None:
    few = data.filter(data.users < 60)
    (everyone, *_) = Evidence.read(train_popular(few).evidence)
    assert everyone.users < MIN_USERS
    assert (everyone.ndcg.low, everyone.ndcg.high) == (None, None)
    assert (everyone.difference.value, everyone.difference.low) == (0.0, None)


def test_users_who_only_repeat_items_are_no_tested_users() -> None:
    repeats = [(f"u{n % 30}", f"i{n % 30 % 7}", n) for n in range(300)]
    model = train_popular(interactions_of(repeats))
    (everyone,) = Evidence.read(model.evidence)
    assert (everyone.group, everyone.users, everyone.ndcg.value) == (ALL, 0, 0.0)
    assert everyone.difference.interval is None


@pytest.mark.slow
def test_segments_have_no_evidence(data: Interactions) -> None:
    assert Evidence.read(train("aws-item-affinity", data, {}).evidence) == []


@pytest.mark.parametrize("at_once", [1, 100, 1 << 16])
def test_an_interval_does_not_depend_on_how_many_resamples_are_drawn_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).random((30, 3))
    rng = np.random.default_rng(0)
    means = [values[rng.integers(30, size=30)].mean(axis=0) for _ in range(evidence.RESAMPLES)]
    monkeypatch.setattr(evidence, "DRAWN_AT_ONCE", at_once)
    assert bootstrap_interval(values) == pytest.approx(np.quantile(means, evidence.BOUNDS, axis=0))


@pytest.mark.slow
def test_the_interval_covers_the_truth() -> None:
    """Of 200 samples of 200 users, whose NDCG is 0 for most and uneven for the others."""
    rng = np.random.default_rng(0)
    hits = rng.random((20_000, 25)) < 0.01
    truth = ndcg(hits, np.ones(len(hits), np.int64))
    intervals_with_difference = 0
    for _ in range(200):
        low, high = bootstrap_interval(truth[rng.integers(len(truth), size=200)][:, None])
        intervals_with_difference += low[0] <= truth.mean() <= high[0]
    assert intervals_with_difference >= 0.9 * 200
