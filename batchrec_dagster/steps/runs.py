"""What steps ask about other runs of the project."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class RunHistory(Protocol):
    """The runs that the orchestrator remembers, by their ids."""

    def has_ended(self, run_id: str) -> bool:
        """Whether the run is known, and has ended in whatever way."""

    def is_unfinished(self, run_id: str) -> bool:
        """Whether the run is known, and neither it nor a retry of it has succeeded."""


def measure_seconds(start: datetime | None) -> float | None:
    """How many seconds have passed since then; None if that is not known, or the clock was set
    back."""
    if start is None:
        return None
    seconds = (datetime.now(UTC) - start).total_seconds()
    return round(seconds, 1) if seconds >= 0 else None
