"""What the report concludes, for a table of facts."""

from __future__ import annotations

from typing import Any

import polars as pl

from batchrec_dagster.personalize.measurements import AMAZON, Evidence, MetricEstimate
from batchrec_dagster.reporting.audience import count_audience
from batchrec_dagster.reporting.history import describe_previous_edition
from batchrec_dagster.reporting.provenance import describe_counted_events
from batchrec_dagster.reporting.report_counts import count_tables
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.reporting.verdict import PreviousEdition, VerdictFacts, judge_edition
from batchrec_dagster.storage.measured_popularity import MeasuredPopularity
from batchrec_dagster_tests.guard.seams.editions import make_edition
from batchrec_dagster_tests.texts import assert_texts


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
            "tested": build_evidence(211),
            "requested": 2113,
            "served": 2113,
            "full": 2113,
            "top_lists": 0.4,
            "top_histories": 0.13,
            **changes,
        }
    )


# How the facts differ from those of a good edition, and the judgement.
CASES: list[tuple[dict[str, Any], str]] = [
    (
        {},
        "good",
    ),
    # How sure it is.
    (
        {"tested": build_evidence(211, half=0.2)},
        "watch",
    ),
    ({"tested": build_evidence(211, lead=-0.1)}, "bad"),
    ({"tested": build_evidence(30)}, "watch"),
    (
        {"tested": build_evidence(5, half=0)},
        "watch",
    ),
    (
        {"tested": build_evidence(5, lead=0, half=0), "ndcg": 0.06},
        "watch",
    ),
    (
        {"tested": build_evidence(0, 0, 0, 0), "ndcg": 0.0},
        "watch",
    ),
    (
        {
            "tested": build_evidence(0, 0, 0, 0),
            "ndcg": 0.0,
            "before": PreviousEdition(3, MetricEstimate(0.2, 0.18, 0.22)),
        },
        "watch",
    ),
    ({"tested": None}, "watch"),
    # Popular items of the last days, where they are better than those of all time.
    ({"recent": MeasuredPopularity(days=30, users=400, ndcg=0.05, margin=0.01)}, "good"),
    ({"recent": MeasuredPopularity(days=30, users=400, ndcg=0.09, margin=0.01)}, "good"),
    ({"recent": MeasuredPopularity(days=30, users=400, ndcg=0.18, margin=0.01)}, "watch"),
    ({"recent": MeasuredPopularity(days=1, users=400, ndcg=0.25, margin=0.01)}, "bad"),
    (
        {
            "recent": MeasuredPopularity(days=90, users=400, ndcg=0.09, margin=0.01),
            "tested": build_evidence(30),
        },
        "watch",
    ),
    (
        {"recent": MeasuredPopularity(days=90, users=400, ndcg=0.09, margin=0.01), "tested": None},
        "good",
    ),
    (
        {"recent": MeasuredPopularity(days=90, users=400, ndcg=0.19, margin=0.01), "tested": None},
        "bad",
    ),
    ({"recent": MeasuredPopularity(days=90, users=1, ndcg=0.2, margin=None)}, "watch"),
    # The lists.
    ({"served": 2100}, "watch"),
    ({"served": 2100, "failed": 3}, "watch"),
    ({"served": 1000, "full": 1000}, "bad"),
    ({"requested": 2112, "served": 2112, "dropped": 1}, "good"),
    ({"requested": 2110, "served": 2110, "dropped": 3}, "good"),
    ({"full": 2100}, "good"),
    ({"full": 1900}, "watch"),
    ({"rows": 57_648, "untitled": 2_882}, "good"),
    ({"rows": 57_648, "untitled": 2_883}, "watch"),
    ({"rows": 57_648, "untitled": 30_247}, "bad"),
    ({"top_lists": 0.9}, "watch"),
    ({"top_lists": 0.9, "top_histories": 0.5}, "good"),
    # The data and the checks.
    ({"drift": ["40% fewer users"]}, "watch"),
    ({"checks": ["lists_full"]}, "watch"),
    ({"overruled": ["quality_gate"]}, "watch"),
    # All reasons of the worst judgement, and what is good apart from them.
    (
        {"full": 1900, "checks": ["fresh"]},
        "watch",
    ),
    # The edition before.
    (
        {"before": PreviousEdition(3, MetricEstimate(0.2, 0.18, 0.22))},
        "good",
    ),
    (
        {"before": PreviousEdition(3, MetricEstimate(0.1, 0.08, 0.12))},
        "good",
    ),
    (
        {"before": PreviousEdition(3, MetricEstimate(0.25, 0.23, 0.27))},
        "watch",
    ),
    (
        {"before": PreviousEdition(3, MetricEstimate(0.25))},
        "watch",
    ),
    (
        {"before": PreviousEdition(3, MetricEstimate(0.2))},
        "good",
    ),
    (
        {
            "before": PreviousEdition(
                3, MetricEstimate(0.9), ["interactions.min_rating changed from 3.5 to 4"]
            )
        },
        "good",
    ),
    (
        {"before": PreviousEdition(3, MetricEstimate(0.19), same_model=True)},
        "good",
    ),
    ({"success": ["purchase"]}, "good"),
    ({"success": ["cart", "purchase"], "tested": build_evidence(0)}, "watch"),
    (
        {"uncounted": describe_counted_events(["purchase"], (), AMAZON).strip()},
        "good",
    ),
    ({"heaviest": 0.1}, "good"),
    ({"heaviest": 0.9961}, "watch"),
    ({"heaviest": 0.4, "requested": 20, "served": 20, "full": 20}, "good"),
    (
        {"heaviest": 0.6, "requested": 20, "served": 20, "full": 20},
        "watch",
    ),
    (
        {
            "before": PreviousEdition(
                3, MetricEstimate(0.9), ["a changed", "b changed", "c changed", "d"]
            )
        },
        "good",
    ),
    (
        {
            "before": PreviousEdition(3, MetricEstimate(0.9)),
            "unchanged": "edition 4 of 2026-01-02",
        },
        "good",
    ),
    (
        {
            "before": PreviousEdition(3, MetricEstimate(0.9)),
            "restored": "readers have edition 4 again since 2026-01-02 03:10 UTC, in place of"
            " edition 5, which was rolled back",
        },
        "good",
    ),
]


