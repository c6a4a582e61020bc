"""Tests of sorted interactions and histories, compared with plain readings of the rows."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.engine import data
from batchrec_dagster.local_personalize.engine.data import Interactions, read_histories
from batchrec_dagster_tests.local_personalize.engine.support import SCHEMA, Row, interactions_of

ROWS = st.lists(
    st.tuples(st.sampled_from("abcü"), st.sampled_from("xyzß"), st.integers(0, 4)), max_size=30
)


@given(ROWS, st.sampled_from([1, 3, 1 << 20]))
def test_rows_are_sorted_by_user_time_and_item(rows: list[Row], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SORTED_AT_ONCE", at_once)
        interactions = interactions_of(random.Random(0).sample(rows, len(rows)))
    read = zip(
        interactions.user_ids[interactions.users],
        interactions.item_ids[interactions.items],
        interactions.timestamps.tolist(),
        strict=True,
    )
    assert list(read) == sorted(rows, key=lambda row: (row[0], row[2], row[1]))


@given(ROWS, st.sampled_from([1, 4, 1 << 20]))
def test_a_history_has_distinct_items_newest_first(rows: list[Row], at_once: int) -> None:
    interactions = interactions_of(rows)
    model_items = np.array(["z", "x", "y"], dtype=object)  # not ß
    users = np.array([-1, *reversed(range(len(interactions.user_ids)))], np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "ROWS_AT_ONCE", at_once)
        history = read_histories(interactions, model_items, users)
    assert history.lengths[0] == 0
    for number, user in enumerate(users[1:], 1):
        user_rows = [row for row in rows if row[0] == interactions.user_ids[user] and row[1] != "ß"]
        newest: dict[str, int] = {}
        counts: dict[str, int] = defaultdict(int)
        for _, item, time in user_rows:
            newest[item] = max(newest.get(item, time), time)
            counts[item] += 1
        entries = slice(history.starts[number], history.starts[number + 1])
        items = [str(model_items[item]) for item in history.items[entries]]
        assert sorted(items) == sorted(newest)
        assert [newest[item] for item in items] == sorted(newest.values(), reverse=True)
        assert history.counts[entries].tolist() == [counts[item] for item in items]
        for item, rank in zip(items, history.ranks[entries], strict=True):
            newer = sum(time > newest[item] for time in newest.values())
            same = sum(time == newest[item] for time in newest.values())
            assert rank == newer + (same - 1) / 2


def test_an_item_weighs_as_much_as_its_weightiest_event() -> None:
    rows = [("a", "x", 1, 1.0), ("a", "x", 2, 0.25), ("a", "y", 3, 0.5), ("b", "y", 1, 0.25)]
    schema = {**SCHEMA, "WEIGHT": pl.Float32}
    interactions = Interactions.from_frame(pl.DataFrame(rows, schema=schema, orient="row"))
    history = read_histories(interactions, interactions.item_ids, np.array([0, 1], np.int32))
    assert history.recency_weights(0.0).toarray().tolist() == [[1, 0.5], [0, 0.25]]
    assert history.recency_weights(1.0).toarray().tolist() == [[0.5, 0.5], [0, 0.25]]


def test_sorting_a_matrix_of_a_history_does_not_sort_the_history() -> None:
    interactions = interactions_of([("a", "x", 3), ("a", "y", 2), ("a", "z", 1)])
    items = np.array(["z", "y", "x"], dtype=object)
    history = read_histories(interactions, items, np.array([0], np.int32))
    history.recency_weights(0.5).sort_indices()
    assert history.items.tolist() == [2, 1, 0]


def test_parts_of_histories() -> None:
    interactions = interactions_of(
        [(user, item, time) for user in "ab" for time, item in enumerate("xyz")]
    )
    history = read_histories(interactions, interactions.item_ids, np.array([0, 1], np.int32))
    assert history.of_users(slice(1, 2)).items.tolist() == [2, 1, 0]
    assert history.keep_newest(2).items.tolist() == [2, 1, 2, 1]
    shortened = history.keep_items(1)
    assert (shortened.items.tolist(), shortened.starts.tolist(), shortened.n_items) == (
        [0, 0],
        [0, 1, 2],
        1,
    )
