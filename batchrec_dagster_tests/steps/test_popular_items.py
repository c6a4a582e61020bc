"""Tests that the NDCG of popular items, which the gate compares with, equals a plain count's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.engine.data import (
    Interactions,
    find_positions,
    order_by_popularity,
)
from batchrec_dagster.local_personalize.engine.evaluate import hold_out, measure
from batchrec_dagster.personalize import split
from batchrec_dagster.steps.data.popular_items import count_popular_items
from batchrec_dagster.steps.model.measure_popularity import (
    LIST_LENGTH,
    measure_lists,
    measure_popularity,
)
from batchrec_dagster_tests.local_personalize.engine.support import PopularItems as PopularLists

DAY = 86_400
NOW = 1_700_000_000


class Row(NamedTuple):
    """An interaction."""

    user: str
    item: str
    days: int
    """The age of the interaction in days, counted back from NOW."""
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
    """Return interactions in which everybody takes items that are new, and stay so for a lifetime.

    days: the number of days with interactions.
    lifetime: how many days an item stays new.
    """
    chance = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for day in range(days):
        for _ in range(20):
            item = day // lifetime * 50 + int(300 * chance.random() ** 3)
            rows.append({"USER_ID": f"u{chance.integers(0, 300)}", "ITEM_ID": f"i{item:04}"})
            rows[-1]["TIMESTAMP"] = NOW + day * DAY
    return pl.LazyFrame(rows)


def test_the_embedded_engine_and_popular_items_are_measured_on_the_same_choices() -> None:
    data = make_trend(300, 7)
    held_out = hold_out(Interactions.from_frame(data))
    assert held_out is not None
    is_tested = pl.col("USER_ID").is_in(held_out.train.user_ids[held_out.users].tolist())
    popular = count_popular_items(data.filter(~is_tested), None, ())["ITEM_ID"]
    # The engine's models number items by their interactions, popular items by their users.
    by_interactions = held_out.train.item_ids[order_by_popularity(held_out.train)]
    places = find_positions(popular, by_interactions).astype(np.float32)
    model = PopularLists(by_interactions)
    with patch.object(
        PopularLists, "score", lambda _, history, out: np.tile(-places, (len(history.lengths), 1))
    ):
        groups = measure(model, held_out).groups
    measured = measure_popularity(data, 10_000)
    assert groups is not None
    assert measured is not None
    assert measured.days is None
    assert measured.groups.users == groups.users
    assert measured.groups.ndcg == pytest.approx(groups.ndcg)


def test_items_only_tested_users_had_do_not_count_against_popular_items() -> None:
    rows = [
        Row(f"u{user}", f"i{step}", 20 - step, "view") for user in range(100) for step in range(9)
    ]
    users = pl.Series([f"u{user}" for user in range(100)])
    is_tested = split.choose_users(users, np.full(100, 9))
    newest = [Row(user, "known", 1, "view") for user in users]
    newest += [Row(user, f"only {user}", 0, "view") for user in users.filter(is_tested)]
    measured = measure_popularity(to_frame([*rows, *newest]), 30)
    assert measured is not None
    assert (measured.ndcg, measured.groups.tested) == (1, 30)


def test_only_the_events_that_count_are_chosen_and_popular() -> None:
    rows = [
        Row(f"u{user}", f"i{(user + step) % 6}", 9 - step, "Purchase" if step == 9 else "view")
        for user in range(200)
        for step in range(10)
    ]
    # With too little data, no user is tested.
    assert measure_popularity(to_frame(rows[:1]), 30) is None
    assert measure_popularity(to_frame(rows), 30, ["refund"]) is None
    assert measure_popularity(to_frame(rows), 30, (), ["refund"]) is None
    # The last event of each user is with an item that the user had before.
    assert measure_popularity(to_frame(rows), 30, ["purchase"], ["purchase"]) is None
    new = [row._replace(item="new") if row.event == "Purchase" else row for row in rows]
    measured = measure_popularity(to_frame(new), 30, ["purchase"], ["purchase"])
    assert measured is not None
    assert measured.ndcg == 1


def test_the_better_popular_items_count() -> None:
    # Everybody takes new items.
    data = make_trend(300, 7)
    recent = measure_popularity(data, 7)
    assert recent is not None
    assert recent.days == 7
    assert recent.name == "the most popular items of the last 7 days"
    assert 45 < recent.groups.tested < 120  # 30 % of 300 users
    all_time = measure_popularity(data, 10_000)
    assert all_time is not None
    assert (all_time.days, all_time.name) == (None, "the most popular items")
    assert recent.groups.users == all_time.groups.users
    assert recent.ndcg > all_time.ndcg
    assert all_time.groups.mean is not None
    assert all_time.groups.mean.margin is not None
    assert 0 < all_time.groups.mean.margin < 2 * all_time.ndcg
    assert measure_popularity(data, 7) == recent
