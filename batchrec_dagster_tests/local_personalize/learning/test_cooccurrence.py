"""Co-occurrence weights, compared with a plain pair count."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import cooccurrence
from batchrec_dagster.local_personalize.learning.interactions import Histories, History
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of


def history_of(orders: list[list[int]], n_items: int) -> History:
    """Histories of users with items in these orders, oldest first."""
    rows = [
        (f"u{user:03}", f"i{item:03}", time)
        for user, order in enumerate(orders)
        for time, item in enumerate(order)
    ]
    data = interactions_of(rows)
    items = np.array([f"i{item:03}" for item in range(n_items)], dtype=object)
    return Histories(data, items).of_users(np.arange(len(data.user_ids), dtype=np.int32))


def count_pairs(orders: list[list[int]], n_items: int, window: int) -> npt.NDArray[np.float64]:
    """By definition: distance^-0.5 for each pair in the window, both counts discounted."""
    out = np.zeros((n_items, n_items))
    counts = np.zeros(n_items)
    for order in orders:
        for place, item in enumerate(order):
            counts[item] += 1
            for later_place in range(place + 1, min(place + window, len(order) - 1) + 1):
                out[item, order[later_place]] += (later_place - place) ** -0.5
    discount = (counts + 5) ** -0.5
    return out * discount[:, None] * discount


orders = st.lists(st.lists(st.integers(0, 7), unique=True, max_size=8), max_size=9)


ways = pytest.mark.parametrize("cells", [0, 10_000], ids=["sparse", "dense"])


@pytest.mark.slow
@ways
@pytest.mark.parametrize("symmetric", [False, True])
@given(orders, st.integers(1, 9), st.sampled_from([1, 20, 10_000]))
@settings(deadline=None)
def test_matches_a_pair_count(
    cells: int, symmetric: bool, orders_of_users: list[list[int]], window: int, pairs: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "CELLS", cells)
        patch.setattr(cooccurrence, "PAIRS", pairs)
        patch.setattr(cooccurrence, "SUMS", pairs)
        history = history_of(orders_of_users, 8)
        weights = cooccurrence.fit(history, window=window, neighbors=8, symmetric=symmetric)
    pair_weights = count_pairs(orders_of_users, 8, window)
    expected = pair_weights + pair_weights.T if symmetric else pair_weights
    assert weights.toarray() == pytest.approx(expected, abs=1e-6)


def test_weights_are_directional() -> None:
    weights = cooccurrence.fit(history_of([[0, 1]], 2), neighbors=2).toarray()
    assert weights[0, 1] > 0
    assert weights[1, 0] == 0


@pytest.mark.slow
@ways
@given(orders, st.integers(1, 4))
@settings(deadline=None)
def test_each_row_keeps_its_largest_weights_and_the_first_of_ties(
    cells: int, found: list[list[int]], kept: int
) -> None:
    history = history_of(found, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "CELLS", cells)
        whole = cooccurrence.fit(history, neighbors=8).toarray()
        few = cooccurrence.fit(history, neighbors=kept).toarray()
    for row, all_of_it in zip(few, whole, strict=True):
        stay = sorted(np.flatnonzero(all_of_it), key=lambda j: (-all_of_it[j], j))[:kept]
        assert np.flatnonzero(row).tolist() == sorted(stay)
        assert (row[stay] == all_of_it[stay]).all()
