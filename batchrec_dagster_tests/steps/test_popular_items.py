"""The NDCG of popular items, which the gate compares a model with, is that of a plain count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.steps.measure_popularity import (
    LIST_LENGTH,
    measure_lists,
    measure_popularity,
)

DAY = 86_400
NOW = 1_700_000_000


class Row(NamedTuple):
    """An interaction."""

    user: str
    item: str
    days: int
    """How many days before NOW it was."""
    event: str


def to_frame(rows: Sequence[Row]) -> pl.LazyFrame:
    columns = {
        "USER_ID": [row.user for row in rows],
        "ITEM_ID": [row.item for row in rows],
        "TIMESTAMP": [NOW - row.days * DAY for row in rows],
        "EVENT_TYPE": [row.event for row in rows],
    }
    types = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}
    return pl.LazyFrame(columns, schema={**types, "EVENT_TYPE": pl.String})


@given(
    st.permutations(range(40)),
    st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, 39), min_size=1), min_size=1),
    st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 39))),
)
@settings(max_examples=60, deadline=None)
def test_the_ndcg_of_popular_lists_is_that_of_a_plain_reading(
    order: list[int], chosen: dict[int, set[int]], seen: dict[int, set[int]]
) -> None:
    places = np.empty(40, np.int64)
    places[order] = np.arange(1, 41)
    seen = {user: items - chosen.get(user, set()) for user, items in seen.items()}
    expected = []
    for user in sorted(chosen):
        shown = [item for item in order if item not in seen.get(user, set())][:LIST_LENGTH]
        gain = sum(1 / math.log2(2 + shown.index(item)) for item in chosen[user] if item in shown)
        best = sum(1 / math.log2(2 + place) for place in range(min(len(chosen[user]), 25)))
        expected.append(gain / best)
    measured = measure_lists(places, to_pairs(chosen), to_pairs(seen))
    assert measured.tolist() == pytest.approx(expected)


def to_pairs(items_by_user: Mapping[int, set[int]]) -> pl.DataFrame:
    pairs = [(user, item) for user, items in items_by_user.items() for item in items]
    return pl.DataFrame(pairs, schema={"user": pl.UInt32, "item": pl.UInt32}, orient="row")


def make_trend(days: int, lifetime: int) -> pl.LazyFrame:
    """Interactions of days in which everybody takes what is new, which lasts for a lifetime."""
    chance = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for day in range(days):
        for _ in range(20):
            item = day // lifetime * 50 + int(300 * chance.random() ** 3)
            rows.append({"USER_ID": f"u{chance.integers(0, 300)}", "ITEM_ID": f"i{item:04}"})
            rows[-1]["TIMESTAMP"] = NOW + day * DAY
    return pl.LazyFrame(rows)


def test_only_the_events_that_count_are_chosen_and_popular() -> None:
    rows = [
        Row(f"u{user}", f"i{(user + step) % 6}", 9 - step, "Purchase" if step == 9 else "view")
        for user in range(200)
        for step in range(10)
    ]
    # Nobody is tested with too little data.
    assert measure_popularity(to_frame(rows[:1]), 30) is None
    assert measure_popularity(to_frame(rows), 30, ["refund"]) is None
    assert measure_popularity(to_frame(rows), 30, (), ["refund"]) is None
    # The last event of each user is with an item that they had before.
    assert measure_popularity(to_frame(rows), 30, ["purchase"], ["purchase"]) is None
    new = [row._replace(item="new") if row.event == "Purchase" else row for row in rows]
    measured = measure_popularity(to_frame(new), 30, ["purchase"], ["purchase"])
    assert measured is not None
    assert measured.ndcg == 1


def test_popularity_is_measured_as_personalize_measures() -> None:
    data = make_trend(300, 7)
    recent = measure_popularity(data, 7)
    all_time = measure_popularity(data, 10_000)
    assert recent is not None
    assert all_time is not None
    assert recent.users == all_time.users
    assert 15 < recent.users < 45
    assert all_time.margin is not None
    assert 0 < all_time.margin < 2 * all_time.ndcg
    # Everybody's newest interactions are recent here.
    assert recent.ndcg > all_time.ndcg
    assert recent.margin is not None
    assert measure_popularity(data, 7) == recent
