"""Dagster's runs of a pipeline."""

from __future__ import annotations

import dagster as dg

from batchrec_dagster.config import Pipeline

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def is_of(pipeline: Pipeline, run: dg.DagsterRun) -> bool:
    """Whether a run is of one of the pipeline's jobs, or of some of its assets."""
    if run.job_name in {f"{pipeline.name}_{what}" for what in ("refresh", "rollback", "teardown")}:
        return True
    chosen = [*(run.asset_selection or ()), *(c.asset_key for c in run.asset_check_selection or ())]
    return any(key.path[0] == pipeline.name for key in chosen)


def at_work(pipeline: Pipeline, instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs that make or write something, or are about to."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
    teardown = f"{pipeline.name}_teardown"
    return [run for run in runs if is_of(pipeline, run) and run.job_name != teardown]
