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
from batchrec_dagster.pipeline.automation.runs import find_assets_of_run, list_job_names
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
    """The text of an alert."""

    title: str
    """What happened, in one line."""
    lines: list[str]
    """The details."""

    @property
    def text(self) -> str:
        """The title and the details.

        A detail of several lines is indented from the second line on, so that nobody takes data in
        it for a line of batchrec's.
        """
        return "\n".join(_indent(line) for line in [self.title, *self.lines])


def _indent(text: str) -> str:
    """The text with all lines but the first indented, without invisible characters."""
    return "\n  ".join(map(escape_invisible, text.splitlines()))


def send(alerts: Alerts, message: Message) -> list[str]:
    """Send the message to every declared channel, without secrets.

    Returns the errors if at least one channel worked. Raises AlertError if every channel fails.
    """
    # The webhook's URL is a secret, whatever the variable's name.
    secrets = {**os.environ, "WEBHOOK": os.environ.get(alerts.slack_webhook_env or "", "")}
    text = redact(message.text, secrets)
    errors: list[str] = []
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
            errors.append(redact(f"{channel}: {error}", secrets))
    if len(errors) == len(channels):
        raise AlertError("; ".join(errors))
    return errors


def _retry(deliver: Callable[[], None]) -> None:
    """Deliver, and try once more after an error. Raises AlertError if that fails too."""
    for attempt in range(1, TRIES + 1):
        try:
            deliver()
            return
        except (OSError, HTTPException, ClientError, BotoCoreError) as error:
            if attempt == TRIES:
                raise AlertError(str(error)) from None
            time.sleep(PAUSE_SECONDS)


def _publish(topic: str, title: str, text: str) -> None:
    topic_arn = TOPIC.fullmatch(topic)
    if topic_arn is None:
        raise AlertError("alerts.sns_topic is not the ARN of a topic")
    # `_retry` retries, so boto3 does not.
    config = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"total_max_attempts": 1},
    )
    sns = boto3.client("sns", region_name=topic_arn[1], config=config)
    explain_refusals(sns)
    # SNS accepts a subject of at most 100 ASCII characters.
    subject = escape_invisible(title).encode("ascii", "replace").decode()[:100]
    sns.publish(TopicArn=topic, Subject=subject, Message=text)


def _post(variable: str, text: str) -> None:
    url = os.environ.get(variable, "")
    if not url.startswith(("https://", "http://")):
        raise AlertError(f"set the environment variable {variable} to the webhook's URL")
    # The text is escaped as Slack asks, so that <!channel> in it notifies nobody. Slack must not
    # format it, or fetch links in it, either.
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
# How many failed runs a tick reads, which may be of any jobs in Dagster.
MAX_FAILURES_A_TICK = 100
# How long an alert that no channel delivered is retried.
GIVE_UP = timedelta(hours=24)
# A tick starts no alert after this, because the last one may take half of its minute.
SECONDS_A_TICK = 20.0
# Dagster's tag on a failed run that its daemon will retry.
WILL_RETRY = "dagster/will_retry"


class Alert(NamedTuple):
    """A message about a pipeline that is not delivered yet."""

    pipeline: str
    """The pipeline's name."""
    created_at: float
    """In seconds since 1970."""
    message: Message


# What a sensor remembers of the events that it has seen, as JSON.
State = dict[str, Any]
# A function from the state of the last tick to the state of this tick, the new alerts, and the
# message that the UI shows for the tick.
AlertFinder = Callable[[dg.SensorEvaluationContext, State], tuple[State, list[Alert], str]]


def alert_sensors(pipelines: Iterable[Pipeline]) -> list[dg.SensorDefinition]:
    """The sensors that alert: `batchrec_alert_on_failure` and `batchrec_alert_when_late`.

    Both watch all pipelines of a code location that declare alerts. So a tick queries Dagster once,
    for any number of pipelines. Empty if no pipeline declares alerts.
    """
    watched = {pipeline.name: pipeline for pipeline in pipelines if pipeline.alerts.enabled}
    if not watched:
        return []
    hours = (
        f"{name} ({pipeline.alerts.late_after_hours:g} h)" for name, pipeline in watched.items()
    )
    return [
        _make_sensor(
            "batchrec_alert_on_failure",
            30,
            f"Alerts when a run fails, with the reason: {', '.join(watched)}.",
            watched,
            partial(find_failures, watched),
        ),
        _make_sensor(
            "batchrec_alert_when_late",
            300,
            "Alerts when there are no new recommendations so long after the scheduled time:"
            f" {', '.join(hours)}.",
            watched,
            partial(find_late_pipelines, watched),
        ),
    ]


