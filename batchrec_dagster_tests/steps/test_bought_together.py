"""Counting what people had together, compared with a plain count, and with held-out baskets."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import combinations
from math import sqrt

import polars as pl
import pytest

from batchrec_dagster.steps import bought_together
from batchrec_dagster.steps.bought_together import (
    DISCOUNT,
    FEWEST_PEOPLE,
    WEIGHT_APART,
    find_bought_together,
)

DAY = 86_400
Rows = list[tuple[str, str, int, str]]


def to_frame(rows: Rows) -> pl.LazyFrame:
    names = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"]
    return pl.DataFrame(rows, names, orient="row").lazy()


def find_plainly(rows: Rows, days: int, most: int) -> list[tuple[str, str, float]]:
    """As the docstring says, with loops."""
    people_of_item, people_of_pair = defaultdict(set), defaultdict(set)
    together_of_pair = defaultdict(set)
    for user, item, _, _ in rows:
        people_of_item[item].add(user)
    for row, other_row in combinations(rows, 2):
        (user, item, time, _), (other_user, other, other_time, _) = row, other_row
        if user == other_user and item != other:
            is_near = abs(time - other_time) <= days * DAY
            for pair in ((item, other), (other, item)):
                people_of_pair[pair].add(user)
                if is_near:
                    together_of_pair[pair].add(user)
    lists = []
    for item in sorted(people_of_item):
        scored = []
        for other in people_of_item:
            people = len(people_of_pair[item, other])
            together = len(together_of_pair[item, other])
            both = WEIGHT_APART * people + (1 - WEIGHT_APART) * together
            if people >= FEWEST_PEOPLE:
                either = sqrt(len(people_of_item[item]) * len(people_of_item[other]))
                scored.append((-both / (both + DISCOUNT) * both / either, -both, other))
        lists += [(item, other, -score) for score, _, other in sorted(scored)[:most]]
    return lists


@pytest.mark.parametrize("days", [0, 3, 30])
def test_pairs_are_those_of_a_plain_count(days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(days)
    rows = [
        (f"u{chance.randrange(30)}", f"i{chance.randrange(12)}", chance.randrange(40) * DAY, "x")
        for _ in range(400)
    ]
    # Several parts, whose counts are added up.
    monkeypatch.setattr(bought_together, "EVENTS_AT_ONCE", 70)
    monkeypatch.setattr(bought_together, "COUNTS_AT_ONCE", 50)
    lists = find_bought_together(to_frame(rows), within_days=days, most=4)
    expected = find_plainly(rows, days, 4)
    assert expected
    assert [row[:2] for row in lists.iter_rows()] == [row[:2] for row in expected]
    assert lists["score"].to_list() == pytest.approx([score for _, _, score in expected])
