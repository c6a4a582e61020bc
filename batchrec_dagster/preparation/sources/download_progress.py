"""Shows the progress of a download: by a bar on a terminal, and elsewhere by lines in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOG_LINES = 10.0


@contextmanager
def show_progress(url: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of bytes received since the last call."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(url.rpartition("/")[2], total=total, completed=start)
            yield lambda size: bar.advance(task, size)
        return

    of_total = "" if total is None else f" of {total / 1e6:.1f} MB"
    have, next_line = start, monotonic()

    def advance(size: int) -> None:
        nonlocal have, next_line
        have += size
        if monotonic() >= next_line:
            log.info("downloading %s: %.1f MB%s", url, have / 1e6, of_total)
            next_line = monotonic() + SECONDS_BETWEEN_LOG_LINES

    yield advance
