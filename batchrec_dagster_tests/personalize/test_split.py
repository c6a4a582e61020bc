"""Tests that the ids alone decide which users are tested and which rows are held out."""

from __future__ import annotations

import random

import numpy as np
import polars as pl

from batchrec_dagster.personalize.split import (
    choose_users,
    hash_ids,
    mark_inputs,
    order_rows,
)


def name_users(count: int) -> pl.Series:
    return pl.Series([f"user {number}" for number in range(count)])


def test_the_share_falls_with_the_number_of_users_and_somebody_is_tested() -> None:
    for count, tested in (
        (1, 1),
        (100, 30),
        (2_000, 400),
        (50_000, 5_000),
        (150_000, 10_000),
    ):
        assert choose_users(name_users(count), np.full(count, 2)).sum() == tested
    assert not choose_users(name_users(9), np.ones(9, np.int64)).any()


def test_users_with_one_interaction_are_not_tested() -> None:
    lengths = np.tile([1, 2], 500)
    is_tested = choose_users(name_users(1_000), lengths)
    assert is_tested.any()
    assert not is_tested[lengths < 2].any()


def test_tested_users_stay_tested_when_users_are_added() -> None:
    users = name_users(5_000)
    before = choose_users(users[:4_900], np.full(4_900, 2))
    after = choose_users(users, np.full(5_000, 2))[:4_900]
    assert (before & after).sum() > 0.95 * before.sum()


def test_rows_of_one_second_are_in_an_order_that_their_ids_alone_decide() -> None:
    rows = [(user, item, item // 4) for user in range(30) for item in range(12)]
    orders = []
    for seed in (0, 1):
        shuffled = random.Random(seed).sample(rows, len(rows))
        users, items, times = (np.array(column) for column in zip(*shuffled, strict=True))
        user_hashes = hash_ids(pl.Series(users).cast(pl.String))
        item_hashes = hash_ids(pl.Series(items).cast(pl.String))
        order = order_rows(users, times, user_hashes, item_hashes)
        orders.append([shuffled[index] for index in order])
    assert orders[0] == orders[1]
    assert [row[::2] for row in orders[0]] == sorted(row[::2] for row in rows)
    last = {orders[0][12 * user + 11][1] for user in range(30)}
    assert last == {8, 9, 10, 11}


def test_the_oldest_90_percent_are_inputs() -> None:
    is_input = mark_inputs(np.array([10, 2, 25, 0, 3]))
    counts = [
        is_input[:10].sum(),
        is_input[10:12].sum(),
        is_input[12:37].sum(),
        is_input[37:].sum(),
    ]
    assert counts == [9, 1, 22, 2]
    assert is_input[:9].all()
