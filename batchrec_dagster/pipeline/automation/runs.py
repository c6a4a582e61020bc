"""The Dagster runs of a pipeline, and their console log.

The console shows a known failure in one line. Its stack trace is in the event log of Dagster.
Characters that control a terminal are shown as escape sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.reporting.views.plain import escape_invisible
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import PipelineFiles

# How long Dagster lets a run go on, in seconds. Amazon's longest jobs take less.
MAX_RUNTIME = 48 * 3600
# The tag of a run with the place of the storage that it writes to. Another code location may have a
# pipeline of the same name, and so jobs of the same names.
STORAGE_TAG = "batchrec/storage"
# Not NOT_STARTED: a killed daemon may leave such runs, and asking again launches them.
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_job_tags(storage: Storage) -> dict[str, str]:
    """The tags of the runs of a pipeline's jobs."""
    return {"dagster/max_runtime": f"{MAX_RUNTIME}", STORAGE_TAG: storage.place}


def filter_refreshes(
    files: PipelineFiles, statuses: Sequence[dg.DagsterRunStatus] | None = None
) -> dg.RunsFilter:
    """The refreshes of the pipeline that write to this storage.

    statuses: of which; None for all.
    """
    return dg.RunsFilter(
        job_name=f"{files.keys.pipeline}_refresh",
        tags={STORAGE_TAG: files.storage.place},
        statuses=statuses,
    )


def list_job_names(pipeline: Pipeline) -> list[str]:
    """The names of the pipeline's jobs."""
    rollbacks = [
        published.keys.rollback_job
        for published in pipeline.published_lists()
        if published.has_editions
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

    These are runs of the pipeline's jobs, and other runs that make one of these assets, but no run
    that writes to another storage.
    """
    jobs = list_job_names(work.pipeline)
    lines = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY)):
        run = record.dagster_run
        # A job of the team's own has no such tag.
        writes_here = run.tags.get(STORAGE_TAG, work.storage.place) == work.storage.place
        is_ours = run.job_name in jobs
        if writes_here and (is_ours or not find_assets_of_run(instance, run).isdisjoint(assets)):
            lines.append(f"run {run.run_id} of {run.job_name} is under way")
    return lines


class _PlainText(logging.Filter):
    """Shortens a dg.Failure to its message, and escapes characters that control a terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        error = getattr(getattr(event, "event_specific_data", None), "error", None)
        if error is not None and error.cls_name == "Failure":
            first_line = record.getMessage().partition("\n")[0]
            reason = error.message.strip().partition(": ")[2]
            record.msg = f"{first_line} Failure: {reason}"
        lines = record.getMessage().split("\n")
        record.msg = "\n".join(map(escape_invisible, lines))
        record.args = ()
        return True


def _make_console_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Dagster's colored console logger, with plain failures."""
    logger: logging.Logger = dg.colored_console_logger.logger_fn(context)
    logger.addFilter(_PlainText())
    return logger


def build_console_logger(log_format: str) -> dg.LoggerDefinition:
    """Dagster's console logger.

    log_format: "json", or "text" for text without stack traces of known failures.
    """
    if log_format == "json":
        return dg.json_console_logger
    return dg.LoggerDefinition(
        _make_console_logger,
        description="The default colored console logger, without stack traces of known failures.",
        config_schema=dg.colored_console_logger.config_schema,
    )
