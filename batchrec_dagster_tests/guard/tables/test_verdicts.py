"""Tests of the page's verdict: lists are called good only if no finding speaks against them."""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster_tests.guard.seams.page import JudgedFacts, judge, read_verdict


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
        # Among few users, a single user is a large share.
        {"heaviest_share": 0.1},
        # A finding that nearly every pipeline has is no alarm.
        {"served_users": 1_990},
        # An interval shows how little a small sample means. People ignore an alarm of every night.
        {"tested_users": 60},
        # People's real choices outweigh measurements on held-out interactions.
        {"popular_ndcg": 0.185, "gain": (0.05, 0.02, 0.08)},
        # It may be chance.
        {"gain": (-0.01, -0.03, 0.01)},
        {"users_before": 1_900},
        {"age_days": 9.0},
        {"age_days": 6.5, "max_age_days": 7.0},
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
        {"served_users": 1_000, "full_lists": 1_000},
        {"full_lists": 1_500},
        {"rows_without_title": 30_000},
        {"heaviest_share": 0.9},
        {"users_before": 3_400},
        {"top_lists": 0.6},
        {"warnings": ("lists_full",)},
        {"overruled": ("quality_gate",)},
        # The model beats popular items on held-out interactions, but people chose popular items.
        {"gain": (-0.1, -0.12, -0.08)},
        {"age_days": 8.0, "max_age_days": 7.0},
    ],
    ids=str,
)
def test_somebody_should_look_at_the_lists(facts: dict[str, Any]) -> None:
    assert judge(JudgedFacts(**facts)) != "good"


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        # The worst finding counts.
        ({"popular_ndcg": 0.3}, "refuse"),
        ({"popular_ndcg": 0.3, "gain": (-0.1, -0.12, -0.08)}, "refuse"),
        ({"popular_ndcg": 0.3, "gain": (0.05, 0.02, 0.08)}, "watch"),
        ({"age_days": 8.0, "max_age_days": 7.0}, "refuse"),
        ({"gain": (-0.1, -0.12, -0.08)}, "watch"),
        ({"ndcg": 0.06, "margin": None}, "watch"),
        ({"ndcg": 0.05, "margin": None}, "refuse"),
        ({"ndcg": 0.07, "margin": None}, "unproved"),
        ({"heaviest_share": 0.11}, "watch"),
        ({"served_users": 1_000, "full_lists": 1_000}, "watch"),
        ({"rows_without_title": 30_000}, "watch"),
        ({"popular_ndcg": 0.3, "overruled": ("quality_gate",)}, "watch"),
    ],
    ids=str,
)
def test_only_findings_that_harm_readers_refuse(facts: dict[str, Any], level: str) -> None:
    assert judge(JudgedFacts(**facts)) == level


def test_a_verdict_is_short_and_names_the_worst_first() -> None:
    verdict = read_verdict(
        JudgedFacts(
            popular_ndcg=0.185,
            heaviest_share=0.5,
            users_before=9_000,
            top_lists=0.9,
            served_users=1_000,
            full_lists=500,
            rows_without_title=30_000,
        )
    )
    assert verdict.startswith("Look before you send: the model is not clearly better than popular")
    assert len(verdict.split()) <= 25
    assert verdict.endswith("more.")
