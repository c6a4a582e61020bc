"""Sensors that alert people once when a run has failed or the schedule is late."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from http.client import HTTPException, InvalidURL
from typing import Final

import boto3
import dagster as dg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.automation import TOPIC, Alerts
from batchrec_dagster.dagster_internals import get_latest_completed_cron_tick
from batchrec_dagster.personalize.permissions import explain_refusals
from batchrec_dagster.pipeline.automation.runs import is_of
from batchrec_dagster.reporting.failures import reason
from batchrec_dagster.reporting.markdown import unescaped
from batchrec_dagster.reporting.terminal import plain
from batchrec_dagster.storage.redaction import redacted

# All channels and attempts must end within the minute that Dagster allows a sensor; otherwise the
# next tick would repeat an alert on channels where it already arrived.
TRIES = 2
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0


class AlertError(Exception):
    """An alert was not delivered; the message names the channel and the fix, never a URL."""


@dataclass(frozen=True)
class Message:
    """What happened in one line, and the details below."""

    title: str
    lines: list[str]

    @property
    def text(self) -> str:
        """What was several lines is indented, so that no data pass for a line of ours."""
        return "\n".join(
            "\n  ".join(map(plain, line.splitlines())) for line in [self.title, *self.lines]
        )


def send(alerts: Alerts, message: Message) -> list[str]:
    """Send the message to every declared channel, without secrets.

    Returns the errors if at least one channel worked. Raises AlertError if every channel fails.
    """
    # The webhook's URL is a secret, whatever the variable's name.
    secrets = {**os.environ, "WEBHOOK": os.environ.get(alerts.slack_webhook_env or "", "")}
    text = redacted(message.text, secrets)
    failed: list[str] = []
    channels: list[tuple[str, Callable[[], None]]] = []
    if alerts.sns_topic is not None:
        topic = alerts.sns_topic
        channels.append(("Amazon SNS", lambda: _publish(topic, message.title, text)))
    if alerts.slack_webhook_env is not None:
        variable = alerts.slack_webhook_env
        channels.append((f"Slack ({variable})", lambda: _post(variable, text)))
    for channel, deliver in channels:
        try:
            _retry(deliver)
        except AlertError as error:
            failed.append(f"{channel}: {error}")
    failed = [redacted(problem, secrets) for problem in failed]
    if len(failed) == len(channels):
        raise AlertError("; ".join(failed))
    return failed


def _retry(deliver: Callable[[], None]) -> None:
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
        raise AlertError("alerts.sns_topic is not the ARN of a topic")
    once = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"total_max_attempts": 1},
    )
    sns = boto3.client("sns", region_name=found[1], config=once)
    explain_refusals(sns)
    # SNS takes 100 characters of ASCII.
    subject = plain(title).encode("ascii", "replace").decode()[:100]
    sns.publish(TopicArn=topic, Subject=subject, Message=text)


def _post(variable: str, text: str) -> None:
    url = os.environ.get(variable, "")
    if not url.startswith(("https://", "http://")):
        raise AlertError(f"set the environment variable {variable} to the webhook's URL")
    # Escaped as Slack asks, so that <!channel> calls nobody; nothing in it is fetched or formatted.
    message = {
        "text": escape(text, quote=False),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }
    request = urllib.request.Request(  # noqa: S310 (the scheme was checked)
        url, json.dumps(message).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            raise AlertError(f"the webhook answers {error.code} {error.reason}") from None
        raise
    except InvalidURL:
        # Its message repeats part of the URL.
        raise AlertError(f"the environment variable {variable} is not a webhook's URL") from None


LONGEST_REASON = 3000
RUN_FAILURE: Final = dg.DagsterEventType.RUN_FAILURE
# Failures a tick reads; those of all pipelines are among them.
AT_ONCE = 100
# How long an alert that no channel delivered is retried.
GIVE_UP = timedelta(hours=24)
# Dagster's tag on a failed run that its daemon will retry.
WILL_RETRY = "dagster/will_retry"


def alert_sensors(pipeline: Pipeline, assets: Collection[dg.AssetKey]) -> list[dg.SensorDefinition]:
    """`NAME_alert_on_failure`, of runs of these assets, and `NAME_alert_when_late`, if alerts are
    declared."""
    if not pipeline.alerts.enabled:
        return []
    return [_on_failure(pipeline, assets), _when_late(pipeline)]


def _on_failure(pipeline: Pipeline, assets: Collection[dg.AssetKey]) -> dg.SensorDefinition:
    # Dagster's own run failure sensor moves on even if the alert was not delivered. This cursor (a
    # storage id of the event log) stays until a channel delivers, one run a tick: nothing is sent
    # twice.
    @dg.sensor(
        name=f"{pipeline.name}_alert_on_failure",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Alerts when a run of {pipeline.name} fails, with the reason.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if not (context.cursor or "").isdigit():
            newest = context.instance.fetch_run_status_changes(RUN_FAILURE, limit=1).records
            cursor = newest[0].storage_id if newest else 0
            return dg.SensorResult(skip_reason="alerts on failures from now on", cursor=str(cursor))
        cursor = int(context.cursor or 0)
        after = dg.RunStatusChangeRecordsFilter(event_type=RUN_FAILURE, after_storage_id=cursor)
        found = context.instance.fetch_run_status_changes(after, limit=AT_ONCE, ascending=True)
        for record in found.records:
            cursor = record.storage_id
            run = context.instance.get_run_by_id(record.event_log_entry.run_id)
            if run is None or not is_of(pipeline, assets, run):
                continue
            try:
                problems = send(pipeline.alerts, failure(pipeline, context.instance, run))
            except AlertError as error:
                if datetime.now(UTC).timestamp() - record.timestamp < GIVE_UP.total_seconds():
                    raise
                problems = [f"given up: {error}"]
            for problem in problems:
                context.log.error(problem)
            reason = f"run {run.run_id} has failed: {'; '.join(problems) or 'alert sent'}"
            return dg.SensorResult(skip_reason=reason, cursor=str(cursor))
        return dg.SensorResult(skip_reason="no run has failed", cursor=str(cursor))

    return sensor


def failure(pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Message:
    """The failed steps with their reasons, the failed checks with what they found, and a link."""

    def events(kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        found = (entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kind))
        return [event for event in found if event is not None]

    lines = [why for event in events(dg.DagsterEventType.ENGINE_EVENT) if (why := reason(event))]
    for event in events(dg.DagsterEventType.STEP_FAILURE):
        if why := reason(event):
            lines.append(f"Step {event.step_key}: {why[:LONGEST_REASON]}")
    for event in events(dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        found = event.asset_check_evaluation_data
        if not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
            verdict = f"{found.check_name}: {unescaped(found.description or '')}"
            # The failed step may already give this check as its reason.
            if not any(verdict in line for line in lines):
                lines.append(f"Check of {found.asset_key.to_user_string()}: {verdict}")
    if not lines:
        messages = [event.message for event in events(RUN_FAILURE)]
        lines = [message for message in messages if message] or ["no step gives a reason"]
    if run.tags.get(WILL_RETRY) == "true":
        lines.append("Dagster will retry it.")
    title = f"batchrec: {run.job_name} failed"
    if run.job_name.startswith("__"):
        title = f"batchrec: a run of some assets of {pipeline.name} failed"
    return Message(title, [*lines, f"Run: {pipeline.alerts.dagster_url}/runs/{run.run_id}"])


def _when_late(pipeline: Pipeline) -> dg.SensorDefinition:
    key = pipeline.asset_key("recommendations")

    @dg.sensor(
        name=f"{pipeline.name}_alert_when_late",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Alerts when {pipeline.name} has no new recommendations"
        f" {pipeline.alerts.late_after_hours:g} hours after the scheduled time.",
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
    """When the published lists were made: the event's time, or the earlier one that a rollback
    records."""
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
    """The next cursor, the alert if any, and the tick's reason. `made`: the last recommendations.

    The cursor holds since when the schedule is on, and the last scheduled time alerted for.
    """
    if not on:
        return {}, None, "the schedule is off"
    since = before.get("since", now.isoformat())
    grace = timedelta(hours=pipeline.alerts.late_after_hours)
    schedule = pipeline.schedule
    due = get_latest_completed_cron_tick(schedule.cron, now - grace, schedule.timezone)
    if due < datetime.fromisoformat(since):
        return (
            {**before, "since": since},
            None,
            "nothing was due since the schedule is on",
        )
    after = {"since": since, "alerted": due.isoformat()}
    if made is not None and made >= due:
        return {**before, "since": since}, None, f"the lists due at {due:%Y-%m-%d %H:%M} are there"
    if before.get("alerted") == due.isoformat():
        return after, None, f"already alerted that {due:%Y-%m-%d %H:%M} is late"
    last = f"{made.astimezone(due.tzinfo):%Y-%m-%d %H:%M}" if made else "never"
    message = Message(
        f"batchrec: {pipeline.name} is late",
        [
            f"New recommendations were due at {due:%Y-%m-%d %H:%M %Z}. The published ones were"
            f" made: {last}.",
            "Either no run was started (check that Dagster's daemon runs), or the run is waiting or"
            " failed, or its lists were rolled back.",
            f"Runs: {pipeline.alerts.dagster_url}/runs",
        ],
    )
    return after, message, f"{due:%Y-%m-%d %H:%M} is late: alert sent"


def _is_on(pipeline: Pipeline, instance: dg.DagsterInstance) -> bool:
    """Whether the schedule is on: as switched in the UI, else as declared."""
    for state in instance.all_instigator_state():
        if state.instigator_name == f"{pipeline.name}_schedule":
            return state.status.value != "STOPPED"
    return pipeline.schedule.enabled