def test_the_verdict_follows_from_the_facts() -> None:
    texts = []
    openings = {"good": "Good to send:", "watch": "Look before you send:", "bad": "Do not send:"}
    for changes, judgement in CASES:
        verdict = judge_edition(build_facts(**changes))
        assert verdict.judgement == judgement, verdict.text
        assert "times" not in verdict.text
        opening = openings[judgement] if verdict.is_proved else "Checks passed:"
        assert verdict.text.startswith(opening)
        assert verdict.text.endswith(".")
        differences = [_name_difference(*change) for change in changes.items()]
        texts.append((", ".join(differences) or "nothing differs", verdict.text))
    assert_texts("verdicts", texts)


def test_only_an_interval_proves_that_lists_are_good() -> None:
    """Amazon gives the means alone: nothing is called good, and pages show no green."""
    popular = MeasuredPopularity(days=30, users=400, ndcg=0.06, margin=0.01)
    verdicts = {
        tested: judge_edition(build_facts(tested=evidence, **changes))
        for tested, evidence, changes in (
            ("with an interval", build_evidence(211), {}),
            ("without", None, {"recent": popular}),
            ("without, and no better", None, {"recent": popular, "ndcg": 0.05}),
            ("without, and a check warns", None, {"recent": popular, "checks": ["fresh"]}),
        )
    }
    assert {name: verdict.appearance for name, verdict in verdicts.items()} == {
        "with an interval": "good",
        "without": "unproved",
        "without, and no better": "bad",
        "without, and a check warns": "watch",
    }
    # Programs read the judgement, whose values stay.
    assert verdicts["without"].judgement == "good"


def _name_difference(fact: str, value: object) -> str:
    return f"{fact}: {value}" if isinstance(value, int | float | list) else fact


def test_the_share_of_the_heaviest_user_is_counted() -> None:
    rows = [*[("bot", f"i{n % 3}", n) for n in range(12)], ("a", "i1", 1), ("b", "i2", 1)]
    interactions = pl.LazyFrame(rows, ["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")
    lists = pl.LazyFrame({"user_id": ["a"], "rank": [1], "item_id": ["i2"]})
    users = pl.LazyFrame({"userId": ["a", "b"]})  # The bot gets no list, and counts.
    tables = RunTables(interactions, lists, users)
    assert count_audience(tables, count_tables(tables)).heaviest == 12 / 14


def test_an_edition_of_the_same_model_is_not_compared_with_the_one_before() -> None:
    before, same_model, other = (
        make_edition({"number": number, "version": "v", "solution_version_arn": arn})
        for number, arn in ((1, "arn:a"), (2, "arn:a"), (2, "arn:b"))
    )
    descriptions = [describe_previous_edition(before, after) for after in (same_model, other)]
    assert [description and description.same_model for description in descriptions] == [True, False]
