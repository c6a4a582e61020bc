"""What rules count of what they did, and how many results they ask for.

The lists themselves are those of guard/tables/test_rules.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.config.rules import ExcludeSeen, ListRules
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.prepared import PreparedRules
from batchrec_dagster_tests.guard.oracles.rules import Shop, build_lists
from batchrec_dagster_tests.guard.tables.test_rules import (
    ITEMS,
    NOW,
    RULES,
    TODAY,
    describe_data,
    exclude_seen,
    shops,
)


def prepare(rules: ListRules, seen: ExcludeSeen | None, shop: Shop) -> PreparedRules:
    data = describe_data(shop)
    context = RuleContext(
        num_results=data.num_results,
        user_ids=pl.Series(data.user_ids),
        interactions=data.interactions.lazy(),
        now=data.now,
        today=data.today,
        items=data.items,
        users=data.users,
        popular=pl.Series(data.popular, dtype=pl.String),
        blocked=pl.Series(data.blocked, dtype=pl.String) if rules.block else None,
        pinned=[pin.item for pin in rules.pin if pin.item is not None],
    )
    return PreparedRules(rules, seen, context)


def make_lines(shop: Shop) -> pl.DataFrame:
    rows = [
        (user, items, [1 / rank for rank in range(1, 1 + len(items))])
        for user, items in shop.candidates.items()
    ]
    lists = {"items": pl.List(pl.String), "scores": pl.List(pl.Float64)}
    schema = pl.Schema({"user_id": pl.String(), **lists})
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize("bytes_at_once", [1, 64_000_000])
@given(
    declared=st.fixed_dictionaries({}, optional=RULES), seen=st.none() | exclude_seen, shop=shops()
)
def test_what_each_rule_did_is_counted_also_in_parts(
    bytes_at_once: int, declared: dict[str, Any], seen: dict[str, Any] | None, shop: Shop
) -> None:
    settings = None if seen is None else ExcludeSeen.model_validate(seen)
    prepared = prepare(ListRules.model_validate(declared), settings, shop)
    with patch("batchrec_dagster.rules.prepared.MAX_COUNTER_BYTES", bytes_at_once):
        lists = prepared.apply(make_lines(shop))
    assert lists.rows() == build_lists(declared, seen, shop)
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
    assert filled.seen == 0


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
    prepared = prepare(rules, seen, make_plain_shop())
    assert prepared.choose_num_results(most=500, most_for_others=200) == expected
    assert prepared.choose_num_results(most=21, most_for_others=200) <= 21
