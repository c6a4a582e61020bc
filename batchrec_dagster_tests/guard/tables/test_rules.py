"""Tests that every user's list equals a plain reading of the rules, in oracles/rules.py.

The shops are random, with a dozen items that have stock, categories, prices and ages. The model's
candidates are random, and so are the rules, in the form of a pipeline's YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.oracles.rules import (
    DAY,
    ITEM_CONDITIONS,
    USER_CONDITIONS,
    Declared,
    Row,
    Shop,
    build_lists,
)
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.lists import RuleData, RuledLists, apply_rules

EXAMPLES = repeats(300, 30)
NOW = 1_700_000_000
TODAY = date(2026, 12, 24)
ITEMS = [f"i{number}" for number in range(12)]
USERS = ["u1", "u2", "ü3"]
EVENTS = ["purchase", "view"]
COLUMNS = {
    "ITEM_ID": pl.String,
    "STOCK": pl.Float64,
    "KIND": pl.String,
    "BRAND": pl.String,
    "PRICE": pl.Float64,
    "CREATION_TIMESTAMP": pl.Int64,
}

item_conditions = st.sampled_from(sorted(ITEM_CONDITIONS))
items = st.sampled_from([*ITEMS, "unknown"])
one_item = st.fixed_dictionaries(
    {
        "STOCK": st.sampled_from([None, 0.0, 1.0, 5.0]),
        "KIND": st.sampled_from([None, "a", "b", "c", "a|b", "b|b", "c|"]),
        "BRAND": st.sampled_from([None, "x", "y"]),
        "PRICE": st.sampled_from([None, 1.0, 2.0, 3.0, 8.0, 0.1]),
        "AGE_DAYS": st.sampled_from([None, 10.0, 29.0, 30.0, 100.0]),
    }
)

exclude_seen = st.fixed_dictionaries(
    {},
    optional={
        "events": st.sampled_from([["purchase"], ["Purchase", "view"], ["refund"]]),
        "days": st.sampled_from([1, 60]),
        "except": item_conditions,
    },
)
pins = st.lists(
    st.fixed_dictionaries(
        {"rank": st.integers(1, 4)},
        optional={
            "until": st.sampled_from(["2026-12-23", "2026-12-24"]),
            "for": st.sampled_from(sorted(USER_CONDITIONS)),
        },
    ).flatmap(
        lambda pin: st.one_of(
            items.map(lambda item: {**pin, "item": item}),
            item_conditions.map(lambda condition: {**pin, "only": condition}),
        )
    ),
    max_size=3,
    unique_by=lambda pin: pin["rank"],
)
RULES: dict[str, st.SearchStrategy[Any]] = {
    "block": st.just({"source": "blocked.csv"}),
    "only": item_conditions,
    "price": st.fixed_dictionaries(
        {"of": st.just("PRICE"), "within": st.sampled_from([[0.5, 2.0], [0, 1.0]])},
        optional={"events": st.just(["purchase"])},
    ),
    "max_per": st.dictionaries(st.sampled_from(["KIND", "BRAND"]), st.integers(1, 2), min_size=1),
    "pin": pins,
}


@st.composite
def shops(draw: st.DrawFn) -> Shop:
    rows = st.tuples(
        st.sampled_from([*USERS, *USERS, "no one"]),
        st.sampled_from(ITEMS),
        st.sampled_from([NOW - 60 * DAY, NOW - 30 * DAY, NOW - DAY, NOW]),
        st.sampled_from(EVENTS),
    )
    ids = st.lists(items, unique=True, max_size=len(ITEMS)) | st.permutations(ITEMS)
    return Shop(
        items=draw(
            st.dictionaries(st.sampled_from(ITEMS), one_item, min_size=draw(st.integers(0, 8)))
        ),
        users=draw(
            st.dictionaries(
                st.sampled_from(USERS),
                st.fixed_dictionaries({"COUNTRY": st.sampled_from([None, "AT", "DE"])}),
            )
        ),
        interactions=draw(st.lists(rows, max_size=40) | st.lists(rows, min_size=15, max_size=40)),
        popular=draw(st.lists(st.sampled_from(ITEMS), unique=True)),
        blocked=draw(st.lists(items, max_size=4)),
        num_results=draw(st.integers(4, 6)),
        now=NOW,
        today=TODAY,
        candidates={user: draw(ids) for user in draw(st.permutations(USERS))},
        titled=draw(st.none() | st.lists(items, min_size=6)),
    )


def describe_data(shop: Shop) -> RuleData:
    """Return the shop as tables."""
    items = [
        {
            "ITEM_ID": item,
            **{name: value for name, value in values.items() if name != "AGE_DAYS"},
            "CREATION_TIMESTAMP": None
            if values["AGE_DAYS"] is None
            else NOW - int(values["AGE_DAYS"] * DAY),
        }
        for item, values in shop.items.items()
    ]
    users = [{"USER_ID": user, **values} for user, values in shop.users.items()]
    events = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}
    return RuleData(
        num_results=shop.num_results,
        user_ids=sorted(USERS),
        interactions=pl.DataFrame(
            shop.interactions, schema={**events, "EVENT_TYPE": pl.String}, orient="row"
        ),
        items=pl.DataFrame(items, schema=COLUMNS),
        users=pl.DataFrame(users, schema={"USER_ID": pl.String, "COUNTRY": pl.String}),
        popular=shop.popular,
        blocked=shop.blocked,
        titled=shop.titled,
        now=shop.now,
        today=shop.today,
    )


def apply_in_pieces(rules: Declared, seen: Declared | None, shop: Shop) -> RuledLists:
    """Return all lists, made in pieces of users, with scores that fall with the rank."""
    answers: dict[str, Sequence[tuple[str, float | None]]] = {
        user: [(item, 1 / rank) for rank, item in enumerate(items, 1)]
        for user, items in shop.candidates.items()
    }
    users = [*answers]
    pieces = [{user: answers[user] for user in part} for part in (users[:1], users[1:], [])]
    lists = apply_rules(pieces, rules, seen, describe_data(shop))
    assert lists.table.columns == ["user_id", "rank", "item_id", "score", "reason"]
    return lists


def check_rules(rules: Declared, seen: Declared | None, shop: Shop) -> None:
    """Apply the rules, and compare the lists and the counts with the plain reading."""
    lists = apply_in_pieces(rules, seen, shop)
    rows: list[Row] = lists.table.rows()
    assert rows == build_lists(rules, seen, shop)
    assert len({(row[0], row[2]) for row in rows}) == len(rows)
    assert lists.counts == {name: shop.counts[name] for name in lists.counts}


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_a_rule_does_what_it_says(rule: str, data: st.DataObject) -> None:
    check_rules({rule: data.draw(RULES[rule])}, None, data.draw(shops()))


@settings(max_examples=EXAMPLES)
@given(seen=exclude_seen, shop=shops())
def test_seen_items_are_left_out(seen: Declared, shop: Shop) -> None:
    check_rules({}, seen, shop)


@settings(max_examples=EXAMPLES)
@given(
    declared=st.fixed_dictionaries({}, optional=RULES), seen=st.none() | exclude_seen, shop=shops()
)
def test_all_rules_together_do_what_each_says(
    declared: dict[str, Any], seen: Declared | None, shop: Shop
) -> None:
    check_rules(declared, seen, shop)


@given(shop=shops())
def test_no_rule_changes_nothing_but_the_length(shop: Shop) -> None:
    expected = [
        (user, rank, item, 1 / rank, None)
        for user, items in shop.candidates.items()
        for rank, item in enumerate(items[: shop.num_results], 1)
    ]
    lists = apply_in_pieces({}, None, replace(shop, popular=[], titled=None))
    assert lists.table.rows() == expected


def test_results_have_the_score_that_the_model_gave_them_if_any() -> None:
    """With a filter, popular items have no score; a job may give no scores at all."""
    shop = Shop({}, {}, [], [], [], 20, NOW, TODAY, {})
    answers: dict[str, Sequence[tuple[str, float | None]]] = {
        "u1": [("i1", 0.5), ("i2", None)],
        "u2": [],
        "u3": [("i3", None)],
    }
    table = apply_rules([answers], {}, None, describe_data(shop)).table
    assert table.select("user_id", "item_id", "score").rows() == [
        ("u1", "i1", 0.5),
        ("u1", "i2", None),
        ("u3", "i3", None),
    ]


def test_results_of_the_model_are_no_popular_items_however_many_results_there_are() -> None:
    many = [(f"i{number}", None) for number in range(1_000_000)]
    few = [("i1", 0.5), ("i2", 0.25)]
    shop = Shop({}, {}, [], ["i3"], [], 3, NOW, TODAY, {})
    lists = apply_rules([{"u1": many, "u2": few}], {}, None, describe_data(shop)).table
    of_few = lists.filter(user_id="u2").select("item_id", "score", "reason").rows()
    assert of_few == [("i1", 0.5, None), ("i2", 0.25, None), ("i3", None, "popular")]


def test_numbers_of_short_lists_are_about_the_same_lists() -> None:
    """Newcomers' lists have only popular items from the start, and do not count."""
    shop = Shop({}, {}, [], ITEMS, ["i0"], 6, NOW, TODAY, {})
    blocked = {"block": {"source": "blocked.csv"}}
    of_model: dict[str, Sequence[tuple[str, float | None]]] = {
        "u1": [(item, None) for item in ITEMS],
        "u2": [("i0", 1.0), ("i1", 0.5)],
    }
    counts = apply_rules([of_model], blocked, None, describe_data(shop)).counts
    assert counts["lists of model"] == 2
    assert counts["short of model"] == 1
    assert counts["popular rows"] == 5
    popular = {"u3": [("i0", None), ("i1", None)]}
    lists = apply_rules([popular], blocked, None, describe_data(shop), are_popular=True)
    assert lists.table["item_id"].to_list() == ["i1", "i2", "i3", "i4", "i5", "i6"]
    assert lists.counts["lists of model"] == 0
    assert lists.counts["short of model"] == 0
    assert lists.counts["popular rows"] == 0
