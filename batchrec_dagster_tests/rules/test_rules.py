"""Lists that rules are applied to are those of a plain reading of the rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.prepared import PreparedRules
from batchrec_dagster.rules.settings import ExcludeSeen, ListRules
from batchrec_dagster_tests.guard.oracles.rules import (
    DAY,
    ITEM_CONDITIONS,
    USER_CONDITIONS,
    Row,
    Shop,
    build_lists,
)

NOW = 1_700_000_000
TODAY = date(2026, 12, 24)
ITEMS = [f"i{number}" for number in range(12)]
USERS = ["u1", "u2", "u3", "ü4"]
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

exclude_seen = st.builds(
    ExcludeSeen,
    events=st.none() | st.sampled_from([["purchase"], ["Purchase", "view"], ["refund"]]),
    days=st.none() | st.sampled_from([1, 60]),
    unless=st.none() | item_conditions,
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
        st.sampled_from([*USERS, "no one"]),
        st.sampled_from(ITEMS),
        st.sampled_from([NOW - 100 * DAY, NOW - 60 * DAY, NOW - DAY, NOW]),
        st.sampled_from(EVENTS),
    )
    ids = st.lists(items, unique=True, max_size=len(ITEMS))
    return Shop(
        items=draw(st.dictionaries(st.sampled_from(ITEMS), one_item)),
        users=draw(
            st.dictionaries(
                st.sampled_from(USERS),
                st.fixed_dictionaries({"COUNTRY": st.sampled_from([None, "AT", "DE"])}),
            )
        ),
        interactions=draw(st.lists(rows, max_size=15)),
        popular=draw(st.lists(st.sampled_from(ITEMS), unique=True)),
        blocked=draw(st.lists(items, max_size=4)),
        num_results=draw(st.integers(4, 6)),
        now=NOW,
        today=TODAY,
        candidates={user: draw(ids) for user in draw(st.permutations(USERS))},
    )


def make_context(shop: Shop, rules: ListRules) -> RuleContext:
    rows = [
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
    return RuleContext(
        num_results=shop.num_results,
        user_ids=pl.Series(sorted(USERS)),
        interactions=pl.LazyFrame(
            shop.interactions,
            schema={
                "USER_ID": pl.String,
                "ITEM_ID": pl.String,
                "TIMESTAMP": pl.Int64,
                "EVENT_TYPE": pl.String,
            },
            orient="row",
        ),
        now=shop.now,
        today=shop.today,
        items=pl.DataFrame(rows, schema=COLUMNS),
        users=pl.DataFrame(users, schema={"USER_ID": pl.String, "COUNTRY": pl.String}),
        popular=pl.Series(shop.popular, dtype=pl.String),
        blocked=pl.Series(shop.blocked, dtype=pl.String) if rules.block else None,
        pinned=[pin.item for pin in rules.pin if pin.item is not None],
    )


def make_lines(shop: Shop, users: list[str]) -> pl.DataFrame:
    rows = [
        (
            user,
            shop.candidates[user],
            [1 / rank for rank in range(1, 1 + len(shop.candidates[user]))],
        )
        for user in users
    ]
    schema = pl.Schema(
        {"user_id": pl.String(), "items": pl.List(pl.String), "scores": pl.List(pl.Float64)}
    )
    return pl.DataFrame(rows, schema=schema, orient="row")


def apply_in_pieces(prepared: PreparedRules, shop: Shop) -> list[Row]:
    users = [*shop.candidates]
    pieces = [prepared.apply(make_lines(shop, part)) for part in (users[:1], users[1:], [])]
    table = pl.concat(pieces)
    assert table.schema == {
        "user_id": pl.String,
        "rank": pl.Int32,
        "item_id": pl.String,
        "score": pl.Float64,
        "reason": pl.String,
    }
    return table.rows()


def check_rules(rules: ListRules, seen: ExcludeSeen | None, shop: Shop) -> None:
    """Apply the rules, and compare the lists and the counts with the plain reading."""
    prepared = PreparedRules(rules, seen, make_context(shop, rules))
    lists = apply_in_pieces(prepared, shop)
    assert lists == build_lists(rules, seen, shop)
    for name, counts in prepared.counts.items():
        assert counts.removed == shop.counts[f"{name} removed"], name
        assert counts.added == shop.counts[f"{name} added"], name
        assert counts.emptied == shop.counts[f"{name} emptied"], name
        assert counts.unmet == shop.counts[f"{name} unmet"], name
    filled = prepared.filled
    assert filled.lists == len(shop.candidates)
    assert filled.short_of_model == shop.counts["short of model"]
    assert filled.popular_rows == shop.counts["popular rows"]
    assert filled.empty == shop.counts["empty"]
    assert len({(row[0], row[2]) for row in lists}) == len(lists)
    assert filled.seen == 0


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None)
@given(data=st.data())
def test_a_rule_does_what_it_says(rule: str, data: st.DataObject) -> None:
    rules = ListRules.model_validate({rule: data.draw(RULES[rule])})
    check_rules(rules, None, data.draw(shops()))


@settings(deadline=None)
@given(seen=exclude_seen, shop=shops())
def test_what_counts_as_seen_is_left_out(seen: ExcludeSeen, shop: Shop) -> None:
    check_rules(ListRules(), seen, shop)


@settings(deadline=None)
@given(
    declared=st.fixed_dictionaries({}, optional=RULES), seen=st.none() | exclude_seen, shop=shops()
)
def test_all_rules_together_do_what_each_says(
    declared: dict[str, Any], seen: ExcludeSeen | None, shop: Shop
) -> None:
    check_rules(ListRules.model_validate(declared), seen, shop)


@settings(deadline=None)
@given(declared=st.fixed_dictionaries({"max_per": RULES["max_per"]}), shop=shops())
def test_lists_are_the_same_in_parts(declared: dict[str, Any], shop: Shop) -> None:
    with patch("batchrec_dagster.rules.prepared.MAX_COUNTER_BYTES", 1):
        check_rules(ListRules.model_validate(declared), None, shop)


@settings(deadline=None)
@given(shop=shops())
def test_no_rule_changes_nothing_but_the_length(shop: Shop) -> None:
    shop = replace(shop, popular=[])
    prepared = PreparedRules(ListRules(), None, make_context(shop, ListRules()))
    expected = [
        (user, rank, item, 1 / rank, None)
        for user, items in shop.candidates.items()
        for rank, item in enumerate(items[: shop.num_results], 1)
    ]
    assert apply_in_pieces(prepared, shop) == expected


def test_results_have_the_score_that_the_model_gave_them_if_any() -> None:
    """With a filter, popular items come without a score; a job may give none at all."""
    shop = make_plain_shop()
    prepared = PreparedRules(ListRules(), None, make_context(shop, ListRules()))
    lines = pl.DataFrame(
        {
            "user_id": USERS,
            "items": [["i1", "i2", "i3"], None, [], ["i3", "i2"]],
            "scores": [[0.5, None], None, [0.7], [0.25]],
        }
    )
    assert prepared.apply(lines).select("user_id", "item_id", "score").rows() == [
        ("u1", "i1", 0.5),
        ("u1", "i2", None),
        ("u1", "i3", None),
        ("ü4", "i3", 0.25),
        ("ü4", "i2", None),
    ]


def make_plain_shop(**facts: Any) -> Shop:
    """Half of the items are blocked, and u1 has had three of them."""
    shop = Shop(
        items={},
        users={},
        interactions=[("u1", item, NOW, "view") for item in ITEMS[:3]],
        popular=[],
        blocked=ITEMS[6:],
        num_results=20,
        now=NOW,
        today=TODAY,
        candidates={},
    )
    item = {"STOCK": 1.0, "KIND": "a", "BRAND": None, "PRICE": 1.0, "AGE_DAYS": 50.0}
    shop.items.update(dict.fromkeys(ITEMS, item))
    return replace(shop, **facts)


@pytest.mark.parametrize(
    ("declared", "seen", "expected"),
    [
        ({}, None, 20),
        # The longest history, which is not rounded.
        ({}, ExcludeSeen(), 23),
        # Twice the expected number: half of the catalogue is blocked.
        ({"block": {"source": "blocked.csv"}}, None, 75),
        ({"block": {"source": "blocked.csv"}}, ExcludeSeen(), 78),
        ({"only": "ITEMS.STOCK > 0"}, None, 20),
        ({"max_per": {"KIND": 3}}, None, 75),
        # No item is as new, so no number of results helps.
        ({"pin": [{"only": "ITEMS.AGE_DAYS < 30"}]}, None, 20),
        # Twice as many as the pins take, rounded up; every item is as new.
        ({"pin": [{"only": "ITEMS.AGE_DAYS < 60", "rank": n} for n in range(1, 16)]}, None, 50),
        # None is in stock.
        ({"only": "ITEMS.STOCK > 9"}, None, 200),
    ],
)
def test_rules_say_how_many_results_they_need(
    declared: dict[str, Any], seen: ExcludeSeen | None, expected: int
) -> None:
    rules = ListRules.model_validate(declared)
    prepared = PreparedRules(rules, seen, make_context(make_plain_shop(), rules))
    assert prepared.choose_num_results(most=500, most_for_others=200) == expected
    assert prepared.choose_num_results(most=21, most_for_others=200) <= 21
