"""Sensors that alert people once when a run has failed or the schedule is late."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.alert import Alert, Message, NewAlerts, State
from batchrec_dagster.pipeline.automation.alert_channels import AlertError, send
from batchrec_dagster.pipeline.automation.failure_alerts import find_failures
from batchrec_dagster.pipeline.automation.late_alerts import find_late_pipelines

# How long an alert that no channel delivered is retried.
GIVE_UP = timedelta(hours=24)
# A tick starts no alert after this, because the last one may take half of its minute.
SECONDS_A_TICK = 20.0

# Searches for new alerts, from what the sensor remembers of the last tick.
AlertFinder = Callable[[dg.SensorEvaluationContext, State], NewAlerts]


def alert_sensors(watched: Mapping[str, Pipeline]) -> list[dg.SensorDefinition]:
    """The sensors that alert: `batchrec_alert_on_failure` and `batchrec_alert_when_late`.

    Both watch all pipelines of a code location that declare alerts. So a tick queries Dagster once,
    for any number of pipelines.

    watched: these pipelines by name. Others may be added after this, while they are built.
    """
    return [
        _make_sensor(
            "batchrec_alert_on_failure",
            30,
            "Alerts when a run of a pipeline fails that declares alerts, with the reason.",
            watched,
            partial(find_failures, watched),
        ),
        _make_sensor(
            "batchrec_alert_when_late",
            300,
            "Alerts when a pipeline that declares alerts has no new recommendations"
            " late_after_hours after they were due.",
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
        new = find(context, before["state"])
        undelivered, problems = _deliver([*waiting, *new.alerts], pipelines)
        waiting_after = [
            (alert.pipeline, alert.created_at, (alert.message.title, alert.message.lines))
            for alert in undelivered
        ]
        cursor = json.dumps({"state": new.state, "waiting": waiting_after})
        # Dagster forgets the cursor of a tick that fails. So a tick that changes it must not fail,
        # or the next tick would repeat the alerts that were delivered.
        if problems and cursor == context.cursor:
            raise AlertError("; ".join(problems))
        for problem in problems:
            context.log.error(problem)
        return dg.SensorResult(skip_reason="; ".join([new.reason, *problems]), cursor=cursor)

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
