"""Sensors that send alerts about failed runs, late lists and new lists.

The first pipeline of a code location that declares alerts adds the two sensors. They watch all
pipelines of the location that declare alerts, so each tick queries Dagster once, for any number of
pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.asset_keys import resource_key
from batchrec_dagster.pipeline.automation.failure_alerts import describe_failure
from batchrec_dagster.pipeline.automation.runs_under_way import find_assets_of_run
from batchrec_dagster.pipeline.automation.send_alert import AlertError, Message, send_alert
from batchrec_dagster.pipeline.declared import PIPELINE, find_declared_pipelines
from batchrec_dagster.storage.connection import Storage


@dg.run_failure_sensor(
    name="batchrec_alert_on_failure",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Alerts when a run fails that makes assets of a pipeline that declares alerts, with"
    " the reason.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
    run, instance = context.dagster_run, context.instance
    repository = context.repository_def
    assets = repository.assets_defs_by_key if repository else {}
    keys = find_assets_of_run(instance, run) & assets.keys()
    names = {assets[key].metadata_by_key[key].get(PIPELINE) for key in keys}
    problems = []
    for pipeline in _find_watched(repository):
        if pipeline.name in names:
            problems += _send(pipeline, describe_failure(pipeline, instance, run))
    if problems:
        raise AlertError("; ".join(problems))


@dg.sensor(
    name="batchrec_alert_on_lists",
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    required_resource_keys={resource_key("storage")},
    description="Alerts when a pipeline that declares alerts has published no lists"
    " late_after_hours after they were due, and, with published, when it has new ones.",
)
def alert_on_lists(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    # The import is here, because it needs PyArrow and NumPy.
    from batchrec_dagster.pipeline.automation.list_alerts import (
        MEMORIES,
        Memory,
        look_at_lists,
        send_undelivered,
    )

    storage: Storage = context.resources.batchrec_storage.opened
    memories = MEMORIES.validate_json(context.cursor or "{}")
    is_on_in_ui = _read_switches(context)
    notes = []
    for pipeline in _find_watched(context.repository_def):
        name = pipeline.name
        is_on = is_on_in_ui.get(f"{name}_schedule", pipeline.schedule.enabled)
        memory, problems = memories.get(name, Memory()), []
        # Catch errors, because a failed tick would forget which alerts it has sent, and the next
        # tick would send them again.
        try:
            memory, reason = look_at_lists(pipeline, storage, memory, is_on=is_on)
            notes.append(f"{name}: {reason}")
        except UserError as error:
            problems.append(f"{name}: {error}")
        memories[name], undelivered = send_undelivered(pipeline, memory)
        problems += undelivered
        for problem in problems:
            context.log.error(problem)
        notes += problems
    return dg.SensorResult(
        skip_reason="; ".join(notes), cursor=MEMORIES.dump_json(memories).decode()
    )


# The name of the pipeline that adds the sensors, by code location. Dagster copies the sensors of
# each component, and refuses the second copy. The keys are the trees' trackers, because two trees
# of the same folder are equal, even if they have built different things.
_first_pipelines: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def list_alert_sensors(pipeline: Pipeline, tree: dg.ComponentTree) -> list[dg.SensorDefinition]:
    """Return the alert sensors if this pipeline is the one that adds them, else an empty list.

    tree: the component tree of the code location.
    """
    if not pipeline.alerts.enabled:
        return []
    is_first = _first_pipelines.setdefault(tree.state_tracker, pipeline.name) == pipeline.name
    return [alert_on_failure, alert_on_lists] if is_first else []


def _find_watched(repository: dg.RepositoryDefinition | None) -> Iterator[Pipeline]:
    """Yield the pipelines of the code location that declare alerts."""
    assets = repository.assets_defs_by_key.values() if repository else ()
    for pipeline, _ in find_declared_pipelines(assets):
        if pipeline.alerts.enabled:
            yield pipeline


def _send(pipeline: Pipeline, message: Message) -> list[str]:
    """Send the message, and return the error if sending failed; empty if it succeeded."""
    try:
        send_alert(pipeline.alerts, message)
    except UserError as error:
        return [f"{pipeline.name}: {error}"]
    return []


def _read_switches(context: dg.SensorEvaluationContext) -> dict[str, bool]:
    """Return whether each schedule is on, by name, for the schedules that were switched in the UI.

    Schedules of other code locations are left out, because they may have the same names.
    """
    here = context.code_location_origin
    return {
        state.instigator_name: state.status.value != "STOPPED"
        for state in context.instance.all_instigator_state()
        if here is None
        or state.origin.repository_origin.code_location_origin.location_name == here.location_name
    }
