"""The sensors that tell people that a run has failed, or that the schedule is late: once each."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

# What the daemon itself goes by; there is no public way to ask for the last tick of a cron.
from dagster._utils.schedules import get_latest_completed_cron_tick

from batchrec_dagster.pipeline.messages import AlertError, Message, send
from batchrec_dagster.pipeline.runs import is_of
from batchrec_dagster.pipeline.settings import Pipeline

LONGEST_REASON = 3000
RUN_FAILURE: Final = dg.DagsterEventType.RUN_FAILURE
# Failures that a tick looks at: few, as all pipelines' are among them.
AT_ONCE = 100
# For so long after a failure a message that nobody took is tried again.
GIVE_UP = timedelta(hours=24)
# What Dagster tags a failed run with that its daemon is about to retry.
WILL_RETRY = "dagster/will_retry"


def alert_sensors(pipeline: Pipeline) -> list[dg.SensorDefinition]:
    """`NAME_alert_on_failure` and `NAME_alert_when_late`, where anybody is to be told."""
    return [_on_failure(pipeline), _when_late(pipeline)] if pipeline.alerts.enabled else []


def _on_failure(pipeline: Pipeline) -> dg.SensorDefinition:
    # Dagster's own sensor of failed runs goes on to the next run whether the message got through or
    # not. This one's cursor, a number of Dagster's log of runs, stays where it is when nobody took
    # the message, and one run at a time: of what was sent before it nothing is sent again.
    @dg.sensor(
        name=f"{pipeline.name}_alert_on_failure",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells when a run of {pipeline.name} has failed, and why.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if not (context.cursor or "").isdigit():
            newest = context.instance.fetch_run_status_changes(RUN_FAILURE, limit=1).records
            cursor = newest[0].storage_id if newest else 0
            return dg.SensorResult(skip_reason="what fails from now on is told", cursor=str(cursor))
        cursor = int(context.cursor or 0)
        after = dg.RunStatusChangeRecordsFilter(event_type=RUN_FAILURE, after_storage_id=cursor)
        found = context.instance.fetch_run_status_changes(after, limit=AT_ONCE, ascending=True)
        for record in found.records:
            cursor = record.storage_id
            run = context.instance.get_run_by_id(record.event_log_entry.run_id)
            if run is None or not is_of(pipeline, run):
                continue
            try:
                problems = send(pipeline.alerts, failure(pipeline, context.instance, run))
            except AlertError as error:
                if datetime.now(UTC).timestamp() - record.timestamp < GIVE_UP.total_seconds():
                    raise
                problems = [f"given up: {error}"]
            for problem in problems:
                context.log.error(problem)
            reason = f"run {run.run_id} has failed: {'; '.join(problems) or 'told'}"
            return dg.SensorResult(skip_reason=reason, cursor=str(cursor))
        return dg.SensorResult(skip_reason="no run has failed", cursor=str(cursor))

    return sensor


def failure(pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Message:
    """What failed: the steps with their reasons, the checks with what they found, the link."""

    def events(kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        found = (entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kind))
        return [event for event in found if event is not None]

    lines = []
    for event in events(dg.DagsterEventType.STEP_FAILURE):
        failed = event.step_failure_data
        reason = failed.user_failure_data.description if failed.user_failure_data else None
        if reason is None and failed.error is not None:
            # Dagster's own error says no more than that there was one.
            reason = (failed.error.cause or failed.error).message
        lines.append(f"Step {event.step_key}: {(reason or '').strip()[:LONGEST_REASON]}")
    for event in events(dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        found = event.asset_check_evaluation_data
        if not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
            told = f"{found.check_name}: {found.description}"
            # A check that an asset does itself is its reason too.
            if not any(told in line for line in lines):
                lines.append(f"Check of {found.asset_key.to_user_string()}: {told}")
    if not lines:
        messages = [event.message for event in events(RUN_FAILURE)]
        lines = [message for message in messages if message] or ["no step says why"]
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
        made = made_at(context.instance.get_latest_materialization_event(key))
        before = json.loads(context.cursor or "{}")
        after, message, reason = look(
            pipeline, before, datetime.now(UTC), made, on=_is_on(pipeline, context.instance)
        )
        if message is not None:
            for problem in send(pipeline.alerts, message):
                context.log.error(problem)
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(after))

    return sensor


def made_at(event: dg.EventLogEntry | None) -> datetime | None:
    """When the published lists were made: by then at the latest, or earlier where a rollback says
    so, whose lists are old ones."""
    if event is None:
        return None
    lists = event.asset_materialization
    made = lists.metadata.get("made_at") if lists else None
    if made is not None:
        return datetime.fromisoformat(str(made.value))
    return datetime.fromtimestamp(event.timestamp, UTC)


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
            f"New recommendations were due at {due:%Y-%m-%d %H:%M %Z}. Those that are published"
            f" were made: {last}.",
            "Either no run was started (look whether Dagster's daemon runs), or it waits or has"
            " failed, or its lists were rolled back.",
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
