"""What explains a recommendation: items whose audiences overlap."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from batchrec_dagster.explanations.item_overlaps import (
    build_user_item_matrix,
    find_best_explanations,
    find_nearest,
)


def test_equal_explanations_and_neighbours_do_not_depend_on_the_order_of_users() -> None:
    items = pl.Series([f"i{n:02}" for n in range(20)])
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(8)]})
    pairs = users.join(items.to_frame("item"), how="cross")
    for seed in range(3):
        matrix = build_user_item_matrix(
            pairs.sample(fraction=1, shuffle=True, seed=seed).lazy(), items
        )
        explanations, near = find_best_explanations(
            matrix,
            [np.array([4, 7, 2]), np.array([9])],
            [np.array([7, 4]), np.array([9])],
            near=3,
            most_items=20,
        )
        assert [
            (because.tolist(), shared_users.tolist()) for because, shared_users in explanations
        ] == [
            ([4, 7], [8, 8]),
            ([-1], [0]),
        ]
        assert near[4] == [(0, 8), (1, 8), (2, 8)]
        assert near[9] == near[7] == near[4]


@pytest.mark.parametrize("columns", [63, 64, 640, 700])
def test_neighbours_are_those_with_the_highest_scores_of_all_columns(columns: int) -> None:
    chance = np.random.default_rng(columns)
    counts = chance.integers(0, 50, columns)
    # There are few different scores, so that many of them are tied.
    for scores in (chance.integers(0, 4, columns) / 4, chance.random(columns) * (counts > 40)):
        for list_length in (0, 1, 5, 11):
            order = np.argsort(-scores, kind="stable")
            best = [column for column in order.tolist() if scores[column] > 0][:list_length]
            nearest = find_nearest(counts, scores, list_length)
            assert nearest == [(column, counts[column]) for column in best]
