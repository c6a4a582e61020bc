"""The text of alerts about published lists: they are late, or there are new ones.

Alerts are based on the published editions in the pipeline's own storage, not on Dagster's events of
the asset. The event of a night without new data looks like new lists, and a pipeline with the same
name in another code location has the same asset key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg
from pydantic import BaseModel, TypeAdapter

from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.automation.send_alert import AlertError, Message, send_alert
from batchrec_dagster.reporting.insight.verdict import give_verdict
from batchrec_dagster.storage.connection import Storage

# The time that the announcement of new lists waits for the report, which says what changed. After
# this time, the lists are announced without the report.
REPORT_TIME = timedelta(hours=1)
# A time that sorts before any time at which lists were made.
NEVER = datetime.min.replace(tzinfo=UTC)


# The largest number of a pipeline's undelivered alerts that are kept: the newest ones.
MOST_UNDELIVERED = 20


class Undelivered(BaseModel, frozen=True):
    """An alert that some receivers have not got yet."""

    title: str
    lines: tuple[str, ...]
    receivers: tuple[str, ...] | None = None
    """The marks (hashes) of the URLs that still need the alert; None for all URLs."""


class Memory(BaseModel, frozen=True):
    """The sensor's memory of a pipeline between two ticks."""

    on_since: datetime | None = None
    """The time since which the schedule is on; None if it is off."""
    told_late: datetime | None = None
    """The scheduled time of the last alert about late lists."""
    editions: dict[str, str] | None = None
    """The last known edition of each list, by the list's address.

    It was announced, or it was there at the first tick. None before the first tick, which announces
    nothing.
    """
    undelivered: tuple[Undelivered, ...] = ()
    """The alerts to send at the next tick, oldest first."""


# The sensor's memories of all pipelines, by pipeline name.
MEMORIES = TypeAdapter(dict[str, Memory])


class Look(NamedTuple):
    """The result of a tick for a pipeline: the state to remember, with the alerts to send."""

    memory: Memory
    reason: str
    """The reason why the pipeline is late, or is not. Dagster's UI shows it for the tick."""


class _LiveList(NamedTuple):
    """A list, with the edition that readers see now."""

    published: ListTable
    files: ListFiles
    edition: Edition | None
    """The live edition; None if the list was never published."""

    @property
    def made_at(self) -> datetime | None:
        """The time at which the edition was made; None if there is no edition."""
        return None if self.edition is None else self.edition.made_at

    @property
    def confirmed_at(self) -> datetime | None:
        """The last time at which a run made the edition, or found nothing new to publish.

        None if there is no edition.
        """
        if self.made_at is None:
            return None
        nights = self.files.editions.record().nights
        unchanged = [night.time for night in nights if night.ended == "unchanged"]
        return max([self.made_at, *unchanged])


def look_at_lists(pipeline: Pipeline, storage: Storage, before: Memory, *, is_on: bool) -> Look:
    """Find the alerts that are due for the pipeline's published lists.

    The alerts join the undelivered alerts of the memory.

    before: the memory after the last tick.
    is_on: whether the pipeline's schedule is on.
    Raises UserError.
    """
    lists = []
    for published in pipeline.user_lists:
        files = ListFiles(storage, published.keys)
        lists.append(_LiveList(published, files, files.editions.live()))
    messages, editions = _announce_new_lists(pipeline, lists, before)
    on_since, told_late = None, None
    if is_on:
        now = datetime.now(UTC)
        on_since, told_late = before.on_since or now, before.told_late
        # The list that was confirmed longest ago, or never made, decides whether the pipeline is
        # late.
        oldest = min(lists, key=lambda live: (live.confirmed_at or NEVER, live.published.address))
        due = find_due_time(pipeline, now)
        if due < on_since:
            reason = "nothing was due since the schedule is on"
        elif (oldest.confirmed_at or NEVER) >= due:
            reason = f"the lists due at {due:%Y-%m-%d %H:%M} are there"
        elif due == told_late:
            reason = f"already alerted that {due:%Y-%m-%d %H:%M} is late"
        else:
            messages.append(describe_late_lists(oldest.published, due, oldest.made_at))
            told_late = due
            reason = f"{due:%Y-%m-%d %H:%M} is late"
    else:
        reason = "the schedule is off"
    alerts = [Undelivered(title=message.title, lines=tuple(message.lines)) for message in messages]
    memory = Memory(
        on_since=on_since,
        told_late=told_late,
        editions=editions,
        undelivered=(*before.undelivered, *alerts)[-MOST_UNDELIVERED:],
    )
    return Look(memory, reason)


