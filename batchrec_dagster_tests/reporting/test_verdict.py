"""What the report concludes, for a table of facts."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from batchrec_dagster.personalize.evidence import Evidence, MetricEstimate
from batchrec_dagster.reporting.audience import count_audience
from batchrec_dagster.reporting.history import describe_previous_edition
from batchrec_dagster.reporting.report_counts import count_tables
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.reporting.verdict import PreviousEdition, VerdictFacts, judge_edition
from batchrec_dagster.storage.published_table import Edition


def build_evidence(
    users: int, ndcg: float = 0.19, lead: float = 0.13, half: float = 0.02
) -> Evidence:
    """Measured on so many users, with intervals of this half width."""
    is_uncertain = half > 0
    estimates = (
        MetricEstimate(
            value, value - half if is_uncertain else None, value + half if is_uncertain else None
        )
        for value in (ndcg, ndcg - lead, lead)
    )
    return Evidence("all", users, *estimates)


def build_facts(**changes: Any) -> VerdictFacts:
    return VerdictFacts(
        **{
            "ndcg": 0.19,
            "popular": 0.06,
            "tested": build_evidence(211),
            "requested": 2113,
            "served": 2113,
            "full": 2113,
            "top_lists": 0.4,
            "top_histories": 0.13,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "judgement", "sentence"),
    [
        (
            {},
            "good",
            "Good to send: the model clearly beats the most popular items: NDCG@25 0.1900 compared"
            " with 0.0600 on 211 tested users, a lead of 0.1300 (95% interval 0.1100 to 0.1500).",
        ),
        # How sure it is.
        (
            {"tested": build_evidence(211, half=0.2)},
            "watch",
            "is not clearly better than the most popular",
        ),
        ({"tested": build_evidence(211, lead=-0.1)}, "bad", "is worse than the most popular items"),
        ({"tested": build_evidence(30)}, "watch", "but in a small sample: NDCG@25 0.1900"),
        (
            {"tested": build_evidence(5, half=0)},
            "watch",
            "on only 5 tested users, too few for an interval",
        ),
        (
            {"tested": build_evidence(5, lead=0, half=0), "ndcg": 0.06},
            "watch",
            "the model is no better than the most popular items: NDCG@25 0.0600 compared with"
            " 0.0600 on only 5 tested users, too few for an interval",
        ),
        (
            {"tested": build_evidence(0, 0, 0, 0), "ndcg": 0.0, "popular": 0.0},
            "watch",
            "the model could not be measured: no held-out user went on to an item that was new to"
            " them, but not to everyone.",
        ),
        (
            {
                "tested": build_evidence(0, 0, 0, 0),
                "ndcg": 0.0,
                "before": PreviousEdition(3, MetricEstimate(0.2, 0.18, 0.22)),
            },
            "watch",
            "but not to everyone. In edition 3, NDCG@25 was 0.2000.",
        ),
        ({"tested": None}, "good", "without an interval, so chance is not ruled out"),
        ({"tested": None, "ndcg": 0.06}, "bad", "no better than the most popular items"),
        ({"popular": None}, "watch", "with nothing to compare it with"),
        # The lists.
        ({"served": 2100}, "watch", "13 of 2,113 requested users got no list"),
        ({"served": 1000, "full": 1000}, "bad", "1,113 of 2,113 requested users got no list"),
        ({"full": 2100}, "good", "Good to send"),
        ({"full": 1900}, "watch", "213 of 2,113 lists are short"),
        ({"top_lists": 0.9}, "watch", "1% of the items take 90% of the lists, compared with 13%"),
        ({"top_lists": 0.9, "top_histories": 0.5}, "good", "Good to send"),
        # The data and the checks.
        ({"drift": ["40% fewer users"]}, "watch", "the data changed much: 40% fewer users"),
        ({"checks": ["lists_full"]}, "watch", "the check lists_full warns"),
        # All reasons of the worst judgement, and what is good apart from them.
        (
            {"full": 1900, "checks": ["fresh"]},
            "watch",
            "213 of 2,113 lists are short; the check fresh warns; apart from that, the model",
        ),
        # The edition before.
        (
            {"before": PreviousEdition(3, MetricEstimate(0.2, 0.18, 0.22))},
            "good",
            "It is as good as edition 3, within the margin of error: NDCG@25 was 0.2000.",
        ),
        (
            {"before": PreviousEdition(3, MetricEstimate(0.1, 0.08, 0.12))},
            "good",
            "It is better than edition 3: NDCG@25 was 0.1000.",
        ),
        (
            {"before": PreviousEdition(3, MetricEstimate(0.25, 0.23, 0.27))},
            "watch",
            "It is worse than edition 3: NDCG@25 was 0.2500.",
        ),
        (
            {"before": PreviousEdition(3, MetricEstimate(0.25))},
            "watch",
            "the model is worse than the one before",
        ),
        (
            {"before": PreviousEdition(3, MetricEstimate(0.2))},
            "good",
            "In edition 3, NDCG@25 was 0.2000.",
        ),
        (
            {
                "before": PreviousEdition(
                    3, MetricEstimate(0.9), ["interactions.min_rating changed from 3.5 to 4"]
                )
            },
            "good",
            "Not comparable with edition 3: interactions.min_rating changed from 3.5 to 4.",
        ),
        (
            {"before": PreviousEdition(3, MetricEstimate(0.19), same_model=True)},
            "good",
            "The model is that of edition 3.",
        ),
        ({"heaviest": 0.1}, "good", "the model clearly beats the most popular items"),
        ({"heaviest": 0.9961}, "watch", "one user has 99.6% of all interactions"),
        ({"heaviest": 0.4, "requested": 20, "served": 20, "full": 20}, "good", "the model clearly"),
        (
            {"heaviest": 0.6, "requested": 20, "served": 20, "full": 20},
            "watch",
            "one user has 60.0%",
        ),
        (
            {
                "before": PreviousEdition(
                    3, MetricEstimate(0.9), ["a changed", "b changed", "c changed", "d"]
                )
            },
            "good",
            "Not comparable with edition 3: a changed, b changed, c changed, and 1 more.",
        ),
        (
            {
                "before": PreviousEdition(3, MetricEstimate(0.9)),
                "unchanged": "edition 4 of 2026-01-02",
            },
            "good",
            "Unchanged: these are the lists of edition 4 of 2026-01-02.",
        ),
    ],
)
def test_the_verdict_follows_from_the_facts(
    changes: dict[str, Any], judgement: str, sentence: str
) -> None:
    verdict = judge_edition(build_facts(**changes))
    assert verdict.judgement == judgement, verdict.text
    assert sentence in verdict.text
    assert "times" not in verdict.text
    openings = {"good": "Good to send:", "watch": "Look before you send:", "bad": "Do not send:"}
    assert verdict.text.startswith(openings[judgement])
    assert verdict.text.endswith(".")


def test_the_share_of_the_heaviest_user_is_counted() -> None:
    rows = [*[("bot", f"i{n % 3}", n) for n in range(12)], ("a", "i1", 1), ("b", "i2", 1)]
    interactions = pl.LazyFrame(rows, ["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")
    lists = pl.LazyFrame({"user_id": ["a"], "rank": [1], "item_id": ["i2"]})
    users = pl.LazyFrame({"userId": ["a", "b"]})  # The bot gets no list, and counts.
    tables = RunTables(interactions, lists, users)
    assert count_audience(tables, count_tables(tables)).heaviest == 12 / 14


def test_an_edition_of_the_same_model_is_not_compared_with_the_one_before() -> None:
    before, same_model, other = (
        Edition({"edition": number, "version": "v", "solution_version_arn": arn}, "s3://b/e")
        for number, arn in ((1, "arn:a"), (2, "arn:a"), (2, "arn:b"))
    )
    descriptions = [describe_previous_edition(before, after) for after in (same_model, other)]
    assert [description and description.same_model for description in descriptions] == [True, False]
