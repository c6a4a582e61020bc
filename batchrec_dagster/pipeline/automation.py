"""The job that refreshes a pipeline, and the schedule that runs it."""

import dagster as dg

from batchrec_dagster.pipeline.settings import Pipeline


def automation(pipeline: Pipeline) -> dg.Definitions:
    """`NAME_refresh` materializes everything; `NAME_schedule` runs it at the declared times."""
    job = dg.define_asset_job(
        name=f"{pipeline.name}_refresh",
        selection=dg.AssetSelection.groups(pipeline.name),
        description="Reads the ratings and makes every user's recommendations anew. Data that"
        " have not changed are neither imported nor trained on again.",
    )
    schedule = dg.ScheduleDefinition(
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
    return dg.Definitions(jobs=[job], schedules=[schedule])
