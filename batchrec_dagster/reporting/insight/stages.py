"""The stages of a run, as people watch them: assets that wait, are made, or have ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchrec_dagster.reporting.insight.numbers import format_count

StageStatus = Literal["waiting", "running", "retrying", "done", "failed", "stopped", "skipped"]
ENDED: tuple[StageStatus, ...] = ("done", "failed", "stopped", "skipped")


@dataclass
class Stage:
    """An asset of the run.

    Times are in seconds since the epoch.
    """

    name: str
    status: StageStatus = "waiting"
    start_time: float | None = None
    """The time at which the stage started; None until then."""
    end_time: float | None = None
    """The time at which the stage ended; None until then."""
    details: str = ""
    """A line on what the stage does or did."""

    @property
    def is_under_way(self) -> bool:
        """Whether the stage runs, or waits for a retry."""
        return self.status in ("running", "retrying")

    def measure_seconds(self, now: float) -> float | None:
        """Return for how many seconds the stage has run; None if it has not started."""
        if self.start_time is None:
            return None
        return max(0.0, (self.end_time or now) - self.start_time)


def name_stage(step: str) -> str:
    """Return the name of a step without its pipeline: interactions, or home/recommendations.

    step: the key of the step, which starts with the pipeline's prefix.
    """
    return "/".join(step.split("__")[1:]) or step


def summarize_metadata(metadata: Mapping[str, Any]) -> str:
    """Return a few words on what an asset did, from its metadata."""
    outcome = str(metadata.get("outcome", ""))
    rows: Any = metadata.get("dagster/row_count")
    users: Any = metadata.get("users")
    # An outcome with a reason, such as "unchanged: not trained again", says more than numbers.
    if ": " in outcome or (rows is None and users is None):
        return outcome
    if "rows_read" in metadata:
        return f"{rows:,} of {metadata['rows_read']:,} rows kept"
    # The outcomes have no rows until somebody has used the lists.
    if rows == 0 and users is None:
        return "nothing yet"
    if rows is None or rows == users:
        return format_count(users, "user")
    if users is None:
        return format_count(rows, "row")
    return f"{format_count(rows, 'row')} for {format_count(users, 'user')}"
