"""A parallel `map` over all cores.

Threads are enough, because NumPy and SciPy release the GIL while they work.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _OneBlasThread:
    """A context that limits BLAS to one thread, because this module's threads all call BLAS.

    The limit applies to the whole process. The first thread that enters the context sets it, and
    the last thread that leaves lifts it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._limits: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._entered == 0:
                self._limits = threadpool_limits(limits=1)
            self._entered += 1
        try:
            yield
        finally:
            with self._lock:
                self._entered -= 1
                if self._entered == 0:
                    self._limits.restore_original_limits()


one_blas_thread = _OneBlasThread()


def ordered_map(work: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
    """Yield the result of `work` for each input, in order, computed on all cores.

    About two inputs per core are in flight. Inputs are taken as results are read, so inputs and
    results may be streams larger than memory.
    """
    workers = count_cores()
    waiting: deque[Future[R]] = deque()
    with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            for value in inputs:
                waiting.append(pool.submit(work, value))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
