"""Runs that published nothing, read from Dagster, such as runs with a killed process."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

import dagster as dg

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.nights import Night
from batchrec_dagster.pipeline.automation.runs_under_way import (
    RUN_STORAGE_TAG,
    filter_refreshes,
    find_assets_of_run,
)
from batchrec_dagster.reporting.insight.stages import name_stage
from batchrec_dagster.storage.lock import is_held

# The number of runs to read, starting with the latest.
MOST_RUNS = 100
# A run with no event for this long, and with no lock, is not under way any more. The time is not
# shorter, because a step that copies a large source, or waits for a Glue job, records no event and
# holds no lock for a while.
SILENCE = timedelta(hours=1)
ENDINGS: dict[dg.DagsterRunStatus, Literal["failed", "stopped"]] = {
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "stopped",
    # Runs with these statuses count only if they were interrupted.
    dg.DagsterRunStatus.STARTING: "failed",
    dg.DagsterRunStatus.STARTED: "failed",
    dg.DagsterRunStatus.CANCELING: "stopped",
}
# The statuses of steps that started and did not succeed.
UNFINISHED = ("FAILURE", "IN_PROGRESS")


def is_interrupted(instance: dg.DagsterInstance, record: dg.RunRecord, files: ListFiles) -> bool:
    """Return whether a run that Dagster shows as under way has been silent for an hour.

    Such a run recorded no event, and no run holds a lock of the pipeline. For example, its process
    was killed, or its machine lost power. Raises UserError.
    """
    run = record.dagster_run
    if run.is_finished or run.status == dg.DagsterRunStatus.QUEUED:
        return False
    silent_since = datetime.now(UTC) - SILENCE
    events = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    # In some databases, Dagster's times of records have no time zone. They are UTC.
    last_heard = (
        datetime.fromtimestamp(events[0].timestamp, UTC)
        if events
        else record.create_timestamp.replace(tzinfo=UTC)
    )
    return last_heard < silent_since and not any(
        is_held(files.storage.store, uri) for uri in _list_locks(files)
    )


def _list_locks(files: ListFiles) -> Iterator[str]:
    """Yield the URI of each lock of the pipeline and of its lists."""
    keys, store = files.keys, files.storage.store
    for folder in (keys.locks, keys.lists):
        for info in store.list(files.uri(folder)):
            if "/locks/" in info.uri:
                yield info.uri


def read_ended_runs(instance: dg.DagsterInstance, files: ListFiles) -> list[Night]:
    """Return the latest runs for the list that failed, or that were stopped or interrupted.

    The runs come from Dagster's history. Only Dagster knows of runs with a killed process, because
    they recorded nothing themselves. Raises UserError.
    """
    nights = []
    refreshes = instance.get_run_records(filter_refreshes(files, [*ENDINGS]), limit=MOST_RUNS)
    for record in [*refreshes, *_find_other_runs(instance, files)]:
        run = record.dagster_run
        if not run.is_finished and not is_interrupted(instance, record, files):
            continue
        end = record.end_time or record.update_timestamp.timestamp()
        seconds = None if record.start_time is None else round(end - record.start_time, 1)
        nights.append(
            Night(
                run=run.root_run_id or run.run_id,
                ended=ENDINGS[run.status],
                time=datetime.fromtimestamp(end, UTC),
                steps=tuple(_find_failed_steps(instance, run.run_id)),
                seconds=seconds if seconds is not None and seconds >= 0 else None,
            )
        )
    return nights


def _find_other_runs(instance: dg.DagsterInstance, files: ListFiles) -> Iterator[dg.RunRecord]:
    """Yield the latest runs of other jobs that make the list's table.

    Such runs are started by "Materialize" in Dagster's UI, by automation conditions, and by a
    team's own jobs. A rollback is not such a run, because it makes no new lists.
    """
    keys, here = files.keys, files.storage.absolute_root
    own_jobs = (f"{keys.pipeline}_refresh", keys.rollback_job)
    table = dg.AssetKey(keys.asset_key)
    for record in instance.get_run_records(dg.RunsFilter(statuses=[*ENDINGS]), limit=MOST_RUNS):
        run = record.dagster_run
        is_here = run.tags.get(RUN_STORAGE_TAG, here) == here
        if is_here and run.job_name not in own_jobs and table in find_assets_of_run(instance, run):
            yield record


def _find_failed_steps(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Return the names of the assets with steps that failed, or that started and did not end."""
    return [
        name_stage(step.step_key)
        for step in instance.get_run_step_stats(run_id)
        if step.status is not None and step.status.value in UNFINISHED
    ]
