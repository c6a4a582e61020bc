"""The quality gate: which models' lists are inferred and published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchrec_dagster.config.publication import Gate
from batchrec_dagster.personalize.measurements import AMAZON
from batchrec_dagster.steps.judge_quality import ModelFacts, judge_quality
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster_tests.guard.seams.editions import make_edition, make_groups, make_popularity

pytestmark = pytest.mark.slow

NDCG = "normalized_discounted_cumulative_gain_at_25"


def build_model(ndcg: float, popular: float) -> ModelRecord:
    return ModelRecord(
        made_of={},
        version="new",
        solution_version_arn="arn:new",
        data_version="data",
        metrics={NDCG: ndcg, "coverage": 0.2},
        groups=make_groups(ndcg),
        measured_popularity=make_popularity(popular),
    )


def build_edition(ndcg: float, arn: str = "arn:old", measured_on: str = "all") -> Edition:
    return make_edition(
        {"solution_version_arn": arn, "measured_on": measured_on, "metrics": {NDCG: ndcg}}
    )


def test_metrics_that_count_other_events_are_named_and_not_compared() -> None:
    counted = {"success": ("purchase",), "engine": "the embedded engine"}
    by_purchase = build_model(0.02, 0.01).model_copy(update=counted)
    before = build_edition(0.3)
    facts = ModelFacts(by_purchase, "all, by purchase", before, ["purchase"])
    check = judge_quality(facts, Gate())
    assert check.text == (
        "NDCG@25 for purchase 0.0200, compared with 0.0100 for the most popular items (a lead of"
        " 0.0100, without an interval, 200 tested users); coverage 0.2000; not comparable with the"
        " published lists: the events that the metrics count changed"
    )
    live = build_edition(0.3, measured_on="all, by purchase")
    strict = judge_quality(replace(facts, live=live), Gate(max_drop=0.1))
    assert "its NDCG@25 for purchase is 93% below the published lists'" in strict.text


def test_the_gate_says_that_amazons_metrics_count_all_events() -> None:
    model = build_model(0.2, 0.1).model_copy(update={"engine": AMAZON, "groups": None})
    check = judge_quality(ModelFacts(model, "all", None, ["cart", "purchase"]), Gate())
    assert check.text == (
        "NDCG@25 0.2000, compared with 0.1000 for the most popular items (a lead of 0.1000,"
        " without an interval, as Amazon Personalize gives means alone); coverage 0.2000; the"
        " metrics of Amazon Personalize count all events, not only cart and purchase"
    )


def test_what_remains_is_said() -> None:
    remains = ((None, "nothing was published"), (make_edition({}), "the published lists stay"))
    for edition, reason in remains:
        finding = judge_quality(ModelFacts(build_model(0.02, 0.03), "all", edition), Gate())
        assert reason in finding.text
