"""Parallel maps over a thread pool whose results do not depend on the number of cores.

BLAS rounds differently with one thread and with two. Here the size of the problem alone decides
how the work is cut, and BLAS runs in one thread. numpy and scipy release the GIL meanwhile.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _SingleThreadedBlas:
    """The limit is per process: the first to enter sets it, the last to leave lifts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._modules = 0
        self._limits: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                # A look at all loaded libraries takes milliseconds; BLAS's come with a module.
                if self._modules != len(sys.modules):
                    self._controller, self._modules = ThreadpoolController(), len(sys.modules)
                self._limits = self._controller.limit(limits=1)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._limits.restore_original_limits()


single_threaded_blas = _SingleThreadedBlas()


def ordered_map(work: Callable[[T], R], row_ranges: Iterable[T]) -> Iterator[R]:
    """`map` over all cores, results in order; about two pieces per core are in flight.

    It takes pieces as results are read, so both may be streams larger than memory.
    """
    workers = cores()
    waiting: deque[Future[R]] = deque()
    with single_threaded_blas(), ThreadPoolExecutor(workers) as pool:
        try:
            for piece in row_ranges:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * workers - 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def for_each(work: Callable[[T], object], row_ranges: Iterable[T]) -> None:
    """Do the work on every piece, over all cores; raises what the work raises."""
    for _ in ordered_map(work, row_ranges):
        pass


def row_ranges(
    starts: npt.NDArray[np.signedinteger], entries: int, most: int | None = None
) -> list[slice]:
    """Ranges of rows with about `entries` entries and at most `most` rows each, one row at least.

    Row r has the entries starts[r]:starts[r + 1].
    """
    found, first, rows = [], 0, len(starts) - 1
    while first < rows:
        last = int(np.searchsorted(starts, starts[first] + entries, side="right")) - 1
        last = min(rows, first + (most or rows), max(first + 1, last))
        found.append(slice(first, last))
        first = last
    return found
