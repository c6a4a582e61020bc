"""The nights of a list: the edition that each night published, or why it published none.

A night is a run that ended, or a rollback. Nights come from the record of the editions, and from
Dagster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.nights import Night
from batchrec_dagster.personalize.measurements import join_words
from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.storage.layout import ListKeys

NightStatus = Literal[
    "published", "rolled back", "restored", "refused", "failed", "stopped", "unchanged"
]
# After these nights people kept their previous lists, and somebody should know why.
ENDED_BADLY = ("refused", "failed", "stopped")


class ListedNight(Night):
    """A night, and the present state of its edition."""

    status: NightStatus
    """The ending of the night.

    It is `rolled back` if the edition was published, and rolled back later.
    """
    is_live: bool = False
    """Whether the edition has been live since this night."""
    until: datetime | None = None
    """The time at which another edition became live.

    None if no other edition has become live, or if no edition became live in this night.
    """

    @property
    def is_publication(self) -> bool:
        """Whether an edition became live in this night."""
        return self.edition is not None

    @property
    def is_restoration(self) -> bool:
        """Whether lists became live in this night that had been live before."""
        return self.status == "restored"

    @property
    def summary(self) -> str:
        """The status in a few words, such as `refused by quality_gate`."""
        steps = ", ".join(self.steps)
        match self.status:
            case "refused":
                return f"refused by {', '.join(self.checks)}"
            case "failed" | "stopped":
                return f"{self.status} at {steps}" if steps else self.status
            case "restored":
                text = f"restored: {self.replaced} rolled back"
            case _:
                text = self.status
        if self.is_live:
            text += ", live"
        return f"{text}; failed at {steps}" if steps else text

    @property
    def ndcg_number(self) -> Number | None:
        """The NDCG@25 of the night's model, with its interval; None if it is not known."""
        return None if self.ndcg is None else Number.of_estimate(self.ndcg, "score")


def list_nights(files: ListFiles, ended_runs: Sequence[Night] = ()) -> list[ListedNight]:
    """Return all known nights, oldest first.

    ended_runs: the runs that Dagster reports as failed.

    Raises UserError.
    """
    record = files.editions.record()
    withdrawn = {lists.number for lists in record.withdrawn}
    recorded_nights = read_other_nights(files)
    recorded_ids = {night.run for night in recorded_nights}
    other_runs = [night for night in ended_runs if night.run not in recorded_ids]
    endings = _group_by_run([*recorded_nights, *other_runs])
    nights = []
    publications = record.publications
    for night, successor in zip(publications, [*publications[1:], None], strict=False):
        facts = night.model_dump()
        ending = endings.pop(night.run, None)
        if ending is not None and ending.ended == "failed" and ending.time > night.time:
            facts["steps"] = ending.steps
        is_rolled_back = night.edition in withdrawn or (
            successor is not None and successor.ended == "restored"
        )
        status = "rolled back" if is_rolled_back and night.ended == "published" else night.ended
        until = successor.time if successor is not None else None
        is_live = successor is None
        nights.append(ListedNight(**facts, status=status, is_live=is_live, until=until))
    for night in endings.values():
        facts = night.model_dump()
        if night.ended == "unchanged":
            # The step that found nothing to do did not fail.
            facts["steps"] = ()
        nights.append(ListedNight(**facts, status=night.ended))
    return sorted(nights, key=lambda night: night.time)


def read_other_nights(files: ListFiles) -> list[Night]:
    """Return the recorded nights that made no edition live, oldest first.

    For a named list, these are the nights of its own steps, and of the steps that all lists of the
    pipeline need. Raises UserError.
    """
    nights = [*files.editions.record().nights]
    if files.keys.name:
        of_pipeline = ListFiles(files.storage, ListKeys(files.keys.pipeline))
        nights += of_pipeline.editions.record().nights
    other_nights = (night for night in nights if night.edition is None)
    return sorted(other_nights, key=lambda night: night.time)


def _group_by_run(nights: Iterable[Night]) -> dict[str, Night]:
    """Return the last ending of each run, by run id, with all steps and checks of that ending."""
    grouped: dict[str, Night] = {}
    for night in sorted(nights, key=lambda night: night.time):
        before = grouped.get(night.run)
        if before is not None and before.ended == night.ended:
            steps = tuple(dict.fromkeys([*before.steps, *night.steps]))
            checks = tuple(dict.fromkeys([*before.checks, *night.checks]))
            night = night.model_copy(update={"steps": steps, "checks": checks})
        grouped[night.run] = night
    return grouped


def describe_nights(pipeline: str, nights: Sequence[ListedNight]) -> dict[str, Any]:
    """Return the nights for JSON, newest first."""
    return {"pipeline": pipeline, "nights": [_describe_night(night) for night in reversed(nights)]}


def _describe_night(night: ListedNight) -> dict[str, Any]:
    values = night.model_dump(exclude={"ended", "version", "data_until", "ndcg"})
    for name, end in (("ndcg", "value"), ("ndcg_low", "low"), ("ndcg_high", "high")):
        values[name] = None if night.ndcg is None else getattr(night.ndcg, end)
    for name in ("time", "until"):
        time = values[name]
        values[name] = None if time is None else format_iso(time)
    return values


def format_iso(time: datetime) -> str:
    """Return the time to the second in UTC, for JSON, such as `2026-01-31T09:05:00+00:00`."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


def describe_success(newest: Sequence[ListedNight]) -> str:
    """Return a sentence on the events that NDCG@25 counts; empty if it always counts all events.

    newest: the nights, newest first.
    """
    measured = [night for night in newest if night.is_publication and night.ndcg is not None]
    events_of_editions = {
        night.edition: join_words(night.success) or "all events" for night in measured
    }
    if {*events_of_editions.values()} <= {"all events"}:
        return ""
    # Consecutive editions that count the same events share a part of the sentence.
    parts = [
        (events, [edition for edition, _ in group])
        for events, group in groupby(events_of_editions.items(), key=itemgetter(1))
    ]
    if len(parts) == 1:
        return f"NDCG@25 counts {parts[0][0]} alone."
    described = [f"{events} from edition {editions[-1]} on" for events, editions in parts[:-1]]
    return (
        f"NDCG@25 counts {'; '.join(described)}; before that, {parts[-1][0]}. These cannot be"
        " compared."
    )


def describe_changed_settings(nights: Iterable[ListedNight]) -> str:
    """Return a warning if the metrics of these nights cannot be compared; empty if they can.

    The warning is about changed settings. `describe_success` compares the events that the nights
    count.
    """
    measured_on = {
        (night.success, night.measured_on) for night in nights if night.measured_on is not None
    }
    if len(measured_on) > len({events for events, _ in measured_on}):
        return (
            "The settings of the interactions changed between some nights: these cannot be"
            " compared."
        )
    return ""
