"""Parallel maps over a thread pool whose results do not depend on the number of cores.

BLAS rounds differently with one thread and with two. So the size of the problem alone decides how
the work is cut, and BLAS runs in one thread. NumPy and SciPy release the GIL while they work.
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


def count_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _SingleThreadedBlas:
    """A context in which BLAS uses one thread.

    The limit is that of the process: the first to enter sets it, the last to leave lifts it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # How many threads are in the context.
        self._entered = 0
        # How many modules Python had loaded when the BLAS libraries were last searched for.
        self._loaded_modules = 0
        self._limits: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._entered == 0:
                # Searching all loaded libraries takes milliseconds, so it is repeated only if a
                # module was imported, which may have brought a BLAS with it.
                if self._loaded_modules != len(sys.modules):
                    self._controller = ThreadpoolController()
                    self._loaded_modules = len(sys.modules)
                self._limits = self._controller.limit(limits=1)
            self._entered += 1
        try:
            yield
        finally:
            with self._lock:
                self._entered -= 1
                if self._entered == 0:
                    self._limits.restore_original_limits()


single_threaded_blas = _SingleThreadedBlas()


def ordered_map(work: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
    """`map` over all cores, with the results in order.

    About two inputs per core are in flight. Inputs are taken as results are read, so both may be
    streams larger than memory.
    """
    workers = count_cores()
    waiting: deque[Future[R]] = deque()
    with single_threaded_blas(), ThreadPoolExecutor(workers) as pool:
        try:
            for value in inputs:
                waiting.append(pool.submit(work, value))
                if len(waiting) > 2 * workers - 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def for_each(work: Callable[[T], object], inputs: Iterable[T]) -> None:
    """Do the work on every input, over all cores. Raises what the work raises."""
    for _ in ordered_map(work, inputs):
        pass


def split_rows(
    starts: npt.NDArray[np.signedinteger], entries: int, max_rows: int | None = None
) -> list[slice]:
    """Ranges of rows with at most `entries` entries each, or of one row if that has more.

    starts: (rows + 1,): row r has the entries starts[r]:starts[r + 1].
    max_rows: how many rows a range may have; without a limit if None.
    """
    ranges = []
    first = 0
    rows = len(starts) - 1
    while first < rows:
        end = int(np.searchsorted(starts, starts[first] + entries, side="right")) - 1
        end = min(rows, first + (max_rows or rows), max(first + 1, end))
        ranges.append(slice(first, end))
        first = end
    return ranges
