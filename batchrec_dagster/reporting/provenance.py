"""What made the lists, and from which data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from batchrec_dagster.personalize.measurements import ALL, EMBEDDED, join_events
from batchrec_dagster.storage.edition import Edition

# The start of the sources of generated data.
GENERATED = "sample://"
# With fewer users, numbers depend on who was drawn: nothing that was measured on them is called
# good. The verdict, the badges and the outcomes all go by it.
SMALL_SAMPLE = 100
# Why nobody may be tested, although users are held out.
NOBODY_TESTED = (
    "no held-out user later chose an item that was new to them and known from other users"
)


@dataclass(frozen=True)
class Provenance:
    """What made the lists, and from which data. What is None is not known."""

    engine: str | None
    """What trained the model, in words."""
    source: str | None
    """The source of the ratings, without secrets."""
    first: str | None = None
    """The day of the first interaction; empty if the interactions have no times."""
    last: str | None = None
    """The day of the last interaction."""
    tested: int | None = None
    """How many users the metrics were measured on."""
    success: Sequence[str] = ()
    """The types of events that the metrics count alone; all if empty."""

    @classmethod
    def of_edition(cls, edition: Edition) -> Self:
        """The provenance of these lists."""
        tested = edition.evidence.get(f"{ALL}/users")
        return cls(
            engine=edition.engine,
            source=edition.source,
            tested=None if tested is None else int(tested),
            success=edition.success,
        )

    @property
    def lines(self) -> dict[str, str]:
        """The provenance in words, by label."""
        return {
            "Model": self._describe_model(),
            "Data": self._describe_data(),
            "Measured on": self._describe_measurement(),
        }

    def _describe_measurement(self) -> str:
        users = describe_tested_users(self.tested)
        if not self.success:
            return users
        return f"{users}, by {join_events(self.success)} alone"

    def _describe_model(self) -> str:
        if self.engine == EMBEDDED:
            return "trained by batchrec's embedded engine, not by Amazon"
        return f"trained by {self.engine}" if self.engine else "not known what trained it"

    def _describe_data(self) -> str:
        if self.source is None:
            return "not known which"
        is_generated = self.source.startswith(GENERATED)
        data = f"generated, no real people ({self.source})" if is_generated else self.source
        if self.first == "":
            return f"{data}, without times"
        return f"{data}, {self.first} to {self.last}" if self.first else data


def describe_tested_users(tested: int | None) -> str:
    """The held-out users whom the metrics were measured on, in words.

    `tested` is their number; None if it is not known.
    """
    if tested is None:
        return "held-out users; how many is not known"
    if not tested:
        return f"no user: {NOBODY_TESTED}"
    small = ": a small sample" if tested < SMALL_SAMPLE else ""
    return f"{tested:,} held-out {'user' if tested == 1 else 'users'}{small}"


def describe_counted_events(
    declared: Sequence[str], counted: Sequence[str], engine: str | None
) -> str:
    """Which events the metrics count, as sentences that follow others; empty if that is usual.

    declared: solution.success.
    counted: the events that the metrics count alone; empty if they count all.
    engine: what measured them.
    """
    if counted:
        return f" The metrics count {join_events(counted)} alone."
    if not declared:
        return ""
    return (
        f" {engine}'s metrics count all events, not only {join_events(declared)}: outcomes and"
        " experiments count these."
    )
