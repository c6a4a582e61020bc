"""Personalize's split into training, input and truth."""

from __future__ import annotations

import numpy as np

from batchrec_dagster.local_personalize.learning.evaluation import (
    cut_off_earlier,
    split,
    split_users,
)
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of


def test_a_tenth_of_the_users_is_held_out() -> None:
    data = interactions_of((f"u{u}", f"i{i}", i) for u in range(50) for i in range(10))
    held = split(data)
    assert held is not None
    assert len(held.users) == 5
    assert not set(held.train.users) & set(held.users)
    assert set(held.inputs.users) == set(held.truth.users) == set(held.users)
    assert len(held.train) + len(held.inputs) + len(held.truth) == len(data)


def test_the_oldest_90_percent_are_input_and_the_newest_10_percent_truth() -> None:
    data = interactions_of([("u", f"i{i}", 100 - i) for i in range(20)] + [("v", "i0", 1)])
    held = split_users(data, np.array([0], np.int32))
    assert held.truth.timestamps.tolist() == [99, 100]
    assert held.inputs.timestamps.tolist() == list(range(81, 99))


def test_the_newest_of_two_interactions_is_truth() -> None:
    held = split_users(
        interactions_of([("u", "a", 1), ("u", "b", 2), ("v", "a", 1)]), np.array([0], np.int32)
    )
    assert held.inputs.timestamps.tolist() == [1]
    assert held.truth.timestamps.tolist() == [2]


def test_row_order_does_not_decide_who_is_held_out_and_what() -> None:
    rows = [(f"u{u}", f"i{i}", 0) for u in range(100) for i in range(4)]
    first_split, reversed_split = split(interactions_of(rows)), split(interactions_of(rows[::-1]))
    assert first_split is not None
    assert reversed_split is not None
    assert first_split.users.tolist() == reversed_split.users.tolist()
    assert first_split.truth.items.tolist() == reversed_split.truth.items.tolist()


def test_a_second_split_holds_out_others() -> None:
    data = interactions_of((f"u{u}", f"i{i}", i) for u in range(50) for i in range(10))
    first_split, second_split = split(data), split(data, 0.3)
    assert first_split is not None
    assert second_split is not None
    assert len(second_split.users) == 15
    assert not set(first_split.users) & set(second_split.users)


def test_items_of_one_second_are_held_out_regardless_of_their_ids() -> None:
    data = interactions_of([(f"u{u}", f"i{i:02}", 0) for u in range(50) for i in range(20)])
    held = split_users(data, np.arange(0, 50, dtype=np.int32))
    assert np.bincount(held.truth.users).tolist() == [2] * 50
    assert len(set(held.truth.items)) > 15
    assert not np.isin(
        held.truth.users * 20 + held.truth.items, held.inputs.users * 20 + held.inputs.items
    ).any()
    repeated_split = split_users(data, np.arange(0, 50, dtype=np.int32))
    assert repeated_split.truth.items.tolist() == held.truth.items.tolist()


def test_users_with_one_interaction_are_never_held_out() -> None:
    data = interactions_of([("busy", f"i{n}", n) for n in range(3)] + [("rare", "i0", 0)] * 1)
    held = split(data)
    assert held is not None
    assert [data.user_ids[user] for user in held.users] == ["busy"]


def test_no_split_of_one_user_or_of_single_interactions() -> None:
    assert split(interactions_of([("u", "a", 1), ("u", "b", 2)])) is None
    assert split(interactions_of([("u", "a", 1), ("v", "b", 2)])) is None


def test_input_and_truth_have_only_held_out_users() -> None:
    data = interactions_of([("a", "x", 1), ("b", "x", 1), ("c", "x", 1), ("c", "y", 2)])
    users = np.array([0, 2], np.int32)
    held = split_users(data, users)
    assert held.inputs.users.tolist() == [2]
    assert held.truth.users.tolist() == [0, 2]


def test_an_earlier_cutoff_has_the_next_tenth_as_truth() -> None:
    rows = [("u", f"i{n}", n) for n in range(20)] + [("v", f"i{n}", n) for n in range(3)]
    data = interactions_of([*rows, ("w", "i0", 1)])
    held = split_users(data, np.array([0, 1], np.int32))
    for share in (0.8, 0.7, 0.6, 0.5):
        earlier_set = cut_off_earlier(held, share)
        mine = earlier_set.inputs.users == 0
        assert earlier_set.inputs.timestamps[mine].tolist() == list(range(round(20 * share)))
        begin = round(20 * share)
        mine = earlier_set.truth.users == 0
        assert earlier_set.truth.timestamps[mine].tolist() == [begin, begin + 1]
        # Of three interactions, an earlier cutoff has one as input and the second as truth.
        assert earlier_set.inputs.timestamps[earlier_set.inputs.users == 1].tolist() in (
            [0, 1],
            [0],
        )
        assert earlier_set.truth.timestamps[earlier_set.truth.users == 1].tolist() in ([], [1])
        assert earlier_set.train is held.train
