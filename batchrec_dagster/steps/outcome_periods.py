"""When each edition's lists were the ones that people got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from batchrec_dagster.storage.published_table import Edition

# What a period starts with: the publication of its edition, or the end of the edition's data.
PUBLICATION, DATA = "publication", "data"


@dataclass(frozen=True)
class Period:
    """What happened after `start` and until `end` came after this edition and before the next.

    known_until: the newest interaction that the edition was made from. All in epoch seconds.
    since: PUBLICATION or DATA, see `periods`.
    """

    edition: Edition
    known_until: int
    start: int
    end: int
    since: str


def periods(
    editions: Sequence[Edition], newest: int, published_again: Sequence[tuple[int, datetime]] = ()
) -> list[Period]:
    """The periods of the editions, oldest first, up to the newest interaction (epoch seconds).

    Where interactions are newer than the first publication, a period starts with its edition's
    publication: only then can a list have changed what people do. Data that end before it, such as
    an old file, say nothing of that, but still how well lists foresee what comes: then a period
    starts where the edition's own data end.

    published_again: edition numbers and times, as from `rollback_times`.
    """
    there = {edition.number: edition for edition in editions if "made_at" in edition.about}
    if not there:
        return []
    made = {number: _seconds(edition.about["made_at"]) for number, edition in there.items()}
    if newest > min(made.values()):
        again = [(int(at.timestamp()), number) for number, at in published_again if number in there]
        since = PUBLICATION
        # What an edition was made from is not after it, even if its clock is ahead.
        after = [
            (max(at, int(there[number].about.get("data_until", at))), number)
            for number, at in made.items()
        ]
        starts = sorted([*after, *again])
    else:
        since = DATA
        starts = [
            (int(there[number].about["data_until"]), number)
            for number in sorted(there)
            if "data_until" in there[number].about
        ]
    live = [
        one for one, before in zip(starts, [(0, -1), *starts], strict=False) if _new(one, before)
    ]
    return [
        Period(there[number], known_until, start, min(end, newest), since)
        for (start, number), (end, _) in pairwise([*live, (newest, -1)])
        for known_until in [int(there[number].about.get("data_until", start))]
        if min(end, newest) > start
    ]


def _new(start: tuple[int, int], before: tuple[int, int]) -> bool:
    """Whether another edition starts: one that is published again while it is published does
    not."""
    return start[1] != before[1]


def _seconds(time: Any) -> int:
    return int(datetime.fromisoformat(time).timestamp())
