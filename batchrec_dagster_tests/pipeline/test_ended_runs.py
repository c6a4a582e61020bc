"""Runs that only Dagster knows of, because their processes were killed."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline import ended_runs
from batchrec_dagster.pipeline.automation.runs import build_job_tags
from batchrec_dagster.pipeline.ended_runs import read_ended_runs
from batchrec_dagster.reporting.insight.nights import list_nights
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.lock import hold_lock


@pytest.fixture
def files(tmp_path: Path) -> ListFiles:
    storage = Storage(root=str(tmp_path / "storage"), s3=S3Connection())
    return ListFiles(storage, ListKeys("shop"))


def test_a_run_that_was_killed_is_known_from_dagster(
    files: ListFiles, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.op
    def shop__raw_ratings() -> None:
        raise UserError("no disk")

    @dg.job(name="shop_refresh", tags=build_job_tags(files.storage))
    def refresh() -> None:
        shop__raw_ratings()

    result = refresh.execute_in_process(instance=instance, raise_on_error=False)
    (run,) = read_ended_runs(instance, files)
    assert (run.run, run.ended, run.steps) == (result.run_id, "failed", ("raw_ratings",))
    club = ListFiles(files.storage, ListKeys("club"))
    assert read_ended_runs(instance, club) == []
    # Another code location has a pipeline of this name, and a storage of its own.
    theirs = Storage(root=f"{files.storage.root}-of-others", s3=S3Connection())
    assert read_ended_runs(instance, ListFiles(theirs, files.keys)) == []
    (night,) = list_nights(files, [run])
    assert night.summary == "failed at raw_ratings"
    # One that is under way counts only if nothing was heard of it, nor a lock held, for an hour.
    started = instance.create_run_for_job(refresh, tags=refresh.tags)
    instance.report_engine_event("starts", started)
    instance.handle_run_event(
        started.run_id,
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "shop_refresh", message="starts"),
    )
    assert [run.run for run in read_ended_runs(instance, files)] == [result.run_id]
    monkeypatch.setattr(ended_runs, "SILENCE", timedelta(0))
    both = {result.run_id, started.run_id}
    assert {run.run for run in read_ended_runs(instance, files)} == both
    # As one that holds a lock.
    monkeypatch.setattr(ended_runs, "SILENCE", timedelta(minutes=-1))
    for key in ("shop/locks/recommendations.lock", "shop/lists/home/locks/recommendations.lock"):
        log = logging.getLogger("test")
        with hold_lock(files.storage.store, files.uri(key), started.run_id, log, 0):
            assert [run.run for run in read_ended_runs(instance, files)] == [result.run_id]
    assert {run.run for run in read_ended_runs(instance, files)} == both
