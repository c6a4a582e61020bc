"""What each night did with the editions of a list, as `editions.json` has it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from batchrec_dagster.storage.edition import Edition, Finding, Withdrawn
from batchrec_dagster.storage.estimate import Estimate

# The nights that published nothing of a year and a month are remembered. There are more only where
# runs fail by the hour.
MOST_OTHER_NIGHTS = 400


class Night(BaseModel, frozen=True):
    """A run that made an edition live, or ended without. It names no user.

    What is None is not known, or does not apply.
    """

    time: datetime
    """When the edition became live, or the run ended."""
    ended: Literal["published", "restored", "refused", "failed", "stopped", "unchanged"]
    """`restored` if a rollback made older lists live again, `refused` if a check failed,
    `unchanged` if there was nothing new to publish."""
    run: str
    """The id of the first of the run and its retries; empty if it is not known."""

    edition: int | None = None
    """The number of the edition that became live."""
    version: str | None = None
    """Its version."""
    replaced: int | None = None
    """The number of the edition that was live before."""
    data_until: int | None = None
    """The time of the newest interaction that the edition was made from, in epoch seconds."""
    users: int | None = None
    """How many users have a list."""

    steps: tuple[str, ...] = ()
    """The assets whose steps ended the run, if it made no edition live."""
    checks: tuple[str, ...] = ()
    """The names of the checks that refused."""
    reason: str = ""
    """Why the run was refused or failed, in one line."""

    ndcg: Estimate | None = None
    """The NDCG@25 of the edition's model, or of the model that was refused."""
    popular_ndcg: float | None = None
    """The NDCG@25 of recommending the most popular items."""
    measured_on: str | None = None
    """As that of the edition."""
    success: tuple[str, ...] = ()
    """The types of events that the NDCG counts alone; empty if it counts all."""
    cost_usd: float | None = None
    """What the run paid."""
    seconds: float | None = None
    """How long the run took until the edition was live, or until it ended."""

    @classmethod
    def of(cls, edition: Edition) -> Night:
        """The night in which the edition became live last."""
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
            users=edition.counts.subjects if edition.subject == "user" else None,
            ndcg=edition.ndcg,
            popular_ndcg=popularity.ndcg if popularity is not None else None,
            measured_on=edition.measured_on,
            success=edition.success,
            # Those of the run that made it are no part of a rollback.
            cost_usd=edition.cost_usd if is_new else None,
            seconds=edition.seconds if is_new else None,
        )

    def is_of(self, edition: Edition) -> bool:
        """Whether it made this edition live."""
        return (self.edition, self.version) == (edition.number, edition.version)

    @property
    def because(self) -> str:
        """Why its edition became live: `published` or `rolled back`."""
        return "published" if self.ended == "published" else "rolled back"

    @property
    def description(self) -> str:
        """Since when its edition is live, and why, such as `since 2026-11-24 03:10 UTC`."""
        text = f"since {self.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if self.ended == "restored":
            text += f", rolled back to from edition {self.replaced}"
        return text


class EditionsRecord(BaseModel, frozen=True):
    """What `editions.json` has."""

    nights: tuple[Night, ...] = ()
    """The oldest comes first."""
    withdrawn: tuple[Withdrawn, ...] = ()
    """The lists that were rolled back, and may not come back by themselves."""
    judged: tuple[Finding, ...] = ()
    """What the newest run found of the live edition, if it would have made the same again; empty if
    no run judged it again since it is live."""

    @property
    def publications(self) -> tuple[Night, ...]:
        """The nights in which an edition became live, the oldest first."""
        return tuple(night for night in self.nights if night.edition is not None)

    @property
    def live(self) -> Night | None:
        """The night that made the live edition live; None if nothing was published."""
        return self.publications[-1] if self.publications else None

    def list_findings(self, edition: Edition) -> tuple[Finding, ...]:
        """What was found of this edition last: by a later run if it is live and unchanged since, or
        else when it was published."""
        is_live = self.live is not None and self.live.is_of(edition)
        return self.judged if is_live and self.judged else edition.findings

    def is_withdrawn(self, edition: Edition) -> bool:
        """Whether the lists of this edition were rolled back."""
        return any(lists.matches(edition) for lists in self.withdrawn)

    def find_before(self, edition: Edition) -> Night | None:
        """What readers had before this edition was first published; None if nothing.

        Lists that were rolled back, and equal ones, are passed over.
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
        """The record without the nights that ended in these steps of the run."""
        kept = (
            night
            for night in self.nights
            if (night.edition, night.run, night.steps) != (None, run, steps)
        )
        return self.model_copy(update={"nights": tuple(kept)})

    def add(self, night: Night) -> EditionsRecord:
        """The record with another night. Of those that published nothing the newest stay.

        What was found of the edition that was live before leaves with it.
        """
        nights = [*self.nights, night]
        others = [index for index, past in enumerate(nights) if past.edition is None]
        forgotten = {*others[:-MOST_OTHER_NIGHTS]}
        kept = tuple(past for index, past in enumerate(nights) if index not in forgotten)
        judged = self.judged if night.edition is None else ()
        return self.model_copy(update={"nights": kept, "judged": judged})
