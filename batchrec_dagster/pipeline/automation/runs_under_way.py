"""The Dagster runs of a pipeline: how they are told from others, and which are under way."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import PipelineFiles

# How long Dagster lets a run go on, in seconds. Amazon's longest jobs take less.
MAX_RUNTIME = 48 * 3600
# The tag of a run with the root of the storage that it writes to. Another code location may have a
# pipeline of the same name, and so jobs of the same names.
RUN_STORAGE_TAG = "batchrec/storage"
# Not NOT_STARTED: a killed daemon may leave such runs, and asking again launches them.
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_job_tags(storage: Storage) -> dict[str, str]:
    """The tags of the runs of a pipeline's jobs."""
    return {"dagster/max_runtime": f"{MAX_RUNTIME}", RUN_STORAGE_TAG: storage.absolute_root}


def filter_refreshes(
    files: PipelineFiles, statuses: Sequence[dg.DagsterRunStatus] | None = None
) -> dg.RunsFilter:
    """The refreshes of the pipeline that write to this storage.

    statuses: of which; None for all.
    """
    return dg.RunsFilter(
        job_name=f"{files.keys.pipeline}_refresh",
        tags={RUN_STORAGE_TAG: files.storage.absolute_root},
        statuses=statuses,
    )


def list_job_names(pipeline: Pipeline) -> list[str]:
    """The names of the pipeline's jobs."""
    rollbacks = [
        published.keys.rollback_job
        for published in pipeline.published_lists()
        if published.is_addressed
    ]
    return [f"{pipeline.name}_refresh", *rollbacks]


def find_assets_of_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """The assets that a run makes or checks: those selected for the run, or else all of its job."""
    checked = {check.asset_key for check in run.asset_check_selection or ()}
    selected = checked.union(run.asset_selection or ())
    if selected:
        return selected
    # The job may be one that the project defines itself, so Dagster's events are asked.
    planned = instance.all_logs(
        run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    )
    events = [entry.dagster_event for entry in planned]
    return {event.asset_key for event in events if event and event.asset_key}


def describe_runs_under_way(
    work: Work, assets: Collection[dg.AssetKey], instance: dg.DagsterInstance
) -> list[str]:
    """`run ID of JOB is under way` for every run that writes files of the pipeline, or soon will.

    A run of another code location's pipeline of the same name writes to another storage. Runs of a
    team's own jobs do not say to which, and count if they make one of these assets. Those of the
    pipeline's jobs count also where its declaration, and so its assets, are gone.
    """
    here, jobs = work.storage.absolute_root, list_job_names(work.pipeline)
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
