"""Counting what people had together, compared with a plain count, and with held-out baskets."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import combinations
from math import sqrt

import polars as pl
import pytest

from batchrec_dagster.steps import bought_together
from batchrec_dagster.steps.bought_together import DISCOUNT, WEIGHT_APART, find_bought_together

DAY = 86_400
Rows = list[tuple[str, str, int, str]]
Orders = list[str | None]


def to_frame(rows: Rows, orders: Orders | None = None) -> pl.LazyFrame:
    names = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"]
    frame = pl.DataFrame(rows, names, orient="row").lazy()
    return (
        frame if orders is None else frame.with_columns(ORDER_ID=pl.Series(orders, dtype=pl.String))
    )


def find_plainly(
    rows: Rows, days: int | None, least: int, most: int, orders: Orders | None = None
) -> list[tuple[str, str, float]]:
    """As the docstring says, with loops."""
    ordered = [*zip(rows, orders or [None] * len(rows), strict=True)]
    people_of_item, people_of_pair = defaultdict(set), defaultdict(set)
    together_of_pair = defaultdict(set)
    for user, item, _, _ in rows:
        people_of_item[item].add(user)
    for (row, order), (other_row, other_order) in combinations(ordered, 2):
        (user, item, time, _), (other_user, other, other_time, _) = row, other_row
        if user == other_user and item != other:
            is_near = days is not None and abs(time - other_time) <= days * DAY
            for pair in ((item, other), (other, item)):
                people_of_pair[pair].add(user)
                if is_near or (order is not None and order == other_order):
                    together_of_pair[pair].add(user)
    lists = []
    for item in sorted(people_of_item):
        scored = []
        for other in people_of_item:
            people = len(people_of_pair[item, other])
            together = len(together_of_pair[item, other])
            both = WEIGHT_APART * people + (1 - WEIGHT_APART) * together
            if people >= least:
                either = sqrt(len(people_of_item[item]) * len(people_of_item[other]))
                scored.append((-both / (both + DISCOUNT) * both / either, -both, other))
        lists += [(item, other, -score) for score, _, other in sorted(scored)[:most]]
    return lists


@pytest.mark.parametrize(("days", "least"), [(0, 2), (3, 2), (30, 4)])
def test_pairs_are_those_of_a_plain_count(
    days: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(days)
    rows = [
        (f"u{chance.randrange(30)}", f"i{chance.randrange(12)}", chance.randrange(40) * DAY, "x")
        for _ in range(400)
    ]
    # Several parts, whose counts are added up.
    monkeypatch.setattr(bought_together, "EVENTS_AT_ONCE", 70)
    monkeypatch.setattr(bought_together, "COUNTS_AT_ONCE", 50)
    lists = find_bought_together(to_frame(rows), within_days=days, least_people=least, most=4)
    expected = find_plainly(rows, days, least, 4)
    assert expected
    assert [row[:2] for row in lists.iter_rows()] == [row[:2] for row in expected]
    assert lists["score"].to_list() == pytest.approx([score for _, _, score in expected])


@pytest.mark.parametrize("days", [None, 2])
def test_what_is_in_one_order_is_bought_together(
    days: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(1)
    rows = [
        (f"u{chance.randrange(20)}", f"i{chance.randrange(12)}", chance.randrange(40) * DAY, "x")
        for _ in range(300)
    ]
    # Numbers of several people, whose orders have several times, and a third without one.
    orders: Orders = [chance.choice(["1", "2", "a", None, None]) for _ in rows]
    monkeypatch.setattr(bought_together, "EVENTS_AT_ONCE", 70)
    lists = find_bought_together(to_frame(rows, orders), within_days=days, least_people=2, most=4)
    expected = find_plainly(rows, days, 2, 4, orders)
    assert expected
    assert expected != find_plainly(rows, days, 2, 4)
    assert [row[:2] for row in lists.iter_rows()] == [row[:2] for row in expected]
    assert lists["score"].to_list() == pytest.approx([score for _, _, score in expected])


def test_the_lines_of_an_order_may_have_others_between_them() -> None:
    rows = [(f"u{user}", f"i{time:02}", time, "x") for user in range(2) for time in range(60)]
    orders: Orders = ["first" if time in (0, 59) else None for _ in range(2) for time in range(60)]
    lists = find_bought_together(to_frame(rows, orders), within_days=None, least_people=2, most=99)
    assert ("i00", "i59") in lists.select("item_id", "similar_item_id").rows()
    assert ("i00", "i58") not in lists.select("item_id", "similar_item_id").rows()


def test_only_events_that_count_are_on_lists() -> None:
    rows = [
        (f"u{user}", item, user * DAY, event)
        for user in range(5)
        for item, event in [("pot", "Buy"), ("lid", "buy"), ("ad", "view")]
    ]
    lists = find_bought_together(
        to_frame(rows),
        within_days=0,
        least_people=3,
        most=9,
        events=["BUY"],
    )
    pairs = [("lid", "pot"), ("pot", "lid")]
    assert [*lists.select("item_id", "similar_item_id").iter_rows()] == pairs
    untyped = to_frame(rows).drop("EVENT_TYPE")
    nothing = find_bought_together(untyped, within_days=0, least_people=3, most=9, events=["buy"])
    assert not nothing.height


def test_what_goes_together_is_found_in_baskets_that_were_not_counted() -> None:
    """People buy two of a set of three at a time, with something else, and other sets later."""
    chance = random.Random(0)
    items = [f"i{number:03}" for number in range(60)]
    rows: Rows = []
    held_out = []
    for user in range(100):
        for visit in range(10):
            first = 3 * chance.randrange(20)
            bought = chance.sample(items[first : first + 3], 2)
            others = [items[min(chance.choices(range(60), k=2))] for _ in range(2)]
            if visit == 9:
                held_out.append(bought)
            else:
                rows += [(f"u{user}", item, visit * 90 * DAY, "buy") for item in bought + others]
    hits = {}
    for days in (7, 3_650):
        table = find_bought_together(to_frame(rows), within_days=days, least_people=2, most=2)
        lists = dict(table.group_by("item_id").agg("similar_item_id").iter_rows())
        hits[days] = sum(other in lists.get(item, ()) for item, other in held_out)
    assert hits[7] > 0.95 * len(held_out)
    # Whole histories, as item-kNN counts them, mix what people bought at different times.
    assert hits[3_650] < 0.6 * len(held_out)
