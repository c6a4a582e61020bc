"""What the report takes from Dagster, and what it remembers of the editions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa

from batchrec_dagster.reporting.drift import DataFacts, RunInputs
from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.reporting.run_records import CheckRecord, read_check_records
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition

ASSET = dg.AssetKey(["shop", "solution_version"])


def record_check(instance: dg.DagsterInstance, name: str, is_passed: bool, finding: str) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=ASSET, check_name=name, passed=is_passed, description=finding, metadata={}
        )
    )


def test_the_newest_result_of_each_check_is_taken(instance: dg.DagsterInstance) -> None:
    record_check(instance, "lists_full", False, "1 of 2 users")
    record_check(instance, "lists_full", True, "2 of 2 users")
    record_check(instance, "no_seen_items", False, "3 items")
    start = datetime.now(UTC)
    specs = [
        dg.AssetCheckSpec("lists_full", asset=ASSET),
        dg.AssetCheckSpec("no_seen_items", asset=ASSET, description="None.", blocking=True),
        dg.AssetCheckSpec("never_run", asset=ASSET),
    ]
    records = read_check_records(instance, specs)
    assert [replace(record, time=None) for record in records] == [
        CheckRecord("solution_version", "lists_full", True, "2 of 2 users"),
        CheckRecord("solution_version", "no_seen_items", False, "3 items", "None.", True),
    ]
    times = [record.time for record in records if record.time]
    assert len(times) == 2
    assert all(start - timedelta(seconds=60) < time <= datetime.now(UTC) for time in times)


def build_inputs(users: int) -> RunInputs:
    return RunInputs(DataFacts(9, users, 2, "", ""), pl.Series("item", ["a", "b"]))


def test_the_data_of_each_kept_edition_are_remembered(tmp_path: Path) -> None:
    storage = Storage(root=str(tmp_path / "storage"), s3=S3Connection())
    files = ListFiles(storage, ListKeys("shop"))
    history = EditionHistory(files)

    def publish(number: int) -> Edition:
        with ListWriter(tmp_path / "lists.parquet") as writer:
            writer.write(pa.table({"user_id": ["1"]}))
            writer.finish(make_edition({"number": number, "version": f"v{number}"}))
        return files.editions.publish(writer.path, 1, ALONE)

    def count_users(edition: Edition) -> int | None:
        inputs = history.read_inputs(edition)
        return None if inputs is None else inputs.data.users

    first = publish(1)
    assert count_users(first) is None
    history.write_inputs(first, build_inputs(10))
    assert count_users(first) == 10
    second = publish(2)
    history.write_inputs(second, build_inputs(20))
    assert (count_users(first), count_users(second)) == (10, 20)
    third = publish(3)
    history.write_inputs(third, build_inputs(30))
    history.write_inputs(publish(4), build_inputs(40))
    assert (count_users(second), count_users(third)) == (None, 30)
    storage.store.put(files.uri(files.keys.edition_inputs("v3")), b"PAR1")
    assert count_users(third) is None
