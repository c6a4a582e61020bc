"""What the page concludes: lists are called good only if nothing speaks against them."""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster_tests.guard.seams.page import JudgedFacts, judge


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"ndcg_before": 0.19},
        {"ndcg_before": 0.1},
        # It may be chance.
        {"ndcg_before": 0.2},
        {"full_lists": 1_990},
        {"rows_without_title": 100},
        # Of few users each has a large share.
        {"heaviest_share": 0.1},
    ],
    ids=str,
)
def test_lists_are_good(facts: dict[str, Any]) -> None:
    assert judge(JudgedFacts(**facts)) == "good"


@pytest.mark.parametrize(
    "facts",
    [
        {"popular_ndcg": 0.185},
        {"popular_ndcg": 0.3},
        {"margin": None},
        {"ndcg": 0.0, "popular_ndcg": 0.0, "margin": None, "tested_users": 0},
        {"ndcg_before": 0.4},
        {"served_users": 1_990},
        {"served_users": 1_000, "full_lists": 1_000},
        {"full_lists": 1_500},
        {"rows_without_title": 30_000},
        {"heaviest_share": 0.9},
        {"data_changes": ("40% fewer users",)},
        {"warnings": ("lists_full",)},
        {"overruled": ("quality_gate",)},
    ],
    ids=str,
)
def test_somebody_should_look_at_the_lists(facts: dict[str, Any]) -> None:
    assert judge(JudgedFacts(**facts)) != "good"
