"""Tests of held-out items and metrics, compared with the developer guide and plain readings."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.engine import blend, evaluate
from batchrec_dagster.local_personalize.engine.blend import train
from batchrec_dagster.local_personalize.engine.data import order_by_popularity
from batchrec_dagster.local_personalize.engine.evaluate import (
    HeldOut,
    hold_out,
    measure_ndcg,
    summarize_choices,
)
from batchrec_dagster.local_personalize.engine.select import FACTORS
from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster_tests.local_personalize.engine.support import (
    history_of,
    interactions_of,
    measure_popular_items,
    tastes,
)


def choices_of(*rows: tuple[int, int, int]) -> pl.DataFrame:
    """Return a table of choices with columns for the user, the user's group and the place."""
    schema = {"user": pl.Int64, "group": pl.Int64, "place": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_the_developer_guides_example() -> None:
    """The example has five recommendations, hits at ranks 2 and 5, and two relevant items."""
    metrics, _ = summarize_choices(choices_of((0, 9, 2), (0, 9, 5)))
    assert metrics["normalized_discounted_cumulative_gain_at_5"] == pytest.approx(0.6241, abs=5e-5)
    assert metrics["precision_at_5"] == 0.4
    assert metrics["mean_reciprocal_rank_at_25"] == 0.5


def test_a_perfect_list_has_ndcg_1_for_any_number_of_relevant_items() -> None:
    users, places = np.array([0, 1, 1, 1]), np.array([1, 1, 2, 3])
    for relevant in (3, 100):
        assert measure_ndcg(users, places, np.array([1, relevant]), 3).tolist() == [1, 1]


def test_metrics_are_means_over_users_by_personalizes_names() -> None:
    metrics, groups = summarize_choices(choices_of((0, 3, 1), (7, 99, 10)))
    assert metrics == pytest.approx(
        {
            "mean_reciprocal_rank_at_25": (1 + 1 / 10) / 2,
            "normalized_discounted_cumulative_gain_at_5": 0.5,
            "normalized_discounted_cumulative_gain_at_10": (1 + 1 / np.log2(11)) / 2,
            "normalized_discounted_cumulative_gain_at_25": (1 + 1 / np.log2(11)) / 2,
            "precision_at_5": 0.1,
            "precision_at_10": 0.1,
            "precision_at_25": 0.04,
        }
    )
    assert (groups.users[3], groups.users[99], groups.tested) == (1, 1, 2)
    assert (groups.ndcg[3], groups.ndcg[99]) == pytest.approx((1, 1 / np.log2(11)))


def test_without_choices_all_is_0() -> None:
    metrics, groups = summarize_choices(choices_of())
    assert set(metrics.values()) == {0.0}
    assert (groups.tested, groups.mean) == (0, None)


def read_plainly(held_out: HeldOut, part: str) -> dict[str, list[str]]:
    """Return the items of each user, oldest first."""
    rows = getattr(held_out, part)
    items: dict[str, list[str]] = {}
    for user, item in zip(rows.users, rows.items, strict=True):
        items.setdefault(rows.user_ids[user], []).append(rows.item_ids[item])
    return items


def test_the_newest_tenth_of_tested_users_is_held_out() -> None:
    rows = [*tastes(users=300), ("single", "i1", 1)]
    held_out = hold_out(interactions_of(rows))
    assert held_out is not None
    train_rows, inputs, truth = (read_plainly(held_out, p) for p in ("train", "inputs", "truth"))
    assert inputs.keys() == truth.keys() == set(held_out.train.user_ids[held_out.users])
    assert not train_rows.keys() & inputs.keys()
    assert "single" in train_rows
    assert len(truth) == 90  # 30 % of few users
    for user, items in inputs.items():
        user_items = [item for other, item, _ in rows if other == user]
        assert (items, truth[user]) == (user_items[:10], user_items[10:])


def test_a_tenth_of_many_users_is_tested() -> None:
    rows = [(f"u{user}", f"i{item}", item) for user in range(5000) for item in range(2)]
    held_out = hold_out(interactions_of(rows))
    assert held_out is not None
    assert len(read_plainly(held_out, "truth")) == 500


def test_items_of_one_second_are_held_out_regardless_of_their_ids() -> None:
    rows = [(f"u{user}", f"i{item}", 5) for user in range(400) for item in range(10)]
    held_out = hold_out(interactions_of(rows))
    assert held_out is not None
    items = [item for items in read_plainly(held_out, "truth").values() for item in items]
    assert set(items) == {f"i{n}" for n in range(10)}


@pytest.mark.parametrize("rows", [[], [("a", "x", 1)], [("a", "x", 1), ("a", "y", 2)]])
def test_too_few_rows_have_no_split(rows: list[tuple[str, str, int]]) -> None:
    assert hold_out(interactions_of(rows)) is None


def test_metrics_and_choices_equal_a_plain_reading() -> None:
    held_out = hold_out(interactions_of(tastes(users=200)))
    assert held_out is not None
    item_ids = held_out.train.item_ids[order_by_popularity(held_out.train)].tolist()
    measurements = measure_popular_items(held_out)
    inputs, truth = read_plainly(held_out, "inputs"), read_plainly(held_out, "truth")
    values = []
    rows = set()
    for user, later in truth.items():
        left = [item for item in item_ids if item not in inputs[user]][:25]
        relevant = {item for item in later if item in item_ids} - set(inputs[user])
        if relevant:
            places = {item: left.index(item) + 1 if item in left else 0 for item in relevant}
            gain = sum(1 / math.log2(1 + place) for place in places.values() if place)
            values.append(gain / sum(1 / math.log2(2 + n) for n in range(len(relevant))))
            rows |= {(user, item, place) for item, place in places.items()}
    assert measurements.groups is not None
    assert measurements.groups.tested == len(values)
    assert measurements.metrics[NDCG] == pytest.approx(np.mean(values))
    assert sum(measurements.groups.ndcg) == pytest.approx(sum(values), abs=1e-4)
    assert measurements.choices is not None
    columns = ["USER_ID", "ITEM_ID", "place"]
    assert set(measurements.choices.select(columns).iter_rows()) == rows


def test_a_sample_of_tested_users_is_even_among_those_with_new_items() -> None:
    users = 100
    history = history_of([[user] for user in range(users)], users)
    has_truth = np.arange(users) % 4 > 0
    truth = csr_matrix(np.diag(has_truth))
    tested = evaluate.Tested(history, truth, csr_matrix(truth.shape, dtype=bool))
    for size in (1, 2, 10, 74, 75, 76):
        sample = tested.take(size)
        taken = sample.truth.indices
        assert sample.truth.shape[0] == len(np.unique(taken)) == min(size, 75)
        assert has_truth[taken].all()
        assert sample.history.items.tolist() == taken.tolist()
        in_quarters = np.bincount(taken * 4 // users, minlength=4)
        assert in_quarters.max() - in_quarters.min() <= 1


def test_users_who_only_repeat_items_are_not_tested() -> None:
    rows = [(f"u{user}", f"i{item % 3}", item) for user in range(60) for item in range(20)]
    held_out = hold_out(interactions_of(rows))
    assert held_out is not None
    groups = measure_popular_items(held_out).groups
    assert groups is not None
    assert groups.tested == 0


def test_large_data_have_a_blend_without_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    data = interactions_of(tastes(users=400))
    whole = hold_out(data)
    assert whole is not None
    with_factors, _ = train(data, None, {}, print)
    assert FACTORS in with_factors.scorers
    monkeypatch.setattr(blend, "FACTOR_ROWS", 1000)
    monkeypatch.setattr(blend, "FEW_ROWS", 1000)
    without_factors, measurements = train(data, None, {}, print)
    assert FACTORS not in without_factors.scorers
    assert measurements.metrics[NDCG] > measure_popular_items(whole).metrics[NDCG]
