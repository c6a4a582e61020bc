"""The record of nights, `editions.json`: the result of each night for a list's editions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from batchrec_dagster.editions.edition import Edition, Finding, Withdrawn
from batchrec_dagster.personalize.estimate import Estimate

# The number of nights without a publication that are kept: enough for a year and a month of daily
# runs. If several runs a day publish nothing, the record covers a shorter time.
MOST_OTHER_NIGHTS = 400


class Night(BaseModel, frozen=True):
    """A run that made an edition live, or ended without doing so. It names no user.

    A value of None is not known, or does not apply.
    """

    time: datetime
    """The time when the edition became live, or when the run ended."""
    ended: Literal["published", "restored", "refused", "failed", "stopped", "unchanged"]
    """The end of the run.

    `restored`: a rollback made older lists live again. `refused`: a check failed. `unchanged`:
    there was nothing new to publish.
    """
    run: str
    """The id of the first run among the run and its retries; empty if it is not known."""

    edition: int | None = None
    """The number of the edition that became live."""
    version: str | None = None
    """The version of that edition."""
    replaced: int | None = None
    """The number of the edition that was live before."""
    data_until: int | None = None
    """The time of the newest interaction that the edition was made from, in epoch seconds."""
    users: int | None = None
    """The number of users with a list."""

    steps: tuple[str, ...] = ()
    """The names of the assets at which the run ended; empty if it made an edition live."""
    checks: tuple[str, ...] = ()
    """The names of the checks that refused."""
    reason: str = ""
    """The reason why the run was refused or failed, in one line."""

    ndcg: Estimate | None = None
    """The NDCG@25 of the edition's model, or of the model that was refused."""
    popular_ndcg: float | None = None
    """The NDCG@25 of recommending the most popular items."""
    measured_on: str | None = None
    """The fingerprint `Edition.measured_on` of the edition."""
    success: tuple[str, ...] = ()
    """The event types that the NDCG counts; empty if it counts all types."""
    cost_usd: float | None = None
    """The cost of the run in US dollars."""
    seconds: float | None = None
    """The seconds from the run's start until the edition was live, or until the run ended."""

    @classmethod
    def of(cls, edition: Edition) -> Night:
        """Return the night in which the edition last became live."""
        is_new = edition.because == "published"
        popularity = edition.measured_popularity
        return cls(
            time=edition.live_since,
            ended="published" if is_new else "restored",
            run=edition.live_by,
            edition=edition.number,
            version=edition.version,
            replaced=edition.replaced,
            data_until=edition.data_until,
            users=edition.counts.subjects if edition.users is not None else None,
            ndcg=edition.ndcg,
            popular_ndcg=popularity.ndcg if popularity is not None else None,
            measured_on=edition.measured_on,
            success=edition.success,
            # The cost and time of the run that made the edition are no part of a rollback.
            cost_usd=edition.cost_usd if is_new else None,
            seconds=edition.seconds if is_new else None,
        )

    def is_of(self, edition: Edition) -> bool:
        """Return whether the night made this edition live."""
        return (self.edition, self.version) == (edition.number, edition.version)

    @property
    def because(self) -> str:
        """The reason why its edition became live: `published` or `rolled back`."""
        return "published" if self.ended == "published" else "rolled back"

    @property
    def description(self) -> str:
        """The time since which its edition is live, such as `since 2026-11-24 03:10 UTC`.

        After a rollback, the text also names the edition that was replaced.
        """
        text = f"since {self.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if self.ended == "restored":
            text += f", rolled back to from edition {self.replaced}"
        return text


class EditionsRecord(BaseModel, frozen=True):
    """The content of `editions.json`."""

    nights: tuple[Night, ...] = ()
    """The nights, oldest first."""
    withdrawn: tuple[Withdrawn, ...] = ()
    """The lists that were rolled back. No run publishes them again by itself."""
    judged: tuple[Finding, ...] = ()
    """The findings of the newest run that would have made the live edition again.

    Empty if no run has judged the edition again since it became live.
    """

    @property
    def publications(self) -> tuple[Night, ...]:
        """The nights that made an edition live, oldest first."""
        return tuple(night for night in self.nights if night.edition is not None)

    @property
    def live(self) -> Night | None:
        """The night that made the live edition live; None if nothing was published."""
        return self.publications[-1] if self.publications else None

    def list_findings(self, edition: Edition) -> tuple[Finding, ...]:
        """Return the last findings about this edition.

        If the edition is live and a later run judged it again, the findings are that run's.
        Otherwise they are the findings from the edition's publication.
        """
        is_live = self.live is not None and self.live.is_of(edition)
        return self.judged if is_live and self.judged else edition.findings

    def is_withdrawn(self, edition: Edition) -> bool:
        """Return whether the edition's lists were rolled back."""
        return any(lists.matches(edition) for lists in self.withdrawn)

    def find_before(self, edition: Edition) -> Night | None:
        """Return the night of the edition that readers had before this one was first published.

        Return None if there is no such edition. Editions that were rolled back are skipped, and so
        are editions with equal content.
        """
        withdrawn = {lists.number for lists in self.withdrawn}
        before = None
        for night in self.publications:
            if night.is_of(edition):
                break
            if night.version != edition.version and night.edition not in withdrawn:
                before = night
        return before

    def without(self, run: str, steps: tuple[str, ...]) -> EditionsRecord:
        """Return the record without the nights that ended in these steps of the run."""
        kept = (
            night
            for night in self.nights
            if (night.edition, night.run, night.steps) != (None, run, steps)
        )
        return self.model_copy(update={"nights": tuple(kept)})

    def add(self, night: Night) -> EditionsRecord:
        """Return the record with another night.

        Of the nights that published nothing, only the newest stay. When another edition becomes
        live, the later findings about the previous live edition are removed.
        """
        nights = [*self.nights, night]
        unpublished = [index for index, past in enumerate(nights) if past.edition is None]
        forgotten = {*unpublished[:-MOST_OTHER_NIGHTS]}
        kept = tuple(past for index, past in enumerate(nights) if index not in forgotten)
        judged = self.judged if night.edition is None else ()
        return self.model_copy(update={"nights": kept, "judged": judged})
