"""Parallel maps use no more threads than cores."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from batchrec_dagster.local_personalize.learning import serving, threads
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of, lists, tastes


def blas_threads() -> set[int]:
    """The thread limits of the BLAS libraries in this process."""
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


def test_pieces_use_one_blas_thread_each_and_no_more_threads_than_cores() -> None:
    before = blas_threads()
    thread_counts: set[int] = set()
    running_counts: list[int] = []
    most = 0
    lock = threading.Lock()

    def work(piece: int) -> int:
        nonlocal most
        with lock:
            running_counts.append(piece)
            most = max(most, len(running_counts))
            thread_counts.update(blas_threads())
        time.sleep(0.001)
        with lock:
            running_counts.remove(piece)
        return piece

    assert list(threads.ordered_map(work, range(20))) == list(range(20))
    assert thread_counts == {1}
    assert most <= threads.count_cores()
    assert blas_threads() == before


def test_libraries_are_looked_for_where_modules_were_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[object] = []

    def make_controller() -> ThreadpoolController:
        looks.append(None)
        return ThreadpoolController()

    monkeypatch.setattr(threads, "ThreadpoolController", make_controller)
    for module_number in (1, 1, 2, 2):
        monkeypatch.setitem(sys.modules, f"batchrec_dagster.imported_{module_number}", threads)
        before = blas_threads()
        with threads.single_threaded_blas():
            assert blas_threads() == {1}
        assert blas_threads() == before
    assert len(looks) == 2


def test_training_and_serving_use_no_more_threads_than_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine of three cores."""
    monkeypatch.setattr(threads, "count_cores", lambda: 3)
    monkeypatch.setattr(serving, "EFFICIENT_CHUNK", 8)
    monkeypatch.setattr(serving, "CHUNK_SCORES", 50)
    data = interactions_of(tastes())
    counts: list[int] = []
    stop_event = threading.Event()
    earlier_threads = set(threading.enumerate())  # of clients that an earlier test left open

    def watch() -> None:
        while not stop_event.wait(0.001):
            counts.append(
                sum(
                    thread.name.startswith("ThreadPoolExecutor")
                    for thread in set(threading.enumerate()) - earlier_threads
                )
            )

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        model = train("aws-user-personalization-v2", data, {}).model
        assert lists(model, list(data.user_ids), data, 5)
    finally:
        stop_event.set()
        watcher.join()
    assert 0 < max(counts) <= 3


def test_pieces_have_the_requested_number_of_entries() -> None:
    starts = np.array([0, 2, 2, 9, 10, 11])
    assert threads.split_rows(starts, 3) == [slice(0, 2), slice(2, 3), slice(3, 5)]
    assert threads.split_rows(starts, 100, max_rows=2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert threads.split_rows(np.array([0]), 3) == []