def send_undelivered(pipeline: Pipeline, memory: Memory) -> tuple[Memory, list[str]]:
    """Send the undelivered alerts to the receivers that have not got them.

    Return the memory with the alerts that are still undelivered, and the errors.
    """
    undelivered, problems = [], []
    for alert in memory.undelivered:
        try:
            send_alert(pipeline.alerts, Message(alert.title, alert.lines), alert.receivers)
        except AlertError as error:
            receivers = None if error.receivers is None else tuple(error.receivers)
            undelivered.append(alert.model_copy(update={"receivers": receivers}))
            problems.append(f"{pipeline.name}: {error}")
        except UserError as error:
            undelivered.append(alert)
            problems.append(f"{pipeline.name}: {error}")
    return memory.model_copy(update={"undelivered": tuple(undelivered)}), problems


def _announce_new_lists(
    pipeline: Pipeline, lists: Sequence[_LiveList], before: Memory
) -> tuple[list[Message], dict[str, str]]:
    """Return messages about new lists, and the editions to remember, by the lists' addresses.

    Raises UserError.
    """
    messages = []
    editions = dict(before.editions or {})
    for published, files, edition in lists:
        address = published.address
        version = f"{edition.number} {edition.version}" if edition is not None else ""
        if before.editions is None or edition is None or not pipeline.alerts.published:
            editions[address] = version
        elif version != editions.get(address):
            message = describe_new_lists(published, files, edition)
            if message is not None:
                messages.append(message)
                editions[address] = version
    return messages, editions


def find_due_time(pipeline: Pipeline, now: datetime) -> datetime:
    """Return the last scheduled time that is at least `late_after_hours` ago."""
    # Dagster's time windows end at the scheduled times, and they know daylight saving time.
    windows = dg.TimeWindowPartitionsDefinition(
        start=datetime(1970, 1, 1, tzinfo=UTC),
        fmt="%Y-%m-%d-%H:%M",
        cron_schedule=pipeline.schedule.cron,
        timezone=pipeline.schedule.timezone,
    )
    latest = now - timedelta(hours=pipeline.alerts.late_after_hours)
    window = windows.get_prev_partition_window(latest, respect_bounds=False)
    assert window is not None, "only the bounds make it None"
    return window.end


def describe_late_lists(published: ListTable, due: datetime, made_at: datetime | None) -> Message:
    """Return an alert about late lists.

    due: the scheduled time after which no lists were made.
    made_at: the time at which the published lists were made; None if there are none.
    """
    last = f"{made_at.astimezone(due.tzinfo):%Y-%m-%d %H:%M}" if made_at else "never"
    return Message(
        f"batchrec: {published.address} is late",
        [
            f"New recommendations were due at {due:%Y-%m-%d %H:%M %Z}. The published ones were"
            f" made: {last}.",
            "Either no run was started (check that Dagster's daemon runs), or the run is waiting or"
            " failed, or its lists were rolled back.",
            f"Runs: {published.pipeline.alerts.dagster_url}/runs",
        ],
    )


def describe_new_lists(published: ListTable, files: ListFiles, edition: Edition) -> Message | None:
    """Return an alert about lists that have just been published.

    None if the report, which says what changed, may still be on its way.
    Raises UserError.
    """
    from batchrec_dagster.reporting.stored_page import read_page  # NumPy, Jinja

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
