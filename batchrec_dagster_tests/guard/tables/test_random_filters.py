"""Tests of filters with random expressions and data, against a plain, slow evaluator."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from batchrec_dagster_tests.guard.seams.personalize import (
    mask_items,
    mask_similar_items,
    mask_users,
)

pytestmark = pytest.mark.slow

COLUMNS = {
    "INTERACTIONS": ("USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"),
    "ITEMS": ("ITEM_ID", "GENRES", "YEAR", "PRICE", "RATING"),
    "USERS": ("USER_ID", "PLAN", "AGE"),
}


def read_all(world: World) -> dict[str, pl.DataFrame]:
    return {kind: world.read(kind, columns) for kind, columns in COLUMNS.items()}


@settings(max_examples=repeats(50, 15))
@given(parts("ItemID"), worlds(), st.integers(1, 6), st.randoms())
def test_items_are_excluded_as_by_the_plain_evaluator(
    chain: list[Part], world: World, lines: int, dice: random.Random
) -> None:
    expression = Writer(dice).write_chain(chain)
    users = [dice.choice([*USERS, "stranger"]) for _ in range(lines)]
    types, data = world.find_event_types(), read_all(world)

    def evaluate(item: str, user: str | None) -> bool:
        rows: dict[str, Row] = {
            "Items": world.items.get(item, {}),
            "Interactions": {"EVENT_TYPE": types.get((user, item)) if user else None},
        }
        return is_allowed(chain, rows, world.users.get(user, {}) if user else {})

    assert mask_items(expression, data, ITEMS, users, HISTORY) == [
        [evaluate(item, user) for item in ITEMS] for user in users
    ]
    assert mask_similar_items(expression, data, ITEMS) == [evaluate(item, None) for item in ITEMS]


@settings(max_examples=repeats(50, 15))
@given(parts("UserID"), worlds(), st.randoms())
def test_users_are_included_as_by_the_plain_evaluator(
    chain: list[Part], world: World, dice: random.Random
) -> None:
    user_ids = [*USERS, "stranger", USERS[0]]
    types: dict[str, set[str]] = {}
    for user, _, _, event in world.interactions:
        if event is not None:
            types.setdefault(user, set()).add(event.lower())
    assert mask_users(Writer(dice).write_chain(chain), read_all(world), user_ids) == [
        is_allowed(
            chain,
            {"Users": world.users.get(user, {}), "Interactions": {"EVENT_TYPE": types.get(user)}},
            {},
        )
        for user in user_ids
    ]
