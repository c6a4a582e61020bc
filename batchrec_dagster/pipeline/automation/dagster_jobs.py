"""A pipeline's jobs in Dagster (refresh, rollback), its schedule and its sensor for new files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.pipeline.asset_keys import asset_key, op_name
from batchrec_dagster.pipeline.automation.new_files import new_files_sensor
from batchrec_dagster.pipeline.automation.runs_under_way import build_job_tags
from batchrec_dagster.pipeline.run_options import build_job_config
from batchrec_dagster.steps.lists.rollback import PREVIOUS, build_rollback_config
from batchrec_dagster.storage.connection import Storage


def build_automation(
    pipeline: Pipeline,
    assets: Sequence[dg.AssetsDefinition],
    executor: dg.ExecutorDefinition | None,
    storage: Storage,
    *,
    own_console: bool,
) -> dg.Definitions:
    """Return the pipeline's jobs, schedule and sensors.

    `NAME_refresh` materializes the pipeline's assets. `NAME_schedule` runs it at the declared
    times, and `NAME_new_files` runs it when a path or s3:// source has new files. `NAME_rollback`
    publishes older lists again. If the pipeline has several lists, `NAME__LIST_rollback` does so
    for a single list.

    executor: the executor of the jobs; None for the code location's executor.
    storage: the storage that the runs of the jobs write to.
    own_console: whether the code location has batchrec's console logger. A job uses this logger
        only if its config names the logger, and such a job would not load in a location without the
        logger.
    """
    keys = [key for asset in assets for key in asset.keys]
    tags = build_job_tags(storage)
    loggers: dict[str, Any] = {"loggers": {"console": {}}} if own_console else {}
    job = dg.define_asset_job(
        name=f"{pipeline.name}_refresh",
        selection=dg.AssetSelection.assets(*keys),
        config=build_job_config(assets, loggers),
        executor_def=executor,
        tags=tags,
        description="Updates every user's recommendations from the ratings. Unchanged data are"
        " neither imported nor trained on again.",
    )
    return dg.Definitions(
        jobs=[
            job,
            *(
                rollback_job(published, keys, executor, tags, loggers)
                for published in pipeline.published_lists()
                if published.is_addressed
            ),
        ],
        schedules=[refresh_schedule(pipeline, job)],
        sensors=[new_files_sensor(pipeline, job)] if pipeline.ratings.has_visible_files else [],
    )


def refresh_schedule(
    pipeline: Pipeline, job: dg.UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition:
    """Return `NAME_schedule`. A run that starts during another run waits for that run's locks."""
    return dg.ScheduleDefinition(
        name=f"{pipeline.name}_schedule",
        job=job,
        cron_schedule=pipeline.schedule.cron,
        execution_timezone=pipeline.schedule.timezone,
        default_status=(
            dg.DefaultScheduleStatus.RUNNING
            if pipeline.schedule.enabled
            else dg.DefaultScheduleStatus.STOPPED
        ),
        description=f"Refreshes {pipeline.name}.",
    )


def rollback_job(
    published: ListTable,
    assets: Collection[dg.AssetKey],
    executor: dg.ExecutorDefinition | None,
    tags: Mapping[str, str],
    loggers: Mapping[str, Any],
) -> dg.UnresolvedAssetJobDefinition:
    """Return the job that publishes older lists again and updates the assets made from them."""
    lists = dg.AssetSelection.assets(asset_key(published, published.asset))
    return dg.define_asset_job(
        name=published.keys.rollback_job,
        selection=lists.downstream() & dg.AssetSelection.assets(*assets),
        config={**loggers, **build_rollback_config(op_name(published, published.asset), PREVIOUS)},
        executor_def=executor,
        tags=tags,
        description="Publishes the previous lists again, or those of the edition that roll_back_to"
        " names, and updates what is made from them: the report, the sinks.",
    )
