"""What an alert says about published lists: that they are late, or that there are new ones.

Both come from the published editions in the pipeline's own storage. Dagster's events of the asset
would not do: they call the lists of a night without new data fresh, and a pipeline of the same name
in another code location has the same asset key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.pipeline.automation.send_alert import Message
from batchrec_dagster.reporting.insight.verdict import give_verdict
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles, ListKeys

# How long new lists may wait for the report, which says what changed, before they are announced
# without it.
REPORT_TIME = timedelta(hours=1)
# Sorts before any time at which lists were made.
NEVER = datetime.min.replace(tzinfo=UTC)

# What the sensor remembers of a pipeline: `lateness`, see Lateness.remembered, and `editions`, the
# version of each list's edition by its address, that was announced or there before.
ListState = dict[str, dict[str, str]]


class NewAlerts(NamedTuple):
    """What a look at a pipeline's lists has found."""

    state: ListState
    messages: Sequence[Message]
    reason: str
    """Why the pipeline is late, or is not. Dagster's UI shows it for the tick."""


def look_at_lists(
    pipeline: Pipeline, storage: Storage, before: ListState, *, is_on: bool
) -> NewAlerts:
    """The alerts that the pipeline's published lists give reason for.

    before: what the last look remembered; empty for the first, which announces nothing.
    is_on: whether the pipeline's schedule is on.
    Raises UserError.
    """
    lists = []
    for published in pipeline.user_lists:
        files = ListFiles(storage, ListKeys(published.address))
        lists.append((published, files, files.editions.live()))
    # A pipeline is as late as the list of it that was made first, or never.
    times = [
        (edition.made_at if edition is not None else None, published)
        for published, _, edition in lists
    ]
    made_at, first_list = min(times, key=lambda time: (time[0] or NEVER, time[1].address))
    lateness = check_lateness(
        first_list, before.get("lateness", {}), datetime.now(UTC), made_at, is_on=is_on
    )
    messages = [lateness.message] if lateness.message is not None else []
    editions = dict(before.get("editions", {}))
    for published, files, edition in lists:
        address = published.address
        version = f"{edition.number} {edition.version}" if edition is not None else ""
        if not before or edition is None or not pipeline.alerts.published:
            editions[address] = version
        elif version != editions.get(address):
            message = describe_new_lists(published, files, edition)
            if message is not None:
                messages.append(message)
                editions[address] = version
    state = {"lateness": lateness.remembered, "editions": editions}
    return NewAlerts(state, messages, lateness.reason)


class Lateness(NamedTuple):
    """Whether a pipeline is late."""

    remembered: dict[str, str]
    """What the next tick needs to know of the pipeline: since when its schedule is on (`since`),
    and the last due time with an alert (`alerted`)."""
    message: Message | None
    """The alert to send, if the pipeline is late and nobody was told."""
    reason: str


def check_lateness(
    published: PublishedList,
    before: dict[str, str],
    now: datetime,
    made_at: datetime | None,
    *,
    is_on: bool,
) -> Lateness:
    """Whether a pipeline is late.

    published: the list of it that was made first.
    before: what the last tick remembered of the pipeline.
    made_at: when the published lists were made; None if nothing was published.
    is_on: whether its schedule is on.
    """
    if not is_on:
        return Lateness({}, None, "the schedule is off")
    since = before.get("since", now.isoformat())
    alerts, schedule = published.pipeline.alerts, published.pipeline.schedule
    latest_due = now - timedelta(hours=alerts.late_after_hours)
    due = _find_last_scheduled_time(schedule.cron, schedule.timezone, latest_due)
    without_alert = {**before, "since": since}
    if due < datetime.fromisoformat(since):
        return Lateness(without_alert, None, "nothing was due since the schedule is on")
    with_alert = {"since": since, "alerted": due.isoformat()}
    if made_at is not None and made_at >= due:
        return Lateness(without_alert, None, f"the lists due at {due:%Y-%m-%d %H:%M} are there")
    if before.get("alerted") == due.isoformat():
        return Lateness(with_alert, None, f"already alerted that {due:%Y-%m-%d %H:%M} is late")
    last = f"{made_at.astimezone(due.tzinfo):%Y-%m-%d %H:%M}" if made_at else "never"
    message = Message(
        f"batchrec: {published.address} is late",
        [
            f"New recommendations were due at {due:%Y-%m-%d %H:%M %Z}. The published ones were"
            f" made: {last}.",
            "Either no run was started (check that Dagster's daemon runs), or the run is waiting or"
            " failed, or its data were unchanged, or its lists were rolled back.",
            f"Runs: {alerts.dagster_url}/runs",
        ],
    )
    return Lateness(with_alert, message, f"{due:%Y-%m-%d %H:%M} is late: alert sent")


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


def describe_new_lists(
    published: PublishedList, files: ListFiles, edition: Edition
) -> Message | None:
    """What to say of the lists that have just become the published ones.

    None if the report, which says what changed, may still be on its way.
    Raises UserError.
    """
    from batchrec_dagster.reporting.insight.page import read_page  # NumPy

    page = read_page(files)
    is_described = page is not None and page.edition.is_copy_of(edition)
    if not is_described and datetime.now(UTC) - edition.made_at < REPORT_TIME:
        return None
    record = files.editions.record()
    live = record.live
    changes = page.changes if page is not None and is_described else None
    asset = "/".join(published.asset_key(published.asset))
    lines = [
        live.description if live is not None and live.ended == "restored" else None,
        str(give_verdict(record.list_findings(edition))),
        changes.summary if changes is not None else None,
        f"Lists: {published.pipeline.alerts.dagster_url}/assets/{asset}",
    ]
    title = f"batchrec: edition {edition.number} of {published.address} is published"
    return Message(title, [line for line in lines if line])
