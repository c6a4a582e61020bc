"""Log lines on the progress of a long job: the units done, the speed and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

EVERY_SECONDS = 10.0


@dataclass
class Progress:
    """A counter that logs how many of `total` units a job has processed."""

    unit: str
    """The name of the counted units, such as "lines of s3://b/users.json"."""
    total: int
    log: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    count: int = 0
    """The number of processed units."""
    _start: float = field(init=False)
    _last_logged: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self._last_logged = self.clock()

    def add(self, count: int) -> None:
        """Count this many more units as processed, and log the progress.

        There is at most one log line in EVERY_SECONDS.
        """
        self.count += count
        now = self.clock()
        if now - self._last_logged < EVERY_SECONDS:
            return
        self._last_logged = now
        rate = self.count / (now - self._start)
        seconds_left = (self.total - self.count) / rate if rate else 0.0
        self.log(
            f"{self.count:,} of {self.total:,} {self.unit}, {rate:,.0f} a second,"
            f" about {seconds_left:,.0f} s left"
        )

    def end(self) -> None:
        """Log the total and the mean speed."""
        seconds = self.clock() - self._start
        rate = f", {self.count / seconds:,.0f} a second" if seconds > 0 else ""
        self.log(f"{self.count:,} {self.unit} in {seconds:.1f} s{rate}")
