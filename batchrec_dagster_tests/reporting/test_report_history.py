"""What the report takes from Dagster: the models so far, and the results of the checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster.reporting.drift import DataFacts, RunInputs
from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.reporting.run_records import CheckRecord, read_check_records, read_trainings
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.published_table import Edition, TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource

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


def build_inputs(users: int) -> RunInputs:
    return RunInputs(DataFacts(9, users, 2, "", ""), pl.Series("item", ["a", "b"]))


def test_the_data_of_each_kept_edition_are_remembered(tmp_path: Path) -> None:
    storage = StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())
    files = PipelineFiles(storage, StorageKeys("shop"))
    history = EditionHistory(files)

    def publish(number: int) -> Edition:
        with TableWriter(tmp_path / "lists.parquet") as writer:
            writer.write(pa.table({"user_id": ["1"]}))
            writer.finish({"edition": number, "version": f"v{number}"})
        return files.table.publish(writer.path, keep=1)

    def count_users(edition: Edition) -> int | None:
        inputs = history.read_inputs(edition)
        return None if inputs is None else inputs.data.users

    first = publish(1)
    assert count_users(first) is None
    history.write_inputs(first, build_inputs(10))
    # As an older batchrec left them: those of the last report, whichever edition that was of.
    place = files.uri(files.storage_keys.edition_inputs(first.version))
    storage.store.copy(place, files.uri(files.storage_keys.inputs))
    storage.store.delete(place)
    assert count_users(first) == 10
    second = publish(2)
    history.write_inputs(second, build_inputs(20))
    assert (count_users(first), count_users(second)) == (None, 20)
    third = publish(3)
    history.write_inputs(third, build_inputs(30))
    history.write_inputs(publish(4), build_inputs(40))
    assert (count_users(second), count_users(third)) == (None, 30)
    storage.store.put(files.uri(files.storage_keys.edition_inputs("v3")), b"PAR1")
    assert count_users(third) is None
