"""The badges of the report's tiles: one only where something was judged, and why."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from batchrec_dagster.reporting.badges import (
    judge_concentration,
    judge_ndcg,
    judge_outcome,
    judge_service,
    judge_short_lists,
)
from batchrec_dagster.reporting.facts import combine_facts, count_tallies
from batchrec_dagster.reporting.outcomes import build_outcomes_section
from batchrec_dagster.reporting.page import render_page
from batchrec_dagster.reporting.provenance import SMALL_SAMPLE
from batchrec_dagster.reporting.sections import Badge
from batchrec_dagster.steps.intervals import Rate
from batchrec_dagster.steps.outcomes import Outcome
from batchrec_dagster.storage.measured_popularity import MeasuredPopularity
from batchrec_dagster_tests.reporting.test_report_page import build_tables, run
from batchrec_dagster_tests.reporting.test_verdict import build_evidence, build_facts

POPULAR = MeasuredPopularity(days=30, users=400, ndcg=0.06, margin=0.01)


def get_word(badge: Badge | None) -> str | None:
    return None if badge is None else badge.judgement


@pytest.mark.parametrize(
    ("changes", "judgement"),
    [
        ({}, "good"),
        ({"tested": build_evidence(61)}, "watch"),
        ({"tested": build_evidence(211, lead=-0.1)}, "bad"),
        # Nobody was tested, or there is nothing to compare with.
        ({"tested": build_evidence(0, 0, 0, 0)}, None),
        ({"tested": None}, None),
        # Amazon gives no interval, so nothing says that a better mean is no chance.
        ({"tested": None, "recent": POPULAR}, None),
        ({"tested": None, "recent": POPULAR, "ndcg": 0.05}, "bad"),
    ],
)
def test_the_model_is_good_only_if_that_was_measured(
    changes: dict[str, Any], judgement: str | None
) -> None:
    assert get_word(judge_ndcg(build_facts(**changes))) == judgement


def build_outcome(active_users: int, low: float, high: float) -> Outcome:
    """What this many active users did, with this interval of the gain."""
    rate = Rate(value=0.5, low=0.4, high=0.6)
    return Outcome(
        edition=1,
        since="publication",
        start=datetime(2026, 1, 1, tzinfo=UTC),
        end=datetime(2026, 1, 2, tzinfo=UTC),
        experiment="",
        arm="model",
        list_length=4,
        users=200,
        active_users=active_users,
        interactions=300,
        new_interactions=200,
        on_list=50,
        hit_rate=rate,
        recall=rate,
        list_share=rate,
        gain=Rate(value=(low + high) / 2, low=low, high=high),
        popular_hit_rate=Rate(value=0.375, low=0.3, high=0.45),
        popular_recall=0.2,
        popular_list_share=0.15,
    )


def test_outcomes_and_metrics_have_one_minimum_sample() -> None:
    few, enough = (build_outcome(users, 0.1, 0.2) for users in (SMALL_SAMPLE - 1, SMALL_SAMPLE))
    for outcome, evidence_users, judgement in (
        (few, SMALL_SAMPLE - 1, "watch"),
        (enough, SMALL_SAMPLE, "good"),
    ):
        facts = build_facts(tested=build_evidence(evidence_users))
        assert get_word(judge_outcome(outcome)) == get_word(judge_ndcg(facts)) == judgement
    assert get_word(judge_outcome(build_outcome(500, -0.1, 0.1))) == "watch"
    assert get_word(judge_outcome(build_outcome(20, -0.2, -0.1))) == "bad"
    assert judge_outcome(enough.model_copy(update={"gain": None})) is None
    text = build_outcomes_section([few]).text[0]
    assert "(+10.0 to +20.0 points), but in a small sample." in text
    assert "small sample" not in build_outcomes_section([enough]).text[0]


def test_a_share_that_no_rule_judges_has_no_badge() -> None:
    unjudged = build_facts(top_lists=0.537, top_histories=0.2)
    assert judge_concentration(unjudged) is None
    assert get_word(judge_concentration(build_facts(top_lists=0.9))) == "watch"
    assert [get_word(judge_service(*users)) for users in ((0, 0), (9, 9), (99, 98), (9, 8))] == [
        *(None, "good", "watch", "bad")
    ]
    assert [get_word(judge_short_lists(*lists)) for lists in ((0, 0), (1, 100), (2, 100))] == [
        *(None, "good", "watch")
    ]


def test_each_badge_of_the_page_says_its_rule() -> None:
    page = render_page(combine_facts(run(), count_tallies(build_tables())))
    tiles = re.findall(r'<li class="tile.*?</li>', page, re.DOTALL)
    with_badge = [tile for tile in tiles if 'class="judgement"' in tile]
    assert len(with_badge) == 2  # NDCG@25, and the users with a list.
    for tile in tiles:
        words = re.findall(r'class="judgement" title="(.*?)">(\w+)<', tile)
        rules = re.findall(r'<p class="rule">(\w+): (.*?)</p>', tile)
        # The tooltip is for the mouse, the text for everyone.
        assert [(rule[:1].upper() + rule[1:], word) for word, rule in rules] == words
