"""All cores, one way: fixed pieces of work over a thread pool, each computed by one thread.

BLAS rounds differently with one thread and with two. Here the pieces are cut by the size of the
problem and BLAS is held to one thread, so the bytes do not depend on how many cores there are.
numpy and scipy let go of the GIL in what the pieces do.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _SingleThreadedBlas:
    """The limit is the process's, so overlapping users share it: first in sets, last out lifts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limits: threadpool_limits | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._limits = threadpool_limits(1)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._limits is not None:
                    self._limits.restore_original_limits()
                    self._limits = None


single_threaded_blas = _SingleThreadedBlas()


def ordered_map(work: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
    """`map` over all cores, results in order; at most one finished result a core waits to be read.

    Takes pieces as results are read, so both may be streams larger than memory.
    """
    workers = cores()
    waiting: deque[Future[R]] = deque()
    with single_threaded_blas(), ThreadPoolExecutor(workers) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * workers - 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def each(work: Callable[[T], object], pieces: Iterable[T]) -> None:
    """Do the work on every piece, over all cores; raises what the work raised."""
    for _ in ordered_map(work, pieces):
        pass


def pieces(
    starts: npt.NDArray[np.signedinteger], entries: int, most: int | None = None
) -> list[slice]:
    """Ranges of rows with about `entries` entries each, and `most` rows; at least one row.

    The entries of row r are starts[r] to before starts[r + 1].
    """
    found, first, rows = [], 0, len(starts) - 1
    while first < rows:
        last = int(np.searchsorted(starts, starts[first] + entries, side="right")) - 1
        last = min(rows, first + (most or rows), max(first + 1, last))
        found.append(slice(first, last))
        first = last
    return found
