"""Deletes Dagster's runs of a pipeline that are older than retention.runs_days.

Assets and checks keep their last results, which reuse, the report and Dagster's UI read: a run that
one of them is of stays. What else batchrec says of earlier nights stands in the pipeline's records.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.dagster_internals.run_files import delete_events_file, delete_orphaned_events
from batchrec_dagster.pipeline.automation.runs import list_job_names, name_trial_job

FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
RESULT_EVENTS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
# A run deletes at most this many, the oldest first. The next runs go on.
MOST_RUNS = 100


def delete_old_runs(instance: dg.DagsterInstance, pipeline: Pipeline, log: logging.Logger) -> None:
    """Delete old runs of the pipeline's jobs. An error is only logged."""
    days = pipeline.whole.retention.runs_days
    before = now() - timedelta(days=days)
    deleted = 0
    try:
        for run in _list_old_runs(instance, pipeline, before):
            if deleted == MOST_RUNS:
                break
            if not has_last_result(instance, run.run_id):
                _delete_run(instance, run.run_id)
                deleted += 1
        delete_orphaned_events(Path(instance.root_directory), instance.has_run, before)
    # The drivers of databases can raise anything, and nothing depends on what is deleted here.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        log.warning(f"retention: old runs could not be deleted, the next run tries again: {reason}")
    if deleted:
        log.info(f"retention: deleted {deleted} runs older than {days} days from Dagster")


def now() -> datetime:
    """The time that the age of runs is counted from."""
    return datetime.now(UTC)


def _list_old_runs(
    instance: dg.DagsterInstance, pipeline: Pipeline, before: datetime
) -> Iterator[dg.DagsterRun]:
    """The finished runs of the pipeline's jobs from before this time, oldest first."""
    for job in [*list_job_names(pipeline), name_trial_job(pipeline.name)]:
        old = dg.RunsFilter(job_name=job, statuses=FINISHED, created_before=before)
        for record in instance.get_run_records(old, ascending=True):
            yield record.dagster_run


def has_last_result(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the last materialization or observation of an asset, or the last evaluation of a
    check, is of this run."""
    for entry in instance.all_logs(run_id, of_type=RESULT_EVENTS):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            key = event.asset_check_evaluation_data.asset_check_key
            record = instance.get_latest_asset_check_evaluation_record(key)
            last_run = record.run_id if record else None
        elif event.asset_key is None:
            continue
        elif event.event_type is dg.DagsterEventType.ASSET_OBSERVATION:
            observations = instance.fetch_observations(event.asset_key, limit=1).records
            last_run = observations[0].run_id if observations else None
        else:
            materialization = instance.get_latest_materialization_event(event.asset_key)
            last_run = materialization.run_id if materialization else None
        if last_run == run_id:
            return True
    return False


def _delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run with its logs and the file of its events."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
    delete_events_file(Path(instance.root_directory), run_id)
