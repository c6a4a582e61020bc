"""The facts about the current run and about other runs that the steps need."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from batchrec_dagster.config import Pipeline


class RunHistory(Protocol):
    """The runs that the orchestrator remembers, by their ids."""

    def has_ended(self, run_id: str) -> bool:
        """Return whether the run is known and has ended, successfully or not."""

    def is_unfinished(self, run_id: str) -> bool:
        """Return whether the run is known, and neither the run nor a retry of it has succeeded."""


@dataclass(frozen=True)
class RunFacts:
    """The facts about the run that publishes."""

    run: str
    """The id of the run, for the metadata."""
    root_run: str
    """The id of the run, or of its first attempt if it is a retry.

    The costs of all attempts count towards the same limit, `budget.max_usd_per_run`.
    """
    start: datetime | None = None
    """The time at which the run started; None if it is not known."""
    publish_anyway: bool = False
    """Whether the run publishes even if the gate fails."""


def explain_publishing_anyway(pipeline: Pipeline) -> str:
    """Return the command that starts a run that no gate stops, for a message to the user."""
    return (
        f"`batchrec run {pipeline.name} --publish-anyway` (in Dagster's Launchpad:"
        " publish_anyway: true)"
    )


def measure_seconds(start: datetime | None) -> float | None:
    """Return the number of seconds since the start, rounded to 0.1.

    None if the start is not known, or if the clock was set back.
    """
    if start is None:
        return None
    seconds = (datetime.now(UTC) - start).total_seconds()
    return round(seconds, 1) if seconds >= 0 else None
