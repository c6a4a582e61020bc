"""The periods in which the lists of an edition were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from batchrec_dagster.storage.published_table import Edition

# What a period starts with: the publication of its edition, or the end of the edition's data.
PUBLICATION, DATA = "publication", "data"


@dataclass(frozen=True)
class Period:
    """The time in which an edition's lists were published, up to the next edition.

    Times are in epoch seconds. An interaction belongs to the period if it is later than `start` and
    not later than `end`.
    """

    edition: Edition
    known_until: int
    """The time of the newest interaction that the edition was made from."""
    start: int
    end: int
    since: str
    """PUBLICATION or DATA, see `find_periods`."""


def find_periods(
    editions: Sequence[Edition], newest: int, published_again: Sequence[tuple[int, datetime]] = ()
) -> list[Period]:
    """The periods of the editions, oldest first.

    If there are interactions after the first publication, a period starts with the publication of
    its edition, because only from then on can a list change what people do. Otherwise the data,
    such as an old file, show at least how well the lists predict what comes: then a period starts
    where the data that its edition was made from end.

    newest: the time of the newest interaction, in epoch seconds.
    published_again: the number of each edition that a rollback published again, and when, as from
    `steps.publishing.Rollbacks.read_times`.
    """
    by_number = {edition.number: edition for edition in editions if "made_at" in edition.about}
    if not by_number:
        return []
    publication_times = {
        number: int(datetime.fromisoformat(edition.about["made_at"]).timestamp())
        for number, edition in by_number.items()
    }
    if newest > min(publication_times.values()):
        rollbacks = [
            (int(time.timestamp()), number)
            for number, time in published_again
            if number in by_number
        ]
        since = PUBLICATION
        # The interactions that an edition was made from do not follow it, even if the clock of the
        # interactions is ahead.
        publications = [
            (max(time, int(by_number[number].about.get("data_until", time))), number)
            for number, time in publication_times.items()
        ]
        starts = sorted([*publications, *rollbacks])
    else:
        since = DATA
        starts = [
            (int(by_number[number].about["data_until"]), number)
            for number in sorted(by_number)
            if "data_until" in by_number[number].about
        ]
    # A rollback to the edition that is published already does not start a new period.
    changes = [
        (start, number)
        for (_, previous_number), (start, number) in pairwise([(0, -1), *starts])
        if number != previous_number
    ]
    periods = []
    for (start, number), (next_start, _) in pairwise([*changes, (newest, -1)]):
        end = min(next_start, newest)
        if end > start:
            edition = by_number[number]
            known_until = int(edition.about.get("data_until", start))
            periods.append(Period(edition, known_until, start, end, since))
    return periods