def _make_sensor(
    name: str, seconds: int, description: str, pipelines: Mapping[str, Pipeline], find: AlertFinder
) -> dg.SensorDefinition:
    """A sensor that keeps alerts in its cursor until a channel delivers them.

    Dagster's own sensor of failed runs forgets an alert that could not be delivered.
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
        # Dagster forgets the cursor of a tick that fails. So a tick that changes it must not fail,
        # or the next tick would repeat the alerts that were delivered.
        if problems and cursor == context.cursor:
            raise AlertError("; ".join(problems))
        for problem in problems:
            context.log.error(problem)
        return dg.SensorResult(skip_reason="; ".join([reason, *problems]), cursor=cursor)

    return sensor


def _deliver(
    alerts: Sequence[Alert], pipelines: Mapping[str, Pipeline]
) -> tuple[list[Alert], list[str]]:
    """Send the alerts, and return those that no channel accepted, and the errors.

    Of the alerts returned, those that were tried come last, so the next tick begins with others. If
    all channels of an alert fail, they are not tried again for further alerts.
    """
    end = time.monotonic() + SECONDS_A_TICK
    untried: list[Alert] = []
    tried: list[Alert] = []
    problems: list[str] = []
    errors_of_channels: dict[tuple[str | None, str | None], str] = {}
    for alert in alerts:
        pipeline = pipelines.get(alert.pipeline)
        if pipeline is None:
            continue
        channels = (pipeline.alerts.sns_topic, pipeline.alerts.slack_webhook_env)
        if channels not in errors_of_channels:
            if time.monotonic() > end:
                untried.append(alert)
                continue
            try:
                problems += send(pipeline.alerts, alert.message)
                continue
            except AlertError as error:
                errors_of_channels[channels] = str(error)
        if datetime.now(UTC).timestamp() - alert.created_at < GIVE_UP.total_seconds():
            tried.append(alert)
            problems.append(errors_of_channels[channels])
        else:
            problems.append(f"given up: {alert.message.title}: {errors_of_channels[channels]}")
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
    owners = {name for name in pipelines if run.job_name in list_job_names(name)}
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

    lines = []
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
    made_at = {entry.asset_key: find_creation_time(entry.last_materialization) for entry in entries}
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


def find_creation_time(event: dg.EventLogEntry | None) -> datetime | None:
    """When the published lists were made; None if nothing was published.

    That is the time of their materialization. After a rollback it is the earlier time that the
    rollback records.

    event: the last materialization of the lists.
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
    # One of Dagster's time windows ends at each scheduled time. They know daylight saving time.
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

    before: what the last tick remembered, which is since when the schedule is on, and the last
        scheduled time with an alert.
    made_at: when the published lists were made.
    scheduled: whether the schedule is on.
    """
    if not scheduled:
        return {}, None, "the schedule is off"
    since = before.get("since", now.isoformat())
    grace = timedelta(hours=pipeline.alerts.late_after_hours)
    schedule = pipeline.schedule
    due = _last_scheduled_time(schedule.cron, schedule.timezone, now - grace)
    without_alert = {**before, "since": since}
    if due < datetime.fromisoformat(since):
        return without_alert, None, "nothing was due since the schedule is on"
    with_alert = {"since": since, "alerted": due.isoformat()}
    if made_at is not None and made_at >= due:
        return without_alert, None, f"the lists due at {due:%Y-%m-%d %H:%M} are there"
    if before.get("alerted") == due.isoformat():
        return with_alert, None, f"already alerted that {due:%Y-%m-%d %H:%M} is late"
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
    return with_alert, message, f"{due:%Y-%m-%d %H:%M} is late: alert sent"


def _pipelines_with_schedule(
    pipelines: Iterable[Pipeline], instance: dg.DagsterInstance
) -> set[str]:
    """The names of the pipelines whose schedule is on.

    A switch in the UI overrides the declaration.
    """
    is_on_in_ui = {
        state.instigator_name: state.status.value != "STOPPED"
        for state in instance.all_instigator_state()
    }
    return {
        pipeline.name
        for pipeline in pipelines
        if is_on_in_ui.get(f"{pipeline.name}_schedule", pipeline.schedule.enabled)
    }
