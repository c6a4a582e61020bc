"""What steps know of the run that they are in, and ask about the others of the project."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from batchrec_dagster.config import Pipeline


class RunHistory(Protocol):
    """The runs that the orchestrator remembers, by their ids."""

    def has_ended(self, run_id: str) -> bool:
        """Whether the run is known, and has ended in whatever way."""

    def is_unfinished(self, run_id: str) -> bool:
        """Whether the run is known, and neither it nor a retry of it has succeeded."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of the run that publishes."""

    run: str
    """Its id, for the metadata."""
    root_run: str
    """The id of the first of a run and its retries, which share a budget."""
    start: datetime | None = None
    """When it started; None if that is not known."""
    publish_anyway: bool = False
    """Whether it publishes even if the gate fails."""


def explain_publishing_anyway(pipeline: Pipeline) -> str:
    """How to start a run that no gate stops."""
    return (
        f"`batchrec run {pipeline.name} --publish-anyway` (in Dagster's Launchpad:"
        " publish_anyway: true)"
    )


def measure_seconds(start: datetime | None) -> float | None:
    """How many seconds have passed since then; None if that is not known, or the clock was set
    back."""
    if start is None:
        return None
    seconds = (datetime.now(UTC) - start).total_seconds()
    return round(seconds, 1) if seconds >= 0 else None
