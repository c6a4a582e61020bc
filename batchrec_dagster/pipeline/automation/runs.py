"""The Dagster runs of a pipeline, and their console log.

The console shows known failures in one line; their stack traces stay in the event log of Dagster.
Characters that control a terminal are shown as escape sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.reporting.terminal import escape_invisible

# Not NOT_STARTED: a killed daemon may leave such runs, and asking again launches them.
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

# A run whose process was killed stays "started" until someone terminates it.
DEAD_AFTER = timedelta(days=1)


def run_under_way(instance: dg.DagsterInstance, job: str) -> str | None:
    """The id of a run of the job that was created less than a day ago and has not ended."""
    after = datetime.now(UTC) - DEAD_AFTER
    filters = dg.RunsFilter(job_name=job, statuses=UNDER_WAY, created_after=after)
    runs = instance.get_runs(filters, limit=1)
    return runs[0].run_id if runs else None


def job_names(pipeline: str) -> list[str]:
    """The names of the pipeline's jobs."""
    return [f"{pipeline}_{what}" for what in ("refresh", "rollback", "teardown")]


def assets_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """The assets that a run was asked to make or check, or all of its job, whosever job it is."""
    checks = {check.asset_key for check in run.asset_check_selection or ()}
    if chosen := checks.union(run.asset_selection or ()):
        return chosen
    planned = instance.all_logs(
        run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    )
    events = [entry.dagster_event for entry in planned]
    return {event.asset_key for event in events if event and event.asset_key}


def running(
    pipeline: Pipeline, assets: Collection[dg.AssetKey], instance: dg.DagsterInstance
) -> list[str]:
    """`run ID of JOB is under way` for every run but teardowns that writes, or soon will."""
    own = job_names(pipeline.name)
    return [
        f"run {run.run_id} of {run.job_name} is under way"
        for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
        if run.job_name != f"{pipeline.name}_teardown"
        and (run.job_name in own or not assets_of(instance, run).isdisjoint(assets))
    ]


class _Plain(logging.Filter):
    """Reduces a dg.Failure to its message, and messages to text that controls no terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        error = getattr(getattr(event, "event_specific_data", None), "error", None)
        if error is not None and error.cls_name == "Failure":
            what, _, _ = record.getMessage().partition("\n")
            _, _, why = error.message.strip().partition(": ")
            record.msg = f"{what} Failure: {why}"
        record.msg, record.args = (
            "\n".join(map(escape_invisible, record.getMessage().split("\n"))),
            (),
        )
        return True


def _console(context: dg.InitLoggerContext) -> logging.Logger:
    logger: logging.Logger = dg.colored_console_logger.logger_fn(context)
    logger.addFilter(_Plain())
    return logger


def console_logger(log_format: str) -> dg.LoggerDefinition:
    """Dagster's console logger, as text without stack traces of known failures, or as JSON."""
    if log_format == "json":
        return dg.json_console_logger
    return dg.LoggerDefinition(
        _console,
        description="The default colored console logger, without stack traces of known failures.",
        config_schema=dg.colored_console_logger.config_schema,
    )
