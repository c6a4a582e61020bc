"""Functions to find the Dagster runs of a pipeline, and the runs that are under way."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import PipelineFiles

# The longest time that Dagster lets a run take, in seconds. Amazon's longest jobs take less.
MAX_RUNTIME = 48 * 3600
# A tag on runs: the root of the storage that the run writes to. Another code location may have a
# pipeline with the same name, and so jobs with the same names.
RUN_STORAGE_TAG = "batchrec/storage"
# NOT_STARTED is left out: a killed daemon may leave such runs, and another request launches them.
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_job_tags(storage: Storage) -> dict[str, str]:
    """Return the tags for the runs of a pipeline's jobs."""
    return {"dagster/max_runtime": f"{MAX_RUNTIME}", RUN_STORAGE_TAG: storage.absolute_root}


def filter_refreshes(
    files: PipelineFiles, statuses: Sequence[dg.DagsterRunStatus] | None = None
) -> dg.RunsFilter:
    """Return a filter for the pipeline's refreshes that write to this storage.

    statuses: the statuses of the runs to find; None for all.
    """
    return dg.RunsFilter(
        job_name=f"{files.keys.pipeline}_refresh",
        tags={RUN_STORAGE_TAG: files.storage.absolute_root},
        statuses=statuses,
    )


def list_job_names(pipeline: Pipeline) -> list[str]:
    """Return the names of the pipeline's jobs."""
    rollbacks = [
        published.keys.rollback_job
        for published in pipeline.published_lists()
        if published.is_addressed
    ]
    return [f"{pipeline.name}_refresh", *rollbacks]


def find_assets_of_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """Return the assets that a run makes or checks.

    If the run has no selection, these are all assets of its job.
    """
    checked = {check.asset_key for check in run.asset_check_selection or ()}
    selected = checked.union(run.asset_selection or ())
    if selected:
        return selected
    # The project may define the job itself, so the planned assets are read from Dagster's events.
    planned = instance.all_logs(
        run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    )
    events = [entry.dagster_event for entry in planned]
    return {event.asset_key for event in events if event and event.asset_key}


def describe_runs_under_way(
    step: StepContext, assets: Collection[dg.AssetKey], instance: dg.DagsterInstance
) -> list[str]:
    """Return `run ID of JOB is under way` for each run that writes the pipeline's files, or will.

    A run of a pipeline with the same name in another code location writes to another storage, so it
    does not count. Runs of a team's own jobs do not tell their storage. They count if they make any
    of the given assets. Runs of the pipeline's own jobs always count, even if the pipeline's
    declaration, and so its assets, are gone.
    """
    here, jobs = step.storage.absolute_root, list_job_names(step.pipeline)
    runs = [
        record.dagster_run
        for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY))
        if record.dagster_run.tags.get(RUN_STORAGE_TAG, here) == here
    ]
    return [
        f"run {run.run_id} of {run.job_name} is under way"
        for run in runs
        if run.job_name in jobs or not find_assets_of_run(instance, run).isdisjoint(assets)
    ]
