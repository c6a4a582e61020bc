"""How far a long job is, told now and then: how much is done, how fast, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from batchrec_dagster.local_personalize.catalog.kinds import Lane

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


EVERY_SECONDS = 10.0


@dataclass
class Progress:
    """Counts what is done of `total` things named `what`, such as "lines of s3://b/users.json"."""

    what: str
    total: int
    log: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _began: float = field(init=False)
    _told: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._told = self.clock()

    def add(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        now = self.clock()
        if now - self._told < EVERY_SECONDS:
            return
        self._told = now
        rate = self.done / (now - self._began)
        left = (self.total - self.done) / rate if rate else 0.0
        self.log(
            f"{self.done:,} of {self.total:,} {self.what}, {rate:,.0f} a second,"
            f" about {left:,.0f} s left"
        )

    def end(self) -> None:
        """All is done."""
        seconds = self.clock() - self._began
        rate = f", {self.done / seconds:,.0f} a second" if seconds > 0 else ""
        self.log(f"{self.done:,} {self.what} in {seconds:.1f} s{rate}")
