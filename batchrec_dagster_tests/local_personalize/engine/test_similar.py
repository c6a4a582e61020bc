"""Tests of similar items: popularity, thresholds, fallbacks, filters."""

from __future__ import annotations

import numpy as np
import pytest

from batchrec_dagster.local_personalize.engine.data import Float32, TrainingError
from batchrec_dagster.local_personalize.engine.evaluate import hold_out
from batchrec_dagster.local_personalize.engine.serve import Exclude
from batchrec_dagster.local_personalize.engine.similar import SimilarItems
from batchrec_dagster.local_personalize.trained_recipes import train
from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.personalize.recipes import HyperparameterError
from batchrec_dagster_tests.local_personalize.engine.support import (
    Row,
    interactions_of,
    measure_popular_items,
    tastes,
)

SIMS, SIMILAR = "aws-sims", "aws-similar-items"


def model_of(rows: list[Row], recipe: str = SIMS, **hyperparameters: str) -> SimilarItems:
    model, _ = train(recipe, interactions_of(rows), hyperparameters)
    assert isinstance(model, SimilarItems)
    return model


def list_similar(
    model: SimilarItems, items: list[str], k: int, exclude: Exclude | None = None
) -> list[list[str]]:
    """Return the similar items' ids, without padding."""
    return [
        [str(model.item_ids[item]) for item in row if item >= 0]
        for chunk in model.list_similar(items, k, exclude)
        for row in chunk.items
    ]


def pairs(**together: int) -> list[Row]:
    """Return rows: for each key, the given number of users has all its letters as items."""
    return [
        (f"{letters}-{n}", letter, place)
        for letters, users in together.items()
        for n in range(users)
        for place, letter in enumerate(letters)
    ]


def test_popularity_is_discounted_by_the_hyperparameter() -> None:
    # p occurs with a 6 of its 26 times, q 4 of its 4 times.
    rows = pairs(ap=6, aq=4, p=20)
    for discount, order in {"0": "pq", "0.1": "pq", "0.5": "qp", "1": "qp"}.items():
        model = model_of(rows, popularity_discount_factor=discount)
        assert list_similar(model, ["a"], 2) == [list(order)]


def test_a_pair_needs_enough_users() -> None:
    rows = pairs(ab=2, ac=3, d=9)
    assert list_similar(model_of(rows), ["a"], 9) == [["c", "d", "b"]]  # then popular items
    for least, order in {"2": "cbd", "4": "dcb"}.items():
        model = model_of(rows, min_cointeraction_count=least)
        assert list_similar(model, ["a"], 9) == [list(order)]
    assert list_similar(model_of(rows, SIMILAR), ["a"], 9) == [["c", "b", "d"]]


def test_one_user_counts_once_for_a_pair() -> None:
    rows = pairs(ab=4, ac=3) + [("ac-0", letter, 9 + n) for n in range(9) for letter in "ac"]
    assert list_similar(model_of(rows, min_cointeraction_count="1"), ["a"], 2) == [["b", "c"]]


@pytest.mark.parametrize("recipe", [SIMS, SIMILAR])
def test_unknown_items_get_popular_items_and_no_item_gets_itself(recipe: str) -> None:
    model = model_of(tastes(), recipe)
    items = model.item_ids.tolist()
    unknown, *known_lists = list_similar(model, ["new", *items], 99)
    assert unknown == items
    for item, row in zip(items, known_lists, strict=True):
        assert sorted([item, *row]) == sorted(items)
    top, _ = list_similar(model, ["i0", "i1"], 8)
    assert sum(int(item[1:]) % 2 == 0 for item in top) >= 7  # the taste of i0


def test_excluded_items_are_left_out() -> None:
    model = model_of(tastes())
    [free] = list_similar(model, ["i0"], 39)
    excluded = [model.item_ids.tolist().index(item) for item in free[:3]]

    def exclude(block: slice, scores: Float32) -> None:
        scores[0, excluded] = -np.inf
        scores[1] = -np.inf

    assert list_similar(model, ["i0", "i0"], 10, exclude) == [free[3:13], []]


def test_popular_and_rare_items_can_be_left_out_of_training() -> None:
    rows = pairs(ab=9, ac=4, d=1, b=9)
    model = model_of(rows, max_item_interaction_count_percentile="0.7")
    assert model.weights[:, [model.item_ids.tolist().index("b")]].nnz == 0
    assert list_similar(model, ["b"], 3) == [["a", "c", "d"]]
    assert model_of(rows, min_item_interaction_count_percentile="0.6").weights.nnz == 2


def test_metrics_are_of_lists_for_each_users_last_item() -> None:
    data = interactions_of(tastes(users=200))
    _, measurements = train(SIMS, data, {})
    held_out = hold_out(data)
    assert held_out is not None
    assert measurements.metrics[NDCG] > measure_popular_items(held_out).metrics[NDCG]
    assert train(SIMS, interactions_of([("a", "x", 1)]), {})[1].metrics == {}


def test_wrong_hyperparameters_and_no_interactions_are_refused() -> None:
    with pytest.raises(HyperparameterError, match="0 to 1"):
        model_of(tastes(), popularity_discount_factor="2")
    with pytest.raises(TrainingError, match="no interactions"):
        model_of([])
