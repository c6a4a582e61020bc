"""The numbers of published lists that Dagster plots before all others."""

from __future__ import annotations

from batchrec_dagster.pipeline.headline_numbers import (
    COST,
    COVERED,
    FAILED,
    NAMES,
    POPULAR_QUALITY,
    QUALITY,
    build_headline_numbers,
)

NDCG = "normalized_discounted_cumulative_gain_at_25"
ABOUT = {
    "metrics": {NDCG: 0.1933, "coverage": 1},
    "recent_popularity": {"ndcg": 0.0616},
    "failed_users": 5,
}


def test_the_numbers_are_those_of_the_edition() -> None:
    numbers = build_headline_numbers(ABOUT, 15, 1.5)
    assert numbers == {
        QUALITY: 0.1933,
        POPULAR_QUALITY: 0.0616,
        COVERED: 1.0,
        FAILED: 0.25,
        COST: 1.5,
    }
    # Dagster plots no text, and a plot of an integer may lose its decimals.
    assert {type(number) for number in numbers.values()} == {float}


def test_what_is_not_known_is_left_out() -> None:
    assert build_headline_numbers({}, None, 0.0) == {COST: 0.0}
    assert build_headline_numbers({"failed_users": 3}, 0, 0.0) == {FAILED: 1.0, COST: 0.0}


def test_dagster_sorts_them_before_all_other_numbers() -> None:
    others = ["bytes", "cost_usd", "dagster/row_count", "edition", "items", "users"]
    assert sorted([*others, *NAMES])[: len(NAMES)] == sorted(NAMES)
