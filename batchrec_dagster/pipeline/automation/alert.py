"""An alert about a pipeline, and the result of a search for new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from batchrec_dagster.reporting.terminal import escape_invisible

# What a sensor remembers from one tick to the next, as JSON.
State = dict[str, Any]


@dataclass(frozen=True)
class Message:
    """The text of an alert."""

    title: str
    """What happened, in one line."""
    lines: list[str]
    """The details."""

    @property
    def text(self) -> str:
        """The title and the details.

        A detail of several lines is indented from the second line on, so that nobody takes data in
        it for a line of batchrec's.
        """
        return "\n".join(_indent(line) for line in [self.title, *self.lines])


def _indent(text: str) -> str:
    """The text with all lines but the first indented, without invisible characters."""
    return "\n  ".join(map(escape_invisible, text.splitlines()))


class Alert(NamedTuple):
    """A message about a pipeline that is not delivered yet."""

    pipeline: str
    """The pipeline's name."""
    created_at: float
    """In seconds since 1970."""
    message: Message


class NewAlerts(NamedTuple):
    """What a tick of a sensor has found."""

    state: State
    """What the sensor remembers for the next tick."""
    alerts: list[Alert]
    reason: str
    """Why there are alerts, or none. Dagster's UI shows it for the tick."""
