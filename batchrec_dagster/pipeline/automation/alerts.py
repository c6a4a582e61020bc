"""The sensors that tell people that a run has failed, or that the schedule is late: once each."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, InvalidURL
from typing import Final

import boto3
import dagster as dg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from dagster._utils.schedules import get_latest_completed_cron_tick

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.automation import TOPIC, Alerts
from batchrec_dagster.personalize.permissions import explain_refusals
from batchrec_dagster.pipeline.automation.runs import is_of
from batchrec_dagster.storage.redaction import redacted

# All ways and tries together have to end within the minute that Dagster gives a sensor: of what it
# cuts off, the ways that worked would have it again.
TRIES = 2
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0


class AlertError(Exception):
    """A message did not get through; the text names the way and what to do, and no URL."""


@dataclass(frozen=True)
class Message:
    """What happened, in a line, and more of it in lines below."""

    title: str
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join([self.title, *self.lines])


def send(alerts: Alerts, message: Message) -> list[str]:
    """Sends the message by every way that is declared, without secrets.

    Returns what failed while another way worked; raises AlertError when none did.
    """
    # The webhook's URL is a secret, whatever the variable is called.
    secrets = {**os.environ, "WEBHOOK": os.environ.get(alerts.slack_webhook_env or "", "")}
    text = redacted(message.text, secrets)
    failed: list[str] = []
    ways: list[tuple[str, Callable[[], None]]] = []
    if alerts.sns_topic is not None:
        topic = alerts.sns_topic
        ways.append(("Amazon SNS", lambda: _publish(topic, message.title, text)))
    if alerts.slack_webhook_env is not None:
        variable = alerts.slack_webhook_env
        ways.append((f"Slack ({variable})", lambda: _post(variable, text)))
    for way, deliver in ways:
        try:
            _tried(deliver)
        except AlertError as error:
            failed.append(f"{way}: {error}")
    failed = [redacted(problem, secrets) for problem in failed]
    if len(failed) == len(ways):
        raise AlertError("; ".join(failed))
    return failed


def _tried(deliver: Callable[[], None]) -> None:
    for tries_left in reversed(range(TRIES)):
        try:
            return deliver()
        except (OSError, HTTPException, ClientError, BotoCoreError) as error:
            if not tries_left:
                raise AlertError(str(error)) from None
            time.sleep(PAUSE_SECONDS)
    return None


def _publish(topic: str, title: str, text: str) -> None:
    found = TOPIC.fullmatch(topic)
    if found is None:
        raise AlertError("alerts.sns_topic is no ARN of a topic")
    once = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"total_max_attempts": 1},
    )
    sns = boto3.client("sns", region_name=found[1], config=once)
    explain_refusals(sns)
    # SNS takes 100 characters of ASCII.
    subject = title.encode("ascii", "replace").decode()[:100]
    sns.publish(TopicArn=topic, Subject=subject, Message=text)


def _post(variable: str, text: str) -> None:
    url = os.environ.get(variable, "")
    if not url.startswith(("https://", "http://")):
        raise AlertError(f"set the environment variable {variable} to the webhook's URL")
    request = urllib.request.Request(  # noqa: S310 (the scheme was looked at)
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            raise AlertError(f"the webhook answers {error.code} {error.reason}") from None
        raise
    except InvalidURL:
        # It says which part of the URL is wrong.
        raise AlertError(f"the environment variable {variable} has no URL of a webhook") from None


# What the daemon itself goes by; there is no public way to ask for the last tick of a cron.


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
