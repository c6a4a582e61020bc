"""How long work seems to take: as long as it takes, or as long as on AWS, for a rehearsal.

The minutes are those of the walkthroughs that AWS publishes: an import about 8, a training about
20, a batch job about 30; the short kinds take about one.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchrec_dagster.local_personalize.kinds import Lane

_MINUTES = {Lane.QUICK: 1.0, Lane.IMPORT: 8.0, Lane.TRAINING: 20.0, Lane.INFERENCE: 30.0}
_SHARE_PENDING = 0.25  # of the time until it is ACTIVE, a job is CREATE PENDING


@dataclass(frozen=True)
class Pace:
    """`of_aws` is the share of the time on AWS that work takes at least: 0 none, 1 all of it."""

    of_aws: float = 0.0

    def pending_seconds(self, lane: Lane) -> float:
        """How long work waits at least before it begins."""
        return self._seconds(lane) * _SHARE_PENDING

    def in_progress_seconds(self, lane: Lane) -> float:
        """How long work goes on at least once it has begun."""
        return self._seconds(lane) * (1 - _SHARE_PENDING)

    def _seconds(self, lane: Lane) -> float:
        return 60 * _MINUTES[lane] * self.of_aws
