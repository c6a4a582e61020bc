"""The periods in which editions were published, for measuring their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.nights import Night

# The possible starts of a period: the edition's publication, or the end of the edition's data.
PUBLICATION, DATA = "publication", "data"


@dataclass(frozen=True)
class Period:
    """The period in which an edition's lists were published, up to the next edition.

    Times are in epoch seconds. An interaction belongs to the period if its time is later than
    `start` and not later than `end`.
    """

    edition: Edition
    known_until: int
    """The time of the newest interaction that the edition was made from; `start` if unknown."""
    start: int
    end: int
    since: str
    """The kind of start, PUBLICATION or DATA. `find_periods` explains both."""


def find_periods(
    editions: Sequence[Edition],
    newest: int,
    publications: Sequence[Night],
) -> list[Period]:
    """Return the periods of the kept editions, oldest first.

    If there are interactions after the first publication, each period starts with the publication
    of its edition, because a list can change people's behaviour only from then on. Otherwise, for
    example if the data are an old file, the data show at least how well the lists predict later
    interactions. Then each period starts at the end of the data that its edition was made from.

    newest: the time of the newest interaction, in epoch seconds.
    publications: all publications. The publication of an edition that is no longer kept still ends
        the period before it.
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
        # An edition that is not kept has no period: its earlier measurements stay as they are.
        if edition is not None and end > start:
            known_until = edition.data_until if edition.data_until is not None else start
            periods.append(Period(edition, known_until, start, end, since))
    return periods


def _start_after_data(publication: Night, time: int) -> int:
    """Return the start of the period of an edition that was published at this time.

    The start is not before the end of the edition's data, even if the clock of the interactions is
    ahead: the interactions that an edition was made from must not count as its outcome.
    """
    if publication.ended != "published" or publication.data_until is None:
        return time
    return max(time, publication.data_until)


def _keep_effective(starts: Sequence[tuple[int, Night]]) -> list[tuple[int, Night]]:
    """Return the publications that took effect, each with its start, in ascending order of start.

    Two kinds of publications are left out: a publication that was replaced before its period
    started, and a publication of the edition that was live already.
    """
    in_effect: list[tuple[int, Night]] = []
    for start, publication in starts:
        while in_effect and in_effect[-1][0] >= start:
            in_effect.pop()
        if in_effect and in_effect[-1][1].edition == publication.edition:
            continue
        in_effect.append((start, publication))
    return in_effect
