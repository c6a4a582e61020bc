"""The NDCG of lists with rules is that of a plain reading of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.rules.settings import ExcludeSeen, ListRules
from batchrec_dagster.steps.rule_costs import describe_change, list_variants, measure_ndcg
from batchrec_dagster_tests.rules.plain_rules import Shop, build_lists
from batchrec_dagster_tests.rules.test_rules import (
    ITEMS,
    RULES,
    exclude_seen,
    make_context,
    make_lines,
    shops,
)


def compute_ndcg(listed: Sequence[str], chosen: set[str], num_results: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(listed, 1) if item in chosen)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(chosen), num_results) + 1))
    return gain / ideal


@given(
    declared=st.fixed_dictionaries({}, optional=RULES),
    seen=st.none() | exclude_seen,
    shop=shops(),
    chosen=st.lists(st.sets(st.sampled_from(ITEMS), min_size=1), min_size=4, max_size=4),
)
def test_a_rules_cost_is_the_ndcg_of_its_lists(
    declared: dict[str, Any], seen: ExcludeSeen | None, shop: Shop, chosen: list[set[str]]
) -> None:
    rules = ListRules.model_validate({**declared, "exclude_seen": seen})
    # As candidates are read: in the order of ids.
    shop.candidates = dict(sorted(shop.candidates.items()))
    users = [*shop.candidates]
    pairs = [(user, item) for user, items in zip(users, chosen, strict=True) for item in items]
    later = pl.DataFrame(pairs, schema=["USER_ID", "ITEM_ID"], orient="row")
    variants = list_variants(rules, seen)
    named = {name for name in declared if declared[name]} | ({"exclude_seen"} if seen else set())
    assert {*variants} == {"", "all", *named}
    for variant in variants.values():
        context = make_context(shop, rules)
        ndcg = measure_ndcg(variant, context, make_lines(shop, users), later)
        rows = build_lists(variant.rules, variant.exclude_seen, shop)
        expected = [
            compute_ndcg(
                [item for who, _, item, *_ in rows if who == user], items, shop.num_results
            )
            for user, items in zip(users, chosen, strict=True)
        ]
        assert ndcg == pytest.approx(expected)


def test_the_interval_is_that_of_the_mean_of_differences() -> None:
    change = describe_change(np.array([0.5, 0.2, 0.3]), np.array([0.4, 0.4, 0.1]))
    assert change["ndcg"] == pytest.approx(1 / 3)
    assert change["change"] == pytest.approx(0.1 / 3)
    # The standard deviation of 0.1, -0.2 and 0.2 is 0.2082.
    assert change["high"] - change["low"] == pytest.approx(2 * 1.96 * 0.2082 / 3**0.5, rel=1e-3)
