"""Which runs have failed since the last tick, and what an alert says about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.alert import Alert, Message, NewAlerts, State
from batchrec_dagster.pipeline.automation.living_runs import DIED, WILL_RETRY
from batchrec_dagster.pipeline.automation.runs import find_assets_of_run, list_job_names
from batchrec_dagster.pipeline.run_endings import PIPELINE
from batchrec_dagster.reporting.failure_reasons import find_failure_reason
from batchrec_dagster.reporting.markdown import unescape

LONGEST_REASON = 3000
PROCESS_GONE = (
    "the run's process is gone: it was killed, or its machine or code location was started again."
    " The next run goes on from what exists"
)
RUN_FAILURE: Final = dg.DagsterEventType.RUN_FAILURE
# How many failed runs a tick reads, which may be of any jobs in Dagster.
MAX_FAILURES_A_TICK = 100


def find_failures(
    pipelines: Mapping[str, Pipeline], context: dg.SensorEvaluationContext, before: State
) -> NewAlerts:
    """An alert for each run that failed since the last tick.

    The state is the id, in Dagster's event log, of the last failure that a tick has seen.
    """
    instance = context.instance
    if "seen" not in before:
        newest = instance.fetch_run_status_changes(RUN_FAILURE, limit=1).records
        seen = newest[0].storage_id if newest else 0
        return NewAlerts({"seen": seen}, [], "alerts on failures from now on")
    after = dg.RunStatusChangeRecordsFilter(RUN_FAILURE, after_storage_id=before["seen"])
    records = instance.fetch_run_status_changes(
        after, limit=MAX_FAILURES_A_TICK, ascending=True
    ).records
    alerts = []
    for record in records:
        run = instance.get_run_by_id(record.event_log_entry.run_id)
        if run is not None:
            alerts += [
                Alert(name, record.timestamp, describe_failure(pipelines[name], instance, run))
                for name in sorted(_find_pipelines_of_run(pipelines, context, run))
            ]
    ids = [record.event_log_entry.run_id for record in records]
    return NewAlerts(
        {"seen": records[-1].storage_id if records else before["seen"]},
        alerts,
        f"runs have failed: {', '.join(ids)}" if alerts else "no run has failed",
    )


def _find_pipelines_of_run(
    pipelines: Mapping[str, Pipeline], context: dg.SensorEvaluationContext, run: dg.DagsterRun
) -> set[str]:
    """The pipelines whose job this run is, or whose assets it makes."""
    owners = {
        name for name, pipeline in pipelines.items() if run.job_name in list_job_names(pipeline)
    }
    if owners:
        return owners
    assets = context.repository_def.assets_defs_by_key if context.repository_def else {}
    keys = find_assets_of_run(context.instance, run) & assets.keys()
    return {str(assets[key].metadata_by_key[key].get(PIPELINE)) for key in keys} & pipelines.keys()


def describe_failure(
    pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Message:
    """A message with the failed steps and their reasons, the failed checks, and a link."""

    def events(kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        entries = instance.all_logs(run.run_id, of_type=kind)
        return [entry.dagster_event for entry in entries if entry.dagster_event is not None]

    lines = [PROCESS_GONE] if run.tags.get(DIED) == run.run_id else []
    for event in events(dg.DagsterEventType.ENGINE_EVENT):
        reason = find_failure_reason(event)
        if reason:
            lines.append(reason)
    for event in events(dg.DagsterEventType.STEP_FAILURE):
        reason = find_failure_reason(event)
        if reason:
            lines.append(f"Step {event.step_key}: {reason[:LONGEST_REASON]}")
    for event in events(dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        check = event.asset_check_evaluation_data
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR:
            verdict = f"{check.check_name}: {unescape(check.description or '')}"
            # The failed step may already give this check as its reason.
            if not any(verdict in line for line in lines):
                lines.append(f"Check of {check.asset_key.to_user_string()}: {verdict}")
    if not lines:
        messages = [event.message for event in events(RUN_FAILURE)]
        lines = [message for message in messages if message] or ["no step gives a reason"]
    if run.tags.get(WILL_RETRY) == "true":
        lines.append("Dagster will retry it.")
    title = f"batchrec: {run.job_name} failed"
    if run.job_name.startswith("__"):
        title = f"batchrec: a run of some assets of {pipeline.name} failed"
    return Message(title, [*lines, f"Run: {pipeline.alerts.dagster_url}/runs/{run.run_id}"])
