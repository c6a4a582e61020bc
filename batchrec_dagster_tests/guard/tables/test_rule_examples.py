"""Tests of each rule on a single list, with a case per line; test_rules.py has random shops."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

import polars as pl
import pytest

from batchrec_dagster_tests.guard.seams.lists import RuleData, apply_rules

DAY = 86_400
NOW = 1_700_000_000
# The history of u: item, days ago and event type. The prices of the three items are 1, 2 and 9.
HISTORY = [("a", 1, "buy"), ("b", 59, "buy"), ("c", 61, "view")]
ITEMS = {
    # kind, stock, price, and age in days
    "a": ("food|fresh", 5.0, 1.0, 10),
    "b": ("food", 0.0, 2.0, 100),
    "c": ("toys", 1.0, 9.0, 29),
    "d": ("toys", None, 3.0, None),
    "e": (None, 7.0, 4.0, 50),
}
DATA = RuleData(
    num_results=5,
    user_ids=["u"],
    interactions=pl.DataFrame(
        [("u", item, NOW - days * DAY, event) for item, days, event in HISTORY],
        schema=["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"],
        orient="row",
    ),
    items=pl.DataFrame(
        [
            (item, kind, stock, price, None if age is None else NOW - age * DAY)
            for item, (kind, stock, price, age) in ITEMS.items()
        ],
        schema=["ITEM_ID", "KIND", "STOCK", "PRICE", "CREATION_TIMESTAMP"],
        orient="row",
    ),
    users=pl.DataFrame({"USER_ID": ["u"], "COUNTRY": ["AT"]}),
    popular=[*"edcba"],
    blocked=["b"],
    now=NOW,
)
BLOCK = {"block": {"source": "blocked.csv"}}
PRICE = {"price": {"of": "PRICE", "within": [0.5, 2]}}
TODAY, YESTERDAY = f"{DATA.today}", "2026-12-23"


def make_list(
    rules: dict[str, Any],
    seen: dict[str, Any] | None = None,
    candidates: str = "abcde",
    data: RuleData = DATA,
) -> str:
    """Return the items of u's list. candidates: the model's items, the best first."""
    scores = [(item, 1.0 - rank / 10) for rank, item in enumerate(candidates)]
    table = apply_rules([{"u": scores}], rules, seen, data).table
    assert table["rank"].to_list() == [*range(1, 1 + table.height)]
    return "".join(table["item_id"])


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({}, "de"),
        ({"events": ["buy"]}, "cde"),
        ({"events": ["Buy", "view"]}, "de"),
        ({"days": 60}, "cde"),
        ({"days": 30}, "bcde"),
        ({"except": 'ITEMS.KIND = "food"'}, "abde"),
        ({"days": 30, "except": 'ITEMS.KIND = "food"'}, "abcde"),
    ],
)
def test_items_that_count_as_seen_are_left_out(seen: dict[str, Any], expected: str) -> None:
    assert make_list({}, seen) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("ITEMS.STOCK > 0", "ace"),
        ('ITEMS.KIND != "toys"', "ab"),
        ('ITEMS.KIND = "fresh"', "a"),
        ("ITEMS.AGE_DAYS < 30", "ac"),
        ("ITEMS.STOCK > 4 OR ITEMS.PRICE = 3", "ade"),
    ],
)
def test_only_keeps_items_that_meet_the_condition(condition: str, expected: str) -> None:
    assert make_list({"only": condition}) == expected


def test_block_leaves_out_the_items_of_the_file() -> None:
    assert make_list(BLOCK) == "acde"


def test_an_item_without_a_title_is_not_on_a_list_that_shows_titles() -> None:
    assert make_list({}, data=replace(DATA, titled=[*"acd"])) == "acd"
    assert make_list({"pin": [{"item": "b"}]}, data=replace(DATA, titled=[*"acd"])) == "acd"


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        # The median of 1, 2 and 9 is 2, and the range includes its ends.
        ({"within": [0.5, 2]}, "abde"),
        ({"within": [0.5, 2], "events": ["buy"]}, "abd"),
        # A user who bought nothing with a price gets items of any price.
        ({"within": [0.5, 2], "events": ["rent"]}, "abcde"),
    ],
)
def test_price_keeps_items_near_the_median_of_what_the_person_had(
    price: dict[str, Any], expected: str
) -> None:
    assert make_list({"price": {"of": "PRICE", **price}}) == expected


def test_price_says_where_it_is_declared_what_median_its_range_is_of() -> None:
    package = resources.files("batchrec_dagster")
    schema = json.loads((package / "config/defs.schema.json").read_text())
    price = schema["$defs"]["PriceRange"]
    assert "median" in price["description"]
    assert "counts once" in price["description"]
    assert "only looked at" in price["properties"]["events"]["description"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        # An item of several kinds counts for each kind, an item without a kind for none.
        ({"max_per": {"KIND": 1}}, "ace"),
        ({"max_per": {"KIND": 2}}, "abcde"),
        ({"max_per": {"KIND": 1}, "pin": [{"item": "d", "rank": 1}]}, "dae"),
    ],
)
def test_max_per_counts_all_items_of_the_list(rules: dict[str, Any], expected: str) -> None:
    assert make_list(rules) == expected


@pytest.mark.parametrize(
    ("pins", "rules", "expected"),
    [
        ([{"item": "e"}], {}, "eabcd"),
        ([{"item": "e", "rank": 3}], {}, "abecd"),
        ([{"item": "e", "until": TODAY}], {}, "eabcd"),
        ([{"item": "e", "until": YESTERDAY}], {}, "abcde"),
        ([{"item": "e", "for": 'USERS.COUNTRY = "AT"'}], {}, "eabcd"),
        ([{"item": "e", "for": 'USERS.COUNTRY = "DE"'}], {}, "abcde"),
        # If two pins have the same rank, the first pin counts.
        ([{"item": "e", "until": TODAY}, {"item": "d"}], {}, "eabcd"),
        ([{"item": "e", "until": YESTERDAY}, {"item": "d"}], {}, "dabce"),
        # A pinned condition takes its best result, even if the model ranks that result higher.
        ([{"only": "ITEMS.AGE_DAYS < 30", "rank": 4}], {}, "bcdae"),
        ([{"only": "ITEMS.STOCK > 9", "rank": 4}], {}, "abcde"),
        # Pinned items obey all other rules except the price range.
        ([{"item": "b"}], BLOCK, "acde"),
        ([{"item": "b"}], {"only": "ITEMS.STOCK > 0"}, "ace"),
        ([{"item": "c", "rank": 2}], PRICE, "acbde"),
        ([{"item": "unknown"}], {}, "abcde"),
        # On a list that is too short for its rank, a pinned item comes last.
        ([{"item": "a", "rank": 5}], {"only": "ITEMS.STOCK > 0"}, "cea"),
    ],
)
def test_pin_puts_an_item_at_its_rank(
    pins: list[dict[str, Any]], rules: dict[str, Any], expected: str
) -> None:
    assert make_list({**rules, "pin": pins}) == expected


@pytest.mark.parametrize(
    ("rules", "seen", "candidates", "expected"),
    [
        ({}, None, "b", "bedca"),
        ({"only": "ITEMS.STOCK > 0"}, None, "b", "eca"),
        (BLOCK, None, "d", "deca"),
        ({}, {}, "a", "ed"),
        ({"max_per": {"KIND": 1}}, None, "d", "deb"),
        # Without results of the model, a list has only popular items.
        ({}, None, "", "edcba"),
    ],
)
def test_a_short_list_is_filled_with_popular_items_that_obey_the_rules(
    rules: dict[str, Any], seen: dict[str, Any] | None, candidates: str, expected: str
) -> None:
    assert make_list(rules, seen, candidates) == expected
