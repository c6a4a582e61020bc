"""Items bought together: what the same people had within some days, by the events that count."""

from __future__ import annotations

import random

import polars as pl

from batchrec_dagster_tests.guard.seams.lists import find_bought_together

DAY = 86_400
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


def test_what_one_person_had_is_on_no_list() -> None:
    rows = [("u1", "pot", 0, "buy"), ("u1", "secret", 0, "buy"), ("u2", "pot", 0, "buy")]
    assert find_bought_together(to_frame(rows), within_days=9, num_results=9).is_empty()


def test_of_equally_many_people_those_count_more_who_had_both_within_the_days() -> None:
    rows: Rows = []
    for user in range(20):
        rows += [(f"u{user}", item, 0, "buy") for item in ("pot", "lid")]
        rows.append((f"u{user}", "book", 90 * DAY, "buy"))
    lists = find_bought_together(to_frame(rows), within_days=3, num_results=2)
    assert lists.filter(item_id="pot")["similar_item_id"].to_list() == ["lid", "book"]
    one = find_bought_together(to_frame(rows), within_days=3, num_results=1)
    assert one.filter(item_id="pot")["similar_item_id"].to_list() == ["lid"]


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
        table = find_bought_together(to_frame(rows), within_days=days, num_results=2)
        lists = dict(table.group_by("item_id").agg("similar_item_id").iter_rows())
        hits[days] = sum(other in lists.get(item, ()) for item, other in held_out)
    assert hits[7] > 0.95 * len(held_out)
    # Whole histories mix what people bought at different times.
    assert hits[3_650] < 0.6 * len(held_out)
