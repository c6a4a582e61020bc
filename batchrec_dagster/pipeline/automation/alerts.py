"""Sensors that alert people once when a run has failed or the schedule is late."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from html import escape
from http.client import HTTPException, InvalidURL
from typing import Any, Final, NamedTuple

import boto3
import dagster as dg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.project import TOPIC, Alerts
from batchrec_dagster.pipeline.automation.runs import assets_of, job_names
from batchrec_dagster.pipeline.declare_asset import PIPELINE
from batchrec_dagster.reporting.failure_reasons import find_failure_reason
from batchrec_dagster.reporting.markdown import unescape
from batchrec_dagster.reporting.terminal import escape_invisible
from batchrec_dagster.storage.permissions import explain_refusals
from batchrec_dagster.storage.secrets import redact

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
            "\n  ".join(map(escape_invisible, line.splitlines()))
            for line in [self.title, *self.lines]
        )


def send(alerts: Alerts, message: Message) -> list[str]:
    """Send the message to every declared channel, without secrets.

    Returns the errors if at least one channel worked. Raises AlertError if every channel fails.
    """
    # The webhook's URL is a secret, whatever the variable's name.
    secrets = {**os.environ, "WEBHOOK": os.environ.get(alerts.slack_webhook_env or "", "")}
    text = redact(message.text, secrets)
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
    failed = [redact(problem, secrets) for problem in failed]
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
    subject = escape_invisible(title).encode("ascii", "replace").decode()[:100]
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
    try:
        request = urllib.request.Request(  # noqa: S310 (the scheme was checked)
            url, json.dumps(message).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            raise AlertError(f"the webhook answers {error.code} {error.reason}") from None
        raise
    except (InvalidURL, ValueError):
        # Their messages may repeat part of the URL.
        raise AlertError(f"the environment variable {variable} is not a webhook's URL") from None


LONGEST_REASON = 3000
RUN_FAILURE: Final = dg.DagsterEventType.RUN_FAILURE
# Those of all jobs of Dagster are among them.
MAX_FAILURES_A_TICK = 100
# How long an alert that no channel delivered is retried.
GIVE_UP = timedelta(hours=24)
# A tick starts no alert after this: the last one may take half of its minute.
SECONDS_A_TICK = 20.0
# Dagster's tag on a failed run that its daemon will retry.
WILL_RETRY = "dagster/will_retry"


class Alert(NamedTuple):
    """A message about a pipeline that is not delivered yet."""

    pipeline: str
    created_at: float
    """In seconds since 1970."""
    message: Message


# What a sensor remembers of the events that it has seen, as JSON.
State = dict[str, Any]
# Takes the state of the last tick, and returns that of this one, new alerts and what the tick says.
AlertFinder = Callable[[dg.SensorEvaluationContext, State], tuple[State, list[Alert], str]]


def alert_sensors(pipelines: Iterable[Pipeline]) -> list[dg.SensorDefinition]:
    """The sensors that alert: `batchrec_alert_on_failure` and `batchrec_alert_when_late`.

    They are for all pipelines of a code location that declare alerts, so that a tick asks Dagster
    once, however many pipelines there are. Empty if none declares alerts.
    """
    alerted = {pipeline.name: pipeline for pipeline in pipelines if pipeline.alerts.enabled}
    if not alerted:
        return []
    hours = (
        f"{name} ({pipeline.alerts.late_after_hours:g} h)" for name, pipeline in alerted.items()
    )
    return [
        _sensor(
            "batchrec_alert_on_failure",
            30,
            f"Alerts when a run fails, with the reason: {', '.join(alerted)}.",
            alerted,
            partial(find_failures, alerted),
        ),
        _sensor(
            "batchrec_alert_when_late",
            300,
            "Alerts when there are no new recommendations so long after the scheduled time:"
            f" {', '.join(hours)}.",
            alerted,
            partial(find_late_pipelines, alerted),
        ),
    ]


def _sensor(
    name: str, seconds: int, description: str, pipelines: Mapping[str, Pipeline], find: AlertFinder
) -> dg.SensorDefinition:
    """A sensor that keeps alerts in its cursor until a channel delivers them.

    Dagster's own sensor of failed runs moves on, whether its alert was delivered or not.
    """

    @dg.sensor(
        name=name,
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = json.loads(context.cursor or '{"state": {}, "waiting": []}')
        waiting = [
            Alert(pipeline, created_at, Message(*message))
            for pipeline, created_at, message in before["waiting"]
        ]
        state, alerts, reason = find(context, before["state"])
        undelivered, problems = _deliver([*waiting, *alerts], pipelines)
        waiting_after = [
            (alert.pipeline, alert.created_at, (alert.message.title, alert.message.lines))
            for alert in undelivered
        ]
        cursor = json.dumps({"state": state, "waiting": waiting_after})
        # Dagster forgets the cursor of a tick that fails, and what was sent would be sent again.
        if problems and cursor == context.cursor:
            raise AlertError("; ".join(problems))
        for problem in problems:
            context.log.error(problem)
        return dg.SensorResult(skip_reason="; ".join([reason, *problems]), cursor=cursor)

    return sensor


def _deliver(
    alerts: Sequence[Alert], pipelines: Mapping[str, Pipeline]
) -> tuple[list[Alert], list[str]]:
    """Send the alerts, and return those that no channel took, and the errors.

    The alerts that were tried come last. Channels that all failed are not tried again for the next
    alert.
    """
    until = time.monotonic() + SECONDS_A_TICK
    untried: list[Alert] = []
    tried: list[Alert] = []
    problems: list[str] = []
    broken: dict[tuple[str | None, str | None], str] = {}
    for alert in alerts:
        if (pipeline := pipelines.get(alert.pipeline)) is None:
            continue
        channels = (pipeline.alerts.sns_topic, pipeline.alerts.slack_webhook_env)
        if channels not in broken:
            if time.monotonic() > until:
                untried.append(alert)
                continue
            try:
                problems += send(pipeline.alerts, alert.message)
                continue
            except AlertError as error:
                broken[channels] = str(error)
        if datetime.now(UTC).timestamp() - alert.created_at < GIVE_UP.total_seconds():
            tried.append(alert)
            problems.append(broken[channels])
        else:
            problems.append(f"given up: {alert.message.title}: {broken[channels]}")
    return [*untried, *tried], list(dict.fromkeys(problems))


def find_failures(
    pipelines: Mapping[str, Pipeline], context: dg.SensorEvaluationContext, before: State
) -> tuple[State, list[Alert], str]:
    """An alert for each run that failed since the last tick.

    The state is the id, in Dagster's event log, of the last failure that a tick has seen.
    """
    instance = context.instance
    if "seen" not in before:
        newest = instance.fetch_run_status_changes(RUN_FAILURE, limit=1).records
        seen = newest[0].storage_id if newest else 0
        return {"seen": seen}, [], "alerts on failures from now on"
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
                for name in sorted(_pipelines_of_run(pipelines, context, run))
            ]
    ids = [record.event_log_entry.run_id for record in records]
    return (
        {"seen": records[-1].storage_id if records else before["seen"]},
        alerts,
        f"runs have failed: {', '.join(ids)}" if alerts else "no run has failed",
    )


def _pipelines_of_run(
    pipelines: Mapping[str, Pipeline], context: dg.SensorEvaluationContext, run: dg.DagsterRun
) -> set[str]:
    """The pipelines whose job this run is, or whose assets it makes."""
    if own := {name for name in pipelines if run.job_name in job_names(name)}:
        return own
    assets = context.repository_def.assets_defs_by_key if context.repository_def else {}
    made = [
        assets[key].metadata_by_key[key] for key in assets_of(context.instance, run) & {*assets}
    ]
    return {str(metadata.get(PIPELINE)) for metadata in made} & pipelines.keys()


def describe_failure(
    pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Message:
    """The failed steps with their reasons, the failed checks with what they found, and a link."""

    def events(kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        found = (entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kind))
        return [event for event in found if event is not None]

    lines = [
        why
        for event in events(dg.DagsterEventType.ENGINE_EVENT)
        if (why := find_failure_reason(event))
    ]
    for event in events(dg.DagsterEventType.STEP_FAILURE):
        if why := find_failure_reason(event):
            lines.append(f"Step {event.step_key}: {why[:LONGEST_REASON]}")
    for event in events(dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        found = event.asset_check_evaluation_data
        if not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
            verdict = f"{found.check_name}: {unescape(found.description or '')}"
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


def find_late_pipelines(
    pipelines: Mapping[str, Pipeline], context: dg.SensorEvaluationContext, before: State
) -> tuple[State, list[Alert], str]:
    """An alert for each pipeline that is late.

    The state is, for each pipeline, what `check_lateness` remembers of it.
    """
    now = datetime.now(UTC)
    scheduled = _pipelines_with_schedule(pipelines.values(), context.instance)
    keys = [pipelines[name].asset_key("recommendations") for name in sorted(scheduled)]
    records = context.instance.get_asset_records(keys) if keys else []
    entries = [record.asset_entry for record in records]
    made_at = {entry.asset_key: time_of_lists(entry.last_materialization) for entry in entries}
    after, alerts = {}, []
    reasons: dict[str, list[str]] = {}
    for name, pipeline in pipelines.items():
        after[name], message, reason = check_lateness(
            pipeline,
            before.get(name, {}),
            now,
            made_at.get(pipeline.asset_key("recommendations")),
            scheduled=name in scheduled,
        )
        if message is not None:
            alerts.append(Alert(name, now.timestamp(), message))
        reasons.setdefault(reason, []).append(name)
    summary = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return after, alerts, summary


def time_of_lists(event: dg.EventLogEntry | None) -> datetime | None:
    """When the published lists were made; None if nothing was published.

    That is the time of their materialization, or the earlier one that a rollback records.
    """
    if event is None:
        return None
    materialization = event.asset_materialization
    made_at = materialization.metadata.get("made_at") if materialization else None
    if made_at is not None:
        return datetime.fromisoformat(str(made_at.value))
    return datetime.fromtimestamp(event.timestamp, UTC)


def _last_scheduled_time(cron: str, timezone: str, before: datetime) -> datetime:
    """The last time of the schedule that is not after `before`."""
    # Dagster's time windows, of which one ends at each scheduled time, know summer time.
    windows = dg.TimeWindowPartitionsDefinition(
        start=datetime(1970, 1, 1, tzinfo=UTC),
        fmt="%Y-%m-%d-%H:%M",
        cron_schedule=cron,
        timezone=timezone,
    )
    window = windows.get_prev_partition_window(before, respect_bounds=False)
    assert window is not None, "only the bounds make it None"
    return window.end


def check_lateness(
    pipeline: Pipeline,
    before: dict[str, str],
    now: datetime,
    made_at: datetime | None,
    *,
    scheduled: bool,
) -> tuple[dict[str, str], Message | None, str]:
    """What to remember of the pipeline, the alert if it is late, and the reason either way.

    `before` is what the last tick remembered: since when the schedule is on, and the last scheduled
    time alerted for. `made_at` is when the published lists were made. `scheduled` says whether the
    schedule is on.
    """
    if not scheduled:
        return {}, None, "the schedule is off"
    since = before.get("since", now.isoformat())
    grace = timedelta(hours=pipeline.alerts.late_after_hours)
    schedule = pipeline.schedule
    due = _last_scheduled_time(schedule.cron, schedule.timezone, now - grace)
    if due < datetime.fromisoformat(since):
        return ({**before, "since": since}, None, "nothing was due since the schedule is on")
    after = {"since": since, "alerted": due.isoformat()}
    if made_at is not None and made_at >= due:
        return {**before, "since": since}, None, f"the lists due at {due:%Y-%m-%d %H:%M} are there"
    if before.get("alerted") == due.isoformat():
        return after, None, f"already alerted that {due:%Y-%m-%d %H:%M} is late"
    last = f"{made_at.astimezone(due.tzinfo):%Y-%m-%d %H:%M}" if made_at else "never"
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


def _pipelines_with_schedule(
    pipelines: Iterable[Pipeline], instance: dg.DagsterInstance
) -> set[str]:
    """The pipelines whose schedule is on: as switched in the UI, else as declared."""
    switched = {
        state.instigator_name: state.status.value != "STOPPED"
        for state in instance.all_instigator_state()
    }
    return {
        pipeline.name
        for pipeline in pipelines
        if switched.get(f"{pipeline.name}_schedule", pipeline.schedule.enabled)
    }
