"""Which pipelines have no new recommendations although their schedule was due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.alert import Alert, Message, NewAlerts, State

# Sorts before any time at which lists were made.
NEVER = datetime.min.replace(tzinfo=UTC)


def find_late_pipelines(
    pipelines: Mapping[str, Pipeline], context: dg.SensorEvaluationContext, before: State
) -> NewAlerts:
    """An alert for each pipeline that is late.

    The state is, for each pipeline, what `check_lateness` remembers of it.
    """
    now = datetime.now(UTC)
    instance = context.instance
    on_schedule = _find_pipelines_on_schedule(pipelines.values(), instance)
    keys = [
        list_pipeline.asset_key("recommendations")
        for name in sorted(on_schedule)
        for list_pipeline in pipelines[name].list_pipelines
    ]
    records = instance.get_asset_records(keys) if keys else []
    entries = [record.asset_entry for record in records]
    made_at = {entry.asset_key: find_creation_time(entry.last_materialization) for entry in entries}
    after: State = {}
    alerts = []
    names_of_reason: dict[str, list[str]] = {}
    for name, pipeline in pipelines.items():
        # A pipeline is as late as the list of it that was made first, or never.
        times = [
            (made_at.get(list_pipeline.asset_key("recommendations")), list_pipeline)
            for list_pipeline in pipeline.list_pipelines
        ]
        first_time, first_list = min(times, key=lambda time: (time[0] or NEVER, time[1].address))
        lateness = check_lateness(
            first_list,
            before.get(name, {}),
            now,
            first_time,
            is_on=name in on_schedule,
        )
        after[name] = lateness.remembered
        if lateness.message is not None:
            alerts.append(Alert(name, now.timestamp(), lateness.message))
        names_of_reason.setdefault(lateness.reason, []).append(name)
    summary = "; ".join(
        f"{', '.join(names)}: {reason}" for reason, names in names_of_reason.items()
    )
    return NewAlerts(after, alerts, summary)


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


def _find_last_scheduled_time(cron: str, timezone: str, before: datetime) -> datetime:
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


class Lateness(NamedTuple):
    """Whether a pipeline is late."""

    remembered: dict[str, str]
    """What the next tick needs to know of the pipeline: since when its schedule is on
    (`since`), and the last due time with an alert (`alerted`)."""
    message: Message | None
    """The alert to send, if the pipeline is late and nobody was told."""
    reason: str


def check_lateness(
    pipeline: Pipeline,
    before: dict[str, str],
    now: datetime,
    made_at: datetime | None,
    *,
    is_on: bool,
) -> Lateness:
    """Whether the pipeline is late.

    pipeline: narrowed to the list of it that was made first, if it has several.
    before: what the last tick remembered of it.
    made_at: when the published lists were made; None if nothing was published.
    is_on: whether its schedule is on.
    """
    if not is_on:
        return Lateness({}, None, "the schedule is off")
    since = before.get("since", now.isoformat())
    first_time = datetime.fromisoformat(since)
    latest_due = now - timedelta(hours=pipeline.alerts.late_after_hours)
    schedule = pipeline.schedule
    due = _find_last_scheduled_time(schedule.cron, schedule.timezone, latest_due)
    without_alert = {**before, "since": since}
    if due < first_time:
        return Lateness(without_alert, None, "nothing was due since the schedule is on")
    with_alert = {"since": since, "alerted": due.isoformat()}
    if made_at is not None and made_at >= due:
        return Lateness(without_alert, None, f"the lists due at {due:%Y-%m-%d %H:%M} are there")
    if before.get("alerted") == due.isoformat():
        return Lateness(with_alert, None, f"already alerted that {due:%Y-%m-%d %H:%M} is late")
    last = f"{made_at.astimezone(due.tzinfo):%Y-%m-%d %H:%M}" if made_at else "never"
    message = Message(
        f"batchrec: {pipeline.address} is late",
        [
            f"New recommendations were due at {due:%Y-%m-%d %H:%M %Z}. The published ones were"
            f" made: {last}.",
            "Either no run was started (check that Dagster's daemon runs), or the run is waiting or"
            " failed, or its lists were rolled back.",
            f"Runs: {pipeline.alerts.dagster_url}/runs",
        ],
    )
    return Lateness(with_alert, message, f"{due:%Y-%m-%d %H:%M} is late: alert sent")


def _find_pipelines_on_schedule(
    pipelines: Iterable[Pipeline], instance: dg.DagsterInstance
) -> set[str]:
    """The names of the pipelines whose schedule is on. A switch in the UI overrides the YAML."""
    is_on_in_ui = {
        state.instigator_name: state.status.value != "STOPPED"
        for state in instance.all_instigator_state()
    }
    return {
        pipeline.name
        for pipeline in pipelines
        if is_on_in_ui.get(f"{pipeline.name}_schedule", pipeline.schedule.enabled)
    }
