"""An edition of the past, and when it was live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from batchrec_dagster.reporting.terminal import format_time
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.nights import Night

# The setting that decides how many editions are kept.
SETTING = "retention.editions"


class UnknownEditionError(Exception):
    """There is no such edition, or it is no longer kept. Its message is one line."""


@dataclass(frozen=True)
class LivePeriod:
    """A time in which an edition was live."""

    since: datetime | None
    """None if it is not known."""
    until: datetime | None
    """None if the edition is live, or if the time is not known."""
    is_last: bool
    """Whether it is the edition that is live now."""

    @property
    def description(self) -> str:
        """The period in words, such as `live from 2026-11-20 03:10 to 2026-11-21 03:11 UTC`."""
        since, until = (
            None if moment is None else format_time(moment.astimezone(UTC))
            for moment in (self.since, self.until)
        )
        if self.is_last:
            return f"live since {since} UTC" if since else "live"
        if since and until:
            return f"live from {since} to {until} UTC"
        if since or until:
            return f"live from {since} UTC" if since else f"live until {until} UTC"
        return "live at a time that is not known"


@dataclass(frozen=True)
class PastEdition:
    """An edition of the past, or the live one."""

    edition: Edition
    periods: list[LivePeriod]
    """When it was live; there are several if it was restored."""


@dataclass(frozen=True)
class PastEditions:
    """The editions of a pipeline. All methods raise UserError and UnknownEditionError."""

    files: ListFiles

    @cached_property
    def _publications(self) -> tuple[Night, ...]:
        """All publications, oldest first."""
        return self.files.editions.record().publications

    def find(self, number: int) -> PastEdition:
        """The edition of this number."""
        publications = [past for past in self._publications if past.edition == number]
        if not publications:
            numbers = sorted({past.edition or 0 for past in self._publications})
            raise UnknownEditionError(
                f"there is no edition {number} of {self._pipeline}: the editions are"
                f" {numbers[0]} to {numbers[-1]}"
            )
        return self._find_kept(publications[-1])

    @property
    def _pipeline(self) -> str:
        return self.files.keys.address

    def _find_kept(self, publication: Night) -> PastEdition:
        """The edition that this publication made live."""
        editions = self.files.editions.live_and_older()
        periods = list(self._list_periods(publication))
        for edition in editions:
            if publication.is_of(edition):
                return PastEdition(edition, periods)
        numbers = sorted({kept.number for kept in editions})
        kept = ", ".join(map(str, numbers))
        older = len(numbers) - 1
        older_ones = "one older one" if older == 1 else f"{older} older ones"
        raise UnknownEditionError(
            f"edition {publication.edition} of {self._pipeline} was {join_periods(periods)}, and is"
            f" no longer kept: the published edition and {older_ones} are ({kept}), by the setting"
            f" {SETTING}"
        )

    def _list_periods(self, publication: Night) -> Iterator[LivePeriod]:
        """When the edition of this publication was live."""
        publications = [*self._publications]
        for past, successor in zip(publications, [*publications[1:], None], strict=False):
            if (past.edition, past.version) == (publication.edition, publication.version):
                until = successor.time if successor is not None else None
                yield LivePeriod(past.time, until, successor is None)


def join_periods(periods: list[LivePeriod]) -> str:
    """The periods in words, such as `live since 2026-11-20 03:10 UTC`."""
    first, *others = (period.description for period in periods)
    return ", and ".join([first, *(text.removeprefix("live ") for text in others)])
