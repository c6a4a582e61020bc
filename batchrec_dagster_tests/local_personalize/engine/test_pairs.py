"""Tests of the weights of pairs, compared with plain counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random

from batchrec_dagster.local_personalize.engine import pairs
from batchrec_dagster.local_personalize.engine.data import History
from batchrec_dagster.local_personalize.engine.pairs import (
    PairScorer,
    fit_following,
    fit_related,
    join_both_orders,
    keep_largest,
)
from batchrec_dagster.local_personalize.engine.select import score_users
from batchrec_dagster_tests.local_personalize.engine.support import history_of

ORDERS = st.lists(st.lists(st.integers(0, 7), unique=True, max_size=8), max_size=9)


def count_pairs(history: History, window: int) -> npt.NDArray[np.float64]:
    """Sum distance^-0.5 of each pair in the window, and discount by both items' counts."""
    n = history.n_items
    sums = np.zeros((n, n))
    counts = np.bincount(history.items, minlength=n)
    for first, last in zip(history.starts[:-1], history.starts[1:], strict=True):
        order, weights = history.items[first:last][::-1], history.weights[first:last][::-1]
        for place, item in enumerate(order):
            for later in range(place + 1, min(place + window, len(order) - 1) + 1):
                weight = weights[place] * weights[later]
                sums[item, order[later]] += weight * (later - place) ** -0.5
    discount = (counts + 5) ** -0.5
    return np.asarray(sums * discount[:, None] * discount)


def sort_by_popularity(orders: list[list[int]]) -> list[list[int]]:
    """Return the orders with items numbered by falling count, as models number them."""
    counts = Counter(item for order in orders for item in order)
    numbers = {item: number for number, (item, _) in enumerate(counts.most_common())}
    return [[numbers[item] for item in order] for order in orders]


@settings(deadline=None)
@given(ORDERS, st.integers(1, 40), st.sampled_from([1, 30, 1 << 20]), st.booleans())
def test_following_items_match_a_count(
    orders: list[list[int]], window: int, at_once: int, weighted: bool
) -> None:
    history = history_of(sort_by_popularity(orders), 8)
    if weighted:
        weights = np.random.default_rng(0).random(len(history.items), np.float32)
        object.__setattr__(history, "weights", weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
        patch.setattr(pairs, "CELLS_AT_ONCE", at_once)
        following = fit_following(history, window=window, neighbors=8)
    expected = count_pairs(history, window)
    assert following.weights.toarray() == pytest.approx(expected, abs=1e-6)
    joined = join_both_orders(following, 8)
    assert joined.weights.toarray() == pytest.approx(expected + expected.T, abs=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_each_row_keeps_its_largest_weights_and_the_first_of_ties(
    rows: list[list[int]], k: int
) -> None:
    dense = np.array(rows, np.float32)
    kept = keep_largest(csr_matrix(dense), k).toarray()
    for row, all_of_it in zip(kept, dense, strict=True):
        largest = sorted(np.flatnonzero(all_of_it), key=lambda j: (-all_of_it[j], j))[:k]
        assert np.flatnonzero(row).tolist() == sorted(largest)
        assert (row[largest] == all_of_it[largest]).all()


@given(st.integers(0, 20), st.sampled_from([0.0, 0.5]))
def test_scores_are_the_product_of_history_and_weights(users: int, exponent: float) -> None:
    rng = np.random.default_rng(users)
    orders = [rng.permutation(30)[: rng.integers(1, 20)].tolist() for _ in range(users)]
    history = history_of(orders, 30)
    weights = random(30, 30, 0.3, format="csr", dtype=np.float32, random_state=1)
    scores = score_users(PairScorer(weights), history, exponent)
    expected = (history.recency_weights(exponent) @ weights).toarray()
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@given(ORDERS, st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0]))
def test_related_items_match_a_count(orders: list[list[int]], least: int, discount: float) -> None:
    counts = Counter(item for order in orders for item in order)
    together = Counter((a, b) for order in orders for a in order for b in order if a != b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "CELLS_AT_ONCE", 4)
        weights = fit_related(
            history_of(orders, 8), neighbors=8, discount=discount, least_users=least
        ).toarray()
    for (a, b), users in together.items():
        expected = users**2 / (users + 10) / counts[b] ** discount if users >= least else 0
        assert weights[a, b] == pytest.approx(expected)
    assert np.count_nonzero(weights) == sum(users >= least for users in together.values())


def test_only_the_newest_items_of_very_long_histories_are_related(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs, "MAX_PAIRED", 2)
    weights = fit_related(history_of([[0, 1, 2]], 3), neighbors=3, discount=0, least_users=1)
    assert weights.toarray().astype(bool).tolist() == [
        [False, False, False],
        [False, False, True],
        [False, True, False],
    ]
