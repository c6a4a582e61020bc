"""Tests of items bought together: by the same people within some days, in events that count."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import combinations
from math import sqrt

import polars as pl
import pytest

from batchrec_dagster_tests.guard.seams.lists import find_bought_together

DAY = 86_400
# The product's constants: the weight of people who had two items at different times, and the number
# of people with the two items that is half as good as very many.
WEIGHT_APART, DISCOUNT = 0.3, 5
Rows = list[tuple[str, str, int, str]]


def to_frame(rows: Rows) -> pl.DataFrame:
    names = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"]
    return pl.DataFrame(rows, names, orient="row")


def test_only_events_that_count_are_on_lists() -> None:
    rows = [
        (f"u{user}", item, user * DAY, event)
        for user in range(9)
        for item, event in [("pot", "Buy"), ("lid", "buy"), ("ad", "view")]
    ]
    lists = find_bought_together(to_frame(rows), within_days=0, num_results=9, events=["BUY"])
    assert lists.select("item_id", "similar_item_id").rows() == [("lid", "pot"), ("pot", "lid")]


def test_an_item_of_a_single_person_is_on_no_list() -> None:
    rows = [("u1", "pot", 0, "buy"), ("u1", "secret", 0, "buy"), ("u2", "pot", 0, "buy")]
    assert find_bought_together(to_frame(rows), within_days=9, num_results=9).is_empty()


def test_people_who_had_two_items_within_the_days_count_more() -> None:
    rows: Rows = []
    for user in range(20):
        rows += [(f"u{user}", item, 0, "buy") for item in ("pot", "lid")]
        rows.append((f"u{user}", "book", 90 * DAY, "buy"))
    lists = find_bought_together(to_frame(rows), within_days=3, num_results=2)
    assert lists.filter(item_id="pot")["similar_item_id"].to_list() == ["lid", "book"]
    neighbours = find_bought_together(to_frame(rows), within_days=3, num_results=1)
    assert neighbours.filter(item_id="pot")["similar_item_id"].to_list() == ["lid"]


def test_pairs_predict_baskets_that_were_not_counted() -> None:
    """People buy two of a set of three at a time, with another item, and other sets later."""
    chance = random.Random(0)
    items = [f"i{number:03}" for number in range(60)]
    rows: Rows = []
    held_out = []
    for user in range(100):
        for visit in range(10):
            first = 3 * chance.randrange(20)
            bought = chance.sample(items[first : first + 3], 2)
            other_items = [items[min(chance.choices(range(60), k=2))] for _ in range(2)]
            if visit == 9:
                held_out.append(bought)
            else:
                rows += [
                    (f"u{user}", item, visit * 90 * DAY, "buy") for item in bought + other_items
                ]
    hits = {}
    for days in (7, 3_650):
        table = find_bought_together(to_frame(rows), within_days=days, num_results=2)
        lists = dict(table.group_by("item_id").agg("similar_item_id").iter_rows())
        hits[days] = sum(other in lists.get(item, ()) for item, other in held_out)
    assert hits[7] > 0.95 * len(held_out)
    # Whole histories mix purchases of different times.
    assert hits[3_650] < 0.6 * len(held_out)


def find_plainly(rows: Rows, days: int, most: int) -> list[tuple[str, str, float]]:
    """Return the best neighbours of each item, counted with loops."""
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
            weighted_people = WEIGHT_APART * people + (1 - WEIGHT_APART) * together
            if people >= 2:
                either = sqrt(len(people_of_item[item]) * len(people_of_item[other]))
                scored.append(
                    (
                        -weighted_people / (weighted_people + DISCOUNT) * weighted_people / either,
                        -weighted_people,
                        other,
                    )
                )
        lists += [(item, other, -score) for score, _, other in sorted(scored)[:most]]
    return lists


@pytest.mark.parametrize("days", [0, 3, 30])
def test_pairs_equal_a_plain_count(days: int) -> None:
    chance = random.Random(days)
    rows = [
        (f"u{chance.randrange(30)}", f"i{chance.randrange(12)}", chance.randrange(40) * DAY, "x")
        for _ in range(400)
    ]
    lists = find_bought_together(to_frame(rows), within_days=days, num_results=4, events_at_once=60)
    expected = find_plainly(rows, days, 4)
    assert expected
    assert [row[:2] for row in lists.iter_rows()] == [row[:2] for row in expected]
    assert lists["score"].to_list() == pytest.approx([score for _, _, score in expected])
