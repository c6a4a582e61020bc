"""The quality gate: which models' lists are inferred and published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.config.gate import Gate
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.outcomes.measured_popularity import MeasuredPopularity
from batchrec_dagster.personalize.evidence import AMAZON
from batchrec_dagster.steps.checks import ModelToPublish, check_quality_gate
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    refresh,
    table,
    why,
    write_ratings,
)

pytestmark = pytest.mark.slow

NDCG = "normalized_discounted_cumulative_gain_at_25"
ANYWAY = {"ops": {"shop__recommendations": {"config": {"skip_quality_gate": True}}}}


def build_model(
    ndcg: float, popular: float | None, coverage: float = 0.2, recent: float | None = None
) -> ModelRecord:
    measured = MeasuredPopularity(30, 200, recent or 0.0, 0.01)
    return ModelRecord(
        "arn:new",
        "arn:group",
        "group",
        "data",
        metrics={NDCG: ndcg, "coverage": coverage},
        evidence={} if popular is None else {"all/users": 200, "all/popular": popular},
        recent_popularity={} if recent is None else measured.to_json(),
    )


def build_edition(ndcg: float, arn: str = "arn:old", measured_on: str = "all") -> dict[str, Any]:
    return {"solution_version_arn": arn, "measured_on": measured_on, "metrics": {NDCG: ndcg}}


def test_metrics_that_count_other_events_are_named_and_not_compared() -> None:
    by_purchase = replace(
        build_model(0.02, 0.01), success=["purchase"], engine="the embedded engine"
    )
    before = build_edition(0.3)
    candidate = ModelToPublish(by_purchase, "all, by purchase", before, ["purchase"])
    check = check_quality_gate(Gate(), candidate, how_to_skip="skip")
    assert check.finding == (
        "NDCG@25 for purchase 0.0200, compared with 0.0100 for the most popular items; coverage"
        " 0.2000; not comparable with the published lists: the events that the metrics count"
        " changed"
    )
    strict = check_quality_gate(
        Gate(max_drop=0.1),
        replace(candidate, published={**before, "measured_on": "all, by purchase"}),
        how_to_skip="skip",
    )
    assert "its NDCG@25 for purchase is 93% below the published lists'" in strict.finding


def test_the_gate_says_that_amazons_metrics_count_all_events() -> None:
    model = replace(build_model(0.2, 0.1), engine=AMAZON)
    candidate = ModelToPublish(model, "all", None, ["cart", "purchase"])
    check = check_quality_gate(Gate(), candidate, how_to_skip="skip")
    assert check.finding == (
        "NDCG@25 0.2000, compared with 0.1000 for the most popular items; coverage 0.2000; the"
        " metrics of Amazon Personalize count all events, not only cart and purchase"
    )


@pytest.mark.parametrize(
    ("gate", "model", "before", "reason"),
    [
        # The first model, which is better than popularity.
        ({}, build_model(0.1, 0.05), None, None),
        ({}, build_model(0.1, None), None, None),
        ({}, build_model(0.05, 0.05), None, None),
        ({}, build_model(0.04, 0.05), None, "it is worse than recommending the most popular"),
        # The better kind of popular items counts, if it is better by more than chance.
        ({}, build_model(0.1, 0.05, recent=0.08), None, None),
        ({}, build_model(0.07, 0.05, recent=0.08), None, None),
        (
            {},
            build_model(0.065, 0.05, recent=0.08),
            None,
            "it is clearly worse than recommending the most popular items of the last 30 days",
        ),
        (
            {},
            build_model(0.04, 0.05, recent=0.03),
            None,
            "it is worse than recommending the most popular items to everyone",
        ),
        # Models that are compared with the published one.
        ({}, build_model(0.071, None), build_edition(0.1), None),
        (
            {},
            build_model(0.069, None),
            build_edition(0.1),
            "its NDCG@25 is 31% below the published lists'; gate.max_drop allows 30%",
        ),
        ({"max_drop": 0.5}, build_model(0.069, None), build_edition(0.1), None),
        ({"max_drop": 0}, build_model(0.099, None), build_edition(0.1), "its NDCG@25 is 1% below"),
        ({"max_drop": 1}, build_model(0.0, None), build_edition(0.1), None),
        # Models that cannot be compared.
        ({}, build_model(0.01, None), build_edition(0.1, measured_on="good ratings"), None),
        ({}, build_model(0.01, None), {"version": "unknown"}, None),
        # The model that serves now has passed the gate before.
        ({"min_ndcg_at_25": 0.5}, build_model(0.1, 0.2), build_edition(0.1, arn="arn:new"), None),
        ({"min_ndcg_at_25": 0.2}, build_model(0.1, None), None, "gate.min_ndcg_at_25 is 0.2"),
        ({"min_coverage": 0.3}, build_model(0.1, None), None, "gate.min_coverage is 0.3"),
    ],
)
def test_what_is_worse_is_not_let_through(
    gate: dict[str, float], model: ModelRecord, before: dict[str, Any] | None, reason: str | None
) -> None:
    verdict = check_quality_gate(
        Gate(**gate), ModelToPublish(model, "all", before), how_to_skip="so"
    )
    assert verdict.passed is (reason is None)
    assert reason is None or reason in verdict.finding
    anyway = check_quality_gate(
        Gate(**gate),
        ModelToPublish(model, "all", before),
        how_to_skip="so",
        skip_quality_gate=True,
    )
    assert anyway.passed
    assert (
        reason is None
        or f"published anyway (--publish-anyway), although {reason}" in anyway.finding
    )


UNTESTED = replace(build_model(0.0, 0.0, 0.0), evidence={"all/users": 0})


def test_a_model_that_nobody_was_tested_with_fails_only_what_the_gate_demands() -> None:
    verdict = check_quality_gate(
        Gate(), ModelToPublish(UNTESTED, "all", build_edition(0.1)), how_to_skip="so"
    )
    assert verdict.passed
    assert verdict.finding == "no user was tested, so NDCG@25 and coverage are not known"
    assert not verdict.numbers
    gate = Gate(min_ndcg_at_25=0.05, min_coverage=0.1)
    verdict = check_quality_gate(
        gate, ModelToPublish(UNTESTED, "all", build_edition(0.1)), how_to_skip="so"
    )
    assert not verdict.passed
    assert (
        "are not known. Refused: gate.min_ndcg_at_25 is 0.05, and gate.min_coverage"
        in verdict.finding
    )


def test_nothing_is_compared_with_lists_of_a_model_that_nobody_was_tested_with() -> None:
    before = {**build_edition(0.0), "evidence": dict(UNTESTED.evidence)}
    verdict = check_quality_gate(
        Gate(), ModelToPublish(build_model(0.1, None), "all", before), how_to_skip="so"
    )
    assert verdict.finding == "NDCG@25 0.1000; coverage 0.2000"


def test_the_message_has_the_numbers_all_reasons_and_what_to_do() -> None:
    verdict = check_quality_gate(
        Gate(min_coverage=0.1),
        ModelToPublish(build_model(0.02, 0.03, 0.05), "all", build_edition(0.1)),
        how_to_skip="do so",
    )
    for part in (
        "NDCG@25 0.0200, compared with 0.0300 for the most popular items and 0.1000",
        "coverage 0.0500",
        "worse than recommending the most popular items",
        "80% below the published lists'; gate.max_drop allows 30%",
        "gate.min_coverage is 0.1",
        "Nothing was inferred and the published lists stay.",
        "publish anyway: do so",
    ):
        assert part in verdict.finding
    assert verdict.numbers == {
        "ndcg_at_25": 0.02,
        "coverage": 0.05,
        "popularity_ndcg_at_25": 0.03,
        "published_ndcg_at_25": 0.1,
    }


def test_lists_that_were_rolled_back_and_are_still_there_are_not_compared() -> None:
    for old, is_passed in (("arn:old", True), ("arn:new", False)):
        verdict = check_quality_gate(
            Gate(),
            ModelToPublish(
                build_model(0.02, 0.01),
                "all",
                build_edition(0.1, arn=old),
                rolled_back=None if is_passed else "its lists were rolled back",
                unfinished_rollback=True,
            ),
            how_to_skip="do so",
        )
        assert verdict.passed is is_passed
        assert "which were rolled back: `batchrec rollback` finishes that" in verdict.finding
        assert ("publish anyway: do so" in verdict.finding) is not is_passed
        assert "\n" not in verdict.finding


def test_lists_that_do_not_say_what_they_are_stay_too() -> None:
    """Lists of versions that wrote no metadata are such lists."""
    for edition, reason in ((None, "nothing was published"), ({}, "the published lists stay")):
        verdict = check_quality_gate(
            Gate(), ModelToPublish(build_model(0.02, 0.03), "all", edition), how_to_skip="do so"
        )
        assert reason in verdict.finding


def read_curated(project: Project) -> dict[str, bytes]:
    folder = project.storage / "shop/curated"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def count_inferences(project: Project) -> int:
    client = embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())
    return len(client.list_batch_inference_jobs()["batchInferenceJobs"])


def shuffle_users(ratings: Path, seed: int) -> None:
    """Gives lists to the wrong users, as a join on the wrong column would."""
    frame = pl.read_csv(ratings)
    frame.with_columns(pl.col("userId").shuffle(seed=seed)).write_csv(ratings)


def test_a_broken_data_set_is_published_only_if_a_person_says_so(
    project: Project, instance: dg.DagsterInstance
) -> None:
    ratings = write_ratings(project.root / "ratings.csv", users=300, items=200)
    project.declare(declaration("shop", ratings))
    assert refresh(project, "shop", instance).success
    good = read_curated(project)
    inferences_before = count_inferences(project)

    shuffle_users(ratings, seed=1)
    broken_result = refresh(project, "shop", instance)
    assert not broken_result.success
    message = why(broken_result)
    assert message.startswith("quality_gate: NDCG@25 0.0")
    assert "below the published lists'; gate.max_drop allows 30%" in message
    assert message.endswith(
        "or publish anyway: `batchrec run shop --publish-anyway` (in Dagster's Launchpad:"
        " publish_anyway: true)"
    )
    (verdict,) = [
        e for e in broken_result.get_asset_check_evaluations() if e.check_name == "quality_gate"
    ]
    assert not verdict.passed
    assert verdict.blocking
    # The training was paid for, but nothing that people read has changed.
    assert count_inferences(project) == inferences_before
    assert read_curated(project) == good

    # The data are fixed: these are compared with the last good lists, not with the broken ones.
    write_ratings(ratings, users=301, items=200)
    assert refresh(project, "shop", instance).success
    assert table(project, "shop").get_column("user_id").n_unique() == 301

    shuffle_users(ratings, seed=1)
    assert refresh(project, "shop", instance, ANYWAY).success
    # The model serves now, and continues to do so.
    after = refresh(project, "shop", instance)
    assert after.success
    (verdict,) = [e for e in after.get_asset_check_evaluations() if e.check_name == "quality_gate"]
    assert (verdict.description or "").endswith("its lists are already published")
