"""Filters compared with a plain, slow evaluator: random expressions over random data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.filters.job import JobFilter
from batchrec_dagster_tests.local_personalize.plain_filters import (
    HISTORY,
    ITEMS,
    USERS,
    Part,
    Row,
    World,
    Writer,
    is_allowed,
    is_lacking,
    parts,
    values_of_line,
    worlds,
)
from batchrec_dagster_tests.repeats import repeats

pytestmark = pytest.mark.slow


@settings(max_examples=repeats(50, 15), deadline=None)
@given(parts("ItemID"), worlds(), st.lists(values_of_line, min_size=1, max_size=6), st.randoms())
def test_items_are_excluded_as_by_the_plain_evaluator(
    chain: list[Part], world: World, lines: list[dict[str, Any]], dice: random.Random
) -> None:
    writer = Writer(dice)
    job_filter = JobFilter(writer.write_chain(chain), world.read, ITEMS, HISTORY)
    texts = [{name: writer.write_values(value) for name, value in line.items()} for line in lines]
    for line, text in zip(lines, texts, strict=True):
        assert (job_filter.find_problem(text) is not None) == is_lacking(chain, line)
    good = [number for number, line in enumerate(lines) if not is_lacking(chain, line)]
    lines, texts = [lines[number] for number in good], [texts[number] for number in good]
    users = [dice.choice([*USERS, "stranger"]) for _ in lines]
    currents = [dice.choice([*ITEMS, "other", "none"]) for _ in lines]
    types = world.find_event_types()
    for uses_current_item, exclude in (
        (False, job_filter.exclude_for_users(users, texts)),
        (True, job_filter.exclude_for_items(currents, texts)),
    ):
        scores = np.random.default_rng(0).random((len(lines), len(ITEMS)), dtype=np.float32)
        expected = scores.copy()
        for number, line in enumerate(lines):
            user = users[number]
            for place, item in enumerate(ITEMS):
                rows: dict[str, Row] = {
                    "Items": world.items.get(item, {}),
                    "Interactions": {
                        "EVENT_TYPE": None if uses_current_item else types.get((user, item))
                    },
                }
                profile = {} if uses_current_item else world.users.get(user, {})
                current = world.items.get(currents[number], {}) if uses_current_item else {}
                if not is_allowed(chain, rows, profile, line, current):
                    expected[number, place] = -np.inf
        position = 0
        while position < len(lines):
            size = dice.randint(1, 3)
            exclude(slice(position, position + size), scores[position : position + size])
            position += size
        np.testing.assert_array_equal(scores, expected)


@settings(max_examples=repeats(50, 15), deadline=None)
@given(parts("UserID"), worlds(), values_of_line, st.randoms())
def test_users_are_included_as_by_the_plain_evaluator(
    chain: list[Part], world: World, values: dict[str, Any], dice: random.Random
) -> None:
    writer = Writer(dice)
    job_filter = JobFilter(writer.write_chain(chain), world.read, ITEMS)
    text = {name: writer.write_values(value) for name, value in values.items()}
    if is_lacking(chain, values):
        assert job_filter.find_problem(text) is not None
        return
    assert job_filter.find_problem(text) is None
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
            values,
            {},
        )
        for user in user_ids
    ]
    assert job_filter.mask_users(np.array(user_ids, dtype=object), text).tolist() == expected
