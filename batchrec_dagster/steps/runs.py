"""What steps ask about other runs of the project."""

from __future__ import annotations

from typing import Protocol


class RunHistory(Protocol):
    """The runs that the orchestrator remembers, by their ids."""

    def has_ended(self, run_id: str) -> bool:
        """Whether the run is known, and has ended in whatever way."""

    def is_unfinished(self, run_id: str) -> bool:
        """Whether the run is known, and neither it nor a retry of it has succeeded."""
