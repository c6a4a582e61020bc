"""Filters compared with a plain, slow evaluator: random expressions over random data."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.filters.job import JobFilter
from batchrec_dagster_tests.guard.oracles.filters import (
    HISTORY,
    ITEMS,
    USERS,
    Part,
    Row,
    World,
    Writer,
    is_allowed,
    parts,
    worlds,
)
from batchrec_dagster_tests.guard.repeats import repeats

pytestmark = pytest.mark.slow


@settings(max_examples=repeats(50, 15), deadline=None)
@given(parts("ItemID"), worlds(), st.integers(1, 6), st.randoms())
def test_items_are_excluded_as_by_the_plain_evaluator(
    chain: list[Part], world: World, lines: int, dice: random.Random
) -> None:
    job_filter = JobFilter(Writer(dice).write_chain(chain), world.read, ITEMS, HISTORY)
    users = [dice.choice([*USERS, "stranger"]) for _ in range(lines)]
    types = world.find_event_types()
    for asks_for_similar_items, exclude in (
        (False, job_filter.exclude_for_users(users)),
        (True, job_filter.exclude_for_items(lines)),
    ):
        scores = np.random.default_rng(0).random((lines, len(ITEMS)), dtype=np.float32)
        expected = scores.copy()
        for number, user in enumerate(users):
            for place, item in enumerate(ITEMS):
                rows: dict[str, Row] = {
                    "Items": world.items.get(item, {}),
                    "Interactions": {
                        "EVENT_TYPE": None if asks_for_similar_items else types.get((user, item))
                    },
                }
                profile = {} if asks_for_similar_items else world.users.get(user, {})
                if not is_allowed(chain, rows, profile):
                    expected[number, place] = -np.inf
        position = 0
        while position < lines:
            size = dice.randint(1, 3)
            exclude(slice(position, position + size), scores[position : position + size])
            position += size
        np.testing.assert_array_equal(scores, expected)


@settings(max_examples=repeats(50, 15), deadline=None)
@given(parts("UserID"), worlds(), st.randoms())
def test_users_are_included_as_by_the_plain_evaluator(
    chain: list[Part], world: World, dice: random.Random
) -> None:
    job_filter = JobFilter(Writer(dice).write_chain(chain), world.read, ITEMS)
    user_ids = [*USERS, "stranger", USERS[0]]
    types: dict[str, set[str]] = {}
    for user, _, _, event in world.interactions:
        if event is not None:
            types.setdefault(user, set()).add(event.lower())
    expected = [
        is_allowed(
            chain,
            {"Users": world.users.get(user, {}), "Interactions": {"EVENT_TYPE": types.get(user)}},
            {},
        )
        for user in user_ids
    ]
    assert job_filter.mask_users(np.array(user_ids, dtype=object)).tolist() == expected
