"""Progress of a long job, logged every few seconds: how much is done, how fast, the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

EVERY_SECONDS = 10.0


@dataclass
class Progress:
    """Logs progress over `total` things named `what`, such as "lines of s3://b/users.json"."""

    what: str
    total: int
    log: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _began: float = field(init=False)
    _last_logged: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._last_logged = self.clock()

    def add(self, count: int) -> None:
        """Count more as done; logs at most every EVERY_SECONDS."""
        self.done += count
        now = self.clock()
        if now - self._last_logged < EVERY_SECONDS:
            return
        self._last_logged = now
        rate = self.done / (now - self._began)
        left = (self.total - self.done) / rate if rate else 0.0
        self.log(
            f"{self.done:,} of {self.total:,} {self.what}, {rate:,.0f} a second,"
            f" about {left:,.0f} s left"
        )

    def end(self) -> None:
        seconds = self.clock() - self._began
        rate = f", {self.done / seconds:,.0f} a second" if seconds > 0 else ""
        self.log(f"{self.done:,} {self.what} in {seconds:.1f} s{rate}")
