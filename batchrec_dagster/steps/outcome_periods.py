"""The periods in which the lists of an edition were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.nights import Night

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
    editions: Sequence[Edition],
    newest: int,
    publications: Sequence[Night],
) -> list[Period]:
    """The periods of the editions that are kept, oldest first.

    If there are interactions after the first publication, a period starts with the publication of
    its edition, because only from then on can a list change what people do. Otherwise the data,
    such as an old file, show at least how well the lists predict what comes: then a period starts
    where the data that its edition was made from end.

    newest: the time of the newest interaction, in epoch seconds.
    publications: all publications, also those of editions that are not kept, because they end the
    periods of others.
    """
    publication_times = [
        (publication, int(publication.time.timestamp())) for publication in publications
    ]
    if not publication_times:
        return []
    if newest > min(time for _, time in publication_times):
        since = PUBLICATION
        starts = [
            (_start_after_data(publication, time), publication)
            for publication, time in publication_times
        ]
    else:
        since = DATA
        starts = [
            (publication.data_until, publication)
            for publication, _ in publication_times
            if publication.ended == "published" and publication.data_until is not None
        ]
    starts = _keep_effective(starts)
    periods = []
    for index, (start, publication) in enumerate(starts):
        edition = next((edition for edition in editions if publication.is_of(edition)), None)
        is_last = index == len(starts) - 1
        end = newest if is_last else min(newest, starts[index + 1][0])
        # What was measured of an edition that is not kept stays as it is.
        if edition is not None and end > start:
            known_until = edition.data_until if edition.data_until is not None else start
            periods.append(Period(edition, known_until, start, end, since))
    return periods


def _start_after_data(publication: Night, time: int) -> int:
    """When the period starts of an edition that was published at this time.

    The interactions that an edition was made from do not follow it, even if the clock of the
    interactions is ahead.
    """
    if publication.ended != "published" or publication.data_until is None:
        return time
    return max(time, publication.data_until)


def _keep_effective(starts: Sequence[tuple[int, Night]]) -> list[tuple[int, Night]]:
    """The publications that were in effect, each with its start, which is later than the last one.

    Left out are those that another one replaced before they started, and those of the edition that
    was live already.
    """
    in_effect: list[tuple[int, Night]] = []
    for start, publication in starts:
        while in_effect and in_effect[-1][0] >= start:
            in_effect.pop()
        if in_effect and in_effect[-1][1].edition == publication.edition:
            continue
        in_effect.append((start, publication))
    return in_effect
