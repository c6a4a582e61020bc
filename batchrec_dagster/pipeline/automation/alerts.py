"""Sensors that tell people of failed runs, and of late and new lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.automation.failure_alerts import (
    describe_failure,
    find_pipelines_of_run,
)
from batchrec_dagster.pipeline.automation.send_alert import AlertError, Message, send_alert
from batchrec_dagster.pipeline.deployment import resource_key
from batchrec_dagster.storage.connection import Storage


def alert_sensors(watched: Mapping[str, Pipeline]) -> list[dg.SensorDefinition]:
    """The sensors `batchrec_alert_on_failure` and `batchrec_alert_on_lists`.

    Both watch all pipelines of a code location that declare alerts, and its runs alone. So a tick
    queries Dagster once, for any number of pipelines.

    watched: these pipelines by name. Others may be added after this, while they are built.
    """
    return [_make_failure_sensor(watched), _make_list_sensor(watched)]


def _make_failure_sensor(watched: Mapping[str, Pipeline]) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="batchrec_alert_on_failure",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts when a run of a pipeline fails that declares alerts, with the reason.",
    )
    def sensor(context: dg.RunFailureSensorContext) -> None:
        run, instance = context.dagster_run, context.instance
        problems = []
        for name in find_pipelines_of_run(watched, run, instance, context.repository_def):
            problems += _send(watched[name], describe_failure(watched[name], instance, run))
        if problems:
            raise AlertError("; ".join(problems))

    return sensor


def _make_list_sensor(watched: Mapping[str, Pipeline]) -> dg.SensorDefinition:
    @dg.sensor(
        name="batchrec_alert_on_lists",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={resource_key("storage")},
        description="Alerts when a pipeline that declares alerts has published no lists"
        " late_after_hours after they were due, and, with published, when it has new ones.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        # Imported here, because it needs PyArrow and NumPy.
        from batchrec_dagster.pipeline.automation.list_alerts import (
            MEMORIES,
            Memory,
            look_at_lists,
        )

        storage: Storage = context.resources.batchrec_storage.opened
        memories = MEMORIES.validate_json(context.cursor or "{}")
        on_schedule = _find_pipelines_on_schedule(watched.values(), context)
        notes = []
        for name, pipeline in watched.items():
            before = memories.get(name, Memory())
            # A tick that fails would forget what it has sent, and the next send it again.
            try:
                look = look_at_lists(pipeline, storage, before, is_on=name in on_schedule)
            except UserError as error:
                problems = [f"{name}: {error}"]
            else:
                memories[name] = look.memory
                notes.append(f"{name}: {look.reason}")
                problems = [
                    problem for message in look.messages for problem in _send(pipeline, message)
                ]
            for problem in problems:
                context.log.error(problem)
            notes += problems
        return dg.SensorResult(
            skip_reason="; ".join(notes), cursor=MEMORIES.dump_json(memories).decode()
        )

    return sensor


def _send(pipeline: Pipeline, message: Message) -> list[str]:
    """Send the message, and return why that failed, if it did."""
    try:
        send_alert(pipeline.alerts, message)
    except UserError as error:
        return [f"{pipeline.name}: {error}"]
    return []


def _find_pipelines_on_schedule(
    pipelines: Iterable[Pipeline], context: dg.SensorEvaluationContext
) -> set[str]:
    """The names of the pipelines whose schedule is on.

    A switch in the UI overrides the YAML. Other code locations may have schedules of the same name.
    """
    here = context.code_location_origin
    is_on_in_ui = {
        state.instigator_name: state.status.value != "STOPPED"
        for state in context.instance.all_instigator_state()
        if here is None
        or state.origin.repository_origin.code_location_origin.location_name == here.location_name
    }
    return {
        pipeline.name
        for pipeline in pipelines
        if is_on_in_ui.get(f"{pipeline.name}_schedule", pipeline.schedule.enabled)
    }
