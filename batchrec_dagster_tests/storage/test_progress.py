"""Tests of the progress log of a long job."""

from __future__ import annotations

from batchrec_dagster.storage.progress import EVERY_SECONDS, Progress


def test_the_rate_and_the_time_left_are_logged_at_intervals() -> None:
    messages: list[str] = []
    clock = [0.0]
    progress = Progress("lines", 3_000_000, messages.append, clock=lambda: clock[0])
    for seconds in (1.0, EVERY_SECONDS, EVERY_SECONDS + 1, 2 * EVERY_SECONDS):
        clock[0] = seconds
        progress.add(250_000)
    clock[0] = 25.0
    progress.add(2_000_000)
    progress.end()
    assert messages == [
        "500,000 of 3,000,000 lines, 50,000 a second, about 50 s left",
        "1,000,000 of 3,000,000 lines, 50,000 a second, about 40 s left",
        "3,000,000 lines in 25.0 s, 120,000 a second",
    ]
