"""What the report takes from Dagster: the models so far, and the results of the checks."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.reporting.run_records import CheckRecord, read_check_records, read_trainings

ASSET = dg.AssetKey(["shop", "solution_version"])


def record_training(instance: dg.DagsterInstance, arn: str, ndcg: float) -> None:
    metadata: dict[str, Any] = {
        "solution_version_arn": arn,
        "recipe": "aws-similar-items",
        "ndcg_at_25": ndcg,
        "interactions": {"min_rating": 3.5},
    }
    instance.report_runless_asset_event(dg.AssetMaterialization(ASSET, metadata=metadata))


def record_check(instance: dg.DagsterInstance, name: str, is_passed: bool, finding: str) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=ASSET, check_name=name, passed=is_passed, description=finding, metadata={}
        )
    )


def test_each_model_appears_once_with_its_first_time(instance: dg.DagsterInstance) -> None:
    assert read_trainings(instance, dg.AssetKey(["shop", "solution_version"])) == []
    for arn, ndcg in (("a", 0.1), ("a", 0.1), ("b", 0.2), ("b", 0.2), ("c", 0.3)):
        record_training(instance, arn, ndcg)
    trainings = read_trainings(instance, dg.AssetKey(["shop", "solution_version"]))
    assert [(model.arn, model.recipe) for model in trainings] == [
        (arn, "aws-similar-items") for arn in "abc"
    ]
    assert [model.metrics["ndcg_at_25"] for model in trainings] == [0.1, 0.2, 0.3]
    assert trainings[0].interactions == {"min_rating": 3.5}
    records = instance.fetch_materializations(ASSET, limit=5, ascending=True).records
    first = [records[n].timestamp for n in (0, 2, 4)]
    assert [model.time.timestamp() for model in trainings] == pytest.approx(first, abs=1e-3)
    assert read_trainings(instance, dg.AssetKey(["other", "solution_version"])) == []


def test_the_newest_result_of_each_check_is_taken(instance: dg.DagsterInstance) -> None:
    record_check(instance, "lists_full", False, "1 of 2 users")
    record_check(instance, "lists_full", True, "2 of 2 users")
    record_check(instance, "no_seen_items", False, "3 items")
    keys = [dg.AssetCheckKey(ASSET, name) for name in ("lists_full", "no_seen_items", "never_run")]
    assert read_check_records(instance, keys) == [
        CheckRecord("solution_version", "lists_full", True, "2 of 2 users"),
        CheckRecord("solution_version", "no_seen_items", False, "3 items"),
    ]
