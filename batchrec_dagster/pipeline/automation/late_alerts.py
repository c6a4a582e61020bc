"""Which pipelines have no new recommendations although their schedule or automation was due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
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
    triggers = _find_triggers(pipelines.values(), instance)
    keys = [
        list_pipeline.asset_key("recommendations")
        for name in sorted(pipelines)
        if any(triggers[name])
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
            triggers[name],
            partial(_find_first_update, instance, pipeline.upstream),
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


def _find_first_update(
    instance: dg.DagsterInstance, upstream: Iterable[dg.AssetKey], since: datetime
) -> datetime | None:
    """When the first of these assets was materialized after a time; None if none was."""
    times = []
    for key in upstream:
        # Dagster asks for the seconds since 1970.
        after = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since.timestamp())
        for record in instance.fetch_materializations(after, limit=1, ascending=True).records:
            times.append(datetime.fromtimestamp(record.timestamp, UTC))
    return min(times, default=None)


class Triggers(NamedTuple):
    """What starts runs of a pipeline by itself."""

    schedule: bool
    """Whether the schedule is on."""
    automation: bool
    """Whether there is declarative automation, and its sensor is on."""


class Lateness(NamedTuple):
    """Whether a pipeline is late."""

    remembered: dict[str, str]
    """What the next tick needs to know of the pipeline: since when its schedule or its automation
    is on (`since`), and the last due time with an alert (`alerted`)."""
    message: Message | None
    """The alert to send, if the pipeline is late and nobody was told."""
    reason: str


def check_lateness(
    pipeline: Pipeline,
    before: dict[str, str],
    now: datetime,
    made_at: datetime | None,
    triggers: Triggers,
    find_first_update: Callable[[datetime], datetime | None],
) -> Lateness:
    """Whether the pipeline is late.

    pipeline: narrowed to the list of it that was made first, if it has several.
    before: what the last tick remembered of it.
    made_at: when the published lists were made; None if nothing was published.
    find_first_update: when the first upstream asset was updated after a time; None if none was.
    """
    if not any(triggers):
        return Lateness({}, None, "the schedule is off")
    since = before.get("since", now.isoformat())
    first_time = datetime.fromisoformat(since)
    latest_due = now - timedelta(hours=pipeline.alerts.late_after_hours)
    due_times: list[datetime] = []
    if triggers.schedule:
        schedule = pipeline.schedule
        due_times.append(_find_last_scheduled_time(schedule.cron, schedule.timezone, latest_due))
    if triggers.automation and pipeline.automation == "eager":
        update = find_first_update(max(filter(None, [first_time, made_at])))
        if update is not None and update <= latest_due:
            due_times.append(update)
    elif triggers.automation:
        zone = pipeline.automation_timezone
        due_times.append(_find_last_scheduled_time(pipeline.automation, zone, latest_due))
    without_alert = {**before, "since": since}
    due = max(due_times, default=None)
    if due is None or due < first_time:
        trigger = "schedule" if triggers.schedule else "automation"
        return Lateness(without_alert, None, f"nothing was due since the {trigger} is on")
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


def _find_triggers(
    pipelines: Iterable[Pipeline], instance: dg.DagsterInstance
) -> dict[str, Triggers]:
    """What starts runs of each pipeline, by its name.

    A switch in the UI overrides the declaration.
    """
    is_on_in_ui = {
        state.instigator_name: state.status.value != "STOPPED"
        for state in instance.all_instigator_state()
    }
    triggers = {}
    for pipeline in pipelines:
        name, is_automated = pipeline.name, pipeline.automation != "none"
        triggers[name] = Triggers(
            schedule=is_on_in_ui.get(f"{name}_schedule", pipeline.schedule.enabled),
            automation=is_automated and is_on_in_ui.get(f"{name}_automation", True),
        )
    return triggers
