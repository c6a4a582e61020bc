"""The sensors that tell people that a run has failed, or that the schedule is late: once each."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import dagster as dg

# What the daemon itself goes by; there is no public way to ask for the last tick of a cron.
from dagster._utils.schedules import get_latest_completed_cron_tick

from batchrec_dagster.pipeline.messages import Message, send
from batchrec_dagster.pipeline.settings import Pipeline

LONGEST_REASON = 3000
# What Dagster tags a failed run with that its daemon is about to retry.
WILL_RETRY = "dagster/will_retry"


def alert_sensors(pipeline: Pipeline) -> list[dg.SensorDefinition]:
    """`NAME_alert_on_failure` and `NAME_alert_when_late`, where anybody is to be told."""
    return [_on_failure(pipeline), _when_late(pipeline)] if pipeline.alerts.enabled else []


def _on_failure(pipeline: Pipeline) -> dg.SensorDefinition:
    # All code locations: a run that a command started belongs to none.
    @dg.run_failure_sensor(
        name=f"{pipeline.name}_alert_on_failure",
        minimum_interval_seconds=30,
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells when a run of {pipeline.name} has failed, and why.",
    )
    def sensor(context: dg.RunFailureSensorContext) -> None:
        if is_of(pipeline, context.dagster_run):
            for problem in send(pipeline.alerts, failure(pipeline, context)):
                context.log.error(problem)

    return sensor


def is_of(pipeline: Pipeline, run: dg.DagsterRun) -> bool:
    """Whether a run is of one of the pipeline's jobs, or of some of its assets."""
    if run.job_name in {f"{pipeline.name}_{what}" for what in ("refresh", "rollback", "teardown")}:
        return True
    chosen = [*(run.asset_selection or ()), *(c.asset_key for c in run.asset_check_selection or ())]
    return any(key.path[0] == pipeline.name for key in chosen)


def failure(pipeline: Pipeline, context: dg.RunFailureSensorContext) -> Message:
    """What failed: the steps with their reasons, the checks with what they found, the link."""
    run = context.dagster_run
    lines = []
    for event in context.get_step_failure_events():
        failed = event.step_failure_data
        reason = failed.user_failure_data.description if failed.user_failure_data else None
        if reason is None and failed.error is not None:
            # Dagster's own error says no more than that there was one.
            reason = (failed.error.cause or failed.error).message
        lines.append(f"Step {event.step_key}: {(reason or '').strip()[:LONGEST_REASON]}")
    for entry in context.instance.all_logs(
        run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ):
        found = entry.dagster_event.asset_check_evaluation_data if entry.dagster_event else None
        if found and not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
            told = f"{found.check_name}: {found.description}"
            # A check that an asset does itself is its reason too.
            if not any(told in line for line in lines):
                lines.append(f"Check of {found.asset_key.to_user_string()}: {told}")
    lines = lines or [context.failure_event.message or "no step says why"]
    if run.tags.get(WILL_RETRY) == "true":
        lines.append("Dagster starts it again by itself.")
    title = f"batchrec: {run.job_name} failed"
    if run.job_name.startswith("__"):
        title = f"batchrec: a run of some assets of {pipeline.name} failed"
    return Message(title, [*lines, f"Run: {pipeline.alerts.dagster_url}/runs/{run.run_id}"])


def _when_late(pipeline: Pipeline) -> dg.SensorDefinition:
    key = dg.AssetKey([pipeline.name, "recommendations"])

    @dg.sensor(
        name=f"{pipeline.name}_alert_when_late",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells when {pipeline.name} has no new recommendations"
        f" {pipeline.alerts.late_after_hours:g} hours after its schedule's time.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        event = context.instance.get_latest_materialization_event(key)
        made = datetime.fromtimestamp(event.timestamp, UTC) if event else None
        before = json.loads(context.cursor or "{}")
        after, message, reason = look(
            pipeline, before, datetime.now(UTC), made, on=_is_on(pipeline, context.instance)
        )
        if message is not None:
            for problem in send(pipeline.alerts, message):
                context.log.error(problem)
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(after))

    return sensor


def look(
    pipeline: Pipeline, before: dict[str, str], now: datetime, made: datetime | None, *, on: bool
) -> tuple[dict[str, str], Message | None, str]:
    """What follows from the last recommendations: the cursor, what to tell, and the tick's reason.

    The cursor has since when the schedule is known to be on, and for which time it was told last.
    """
    if not on:
        return {}, None, "the schedule is off"
    since = before.get("since", now.isoformat())
    grace = timedelta(hours=pipeline.alerts.late_after_hours)
    schedule = pipeline.schedule
    due = get_latest_completed_cron_tick(schedule.cron, now - grace, schedule.timezone)
    if due < datetime.fromisoformat(since):
        return {**before, "since": since}, None, "nothing was due since the schedule is on"
    after = {"since": since, "told": due.isoformat()}
    if made is not None and made >= due:
        return {**before, "since": since}, None, f"what was due at {due:%Y-%m-%d %H:%M} is there"
    if before.get("told") == due.isoformat():
        return after, None, f"it was told that {due:%Y-%m-%d %H:%M} is late"
    last = f"{made.astimezone(due.tzinfo):%Y-%m-%d %H:%M}" if made else "never"
    message = Message(
        f"batchrec: {pipeline.name} is late",
        [
            f"New recommendations were due at {due:%Y-%m-%d %H:%M %Z}. The last were made: {last}.",
            "Either no run was started (look whether Dagster's daemon runs), or it waits or has"
            " failed.",
            f"Runs: {pipeline.alerts.dagster_url}/runs",
        ],
    )
    return after, message, f"{due:%Y-%m-%d %H:%M} is late: told"


def _is_on(pipeline: Pipeline, instance: dg.DagsterInstance) -> bool:
    """Whether the schedule is on: as somebody switched it in the UI, or as declared."""
    for state in instance.all_instigator_state():
        if state.instigator_name == f"{pipeline.name}_schedule":
            return state.status.value != "STOPPED"
    return pipeline.schedule.enabled
