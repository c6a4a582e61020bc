"""The text of an alert about a failed run."""

from __future__ import annotations

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.send_alert import Message
from batchrec_dagster.pipeline.failure_reasons import find_failure_reason
from batchrec_dagster.reporting.markdown import unescape

# The largest number of characters of a reason to send.
LONGEST_REASON = 3000
# Dagster's tag on a failed run that its daemon will retry.
WILL_RETRY = "dagster/will_retry"


def describe_failure(
    pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Message:
    """Return a message with the failed steps and their reasons, the failed checks, and a link."""

    def list_events(kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        entries = instance.all_logs(run.run_id, of_type=kind)
        return [entry.dagster_event for entry in entries if entry.dagster_event is not None]

    lines = []
    for event in list_events(dg.DagsterEventType.ENGINE_EVENT):
        reason = find_failure_reason(event)
        if reason:
            lines.append(reason)
    for event in list_events(dg.DagsterEventType.STEP_FAILURE):
        reason = find_failure_reason(event)
        if reason:
            lines.append(f"Step {event.step_key}: {reason[:LONGEST_REASON]}")
    for event in list_events(dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        check = event.asset_check_evaluation_data
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR:
            verdict = f"{check.check_name}: {unescape(check.description or '')}"
            # The failed step may already give this check as its reason.
            if not any(verdict in line for line in lines):
                lines.append(f"Check of {check.asset_key.to_user_string()}: {verdict}")
    if not lines:
        messages = [event.message for event in list_events(dg.DagsterEventType.RUN_FAILURE)]
        lines = [message for message in messages if message] or ["no step gives a reason"]
    if run.tags.get(WILL_RETRY) == "true":
        lines.append("Dagster will retry it.")
    title = f"batchrec: {run.job_name} failed"
    if run.job_name.startswith("__"):
        title = f"batchrec: a run of some assets of {pipeline.name} failed"
    return Message(title, [*lines, f"Run: {pipeline.alerts.dagster_url}/runs/{run.run_id}"])
