"""Tests that a single process at a time works at a step, in a folder and in a bucket."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.guard.seams.store import StorageError, Store
from batchrec_dagster_tests.guard.servers.s3 import S3Server

LONG_SECONDS = 1_000.0
HOLD = """
import json, sys, time
from batchrec_dagster_tests.guard.seams.store import Store
root, environment = json.loads(sys.argv[1])
with Store.open(root, environment).lock("step", "other"):
    print("held", flush=True)
    time.sleep(1000)
"""


@dataclass(frozen=True)
class Place:
    """The location of a lock, in a form that another process understands."""

    root: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store.open(self.root, self.environment)

    @contextmanager
    def hold_elsewhere(self) -> Iterator[subprocess.Popen[str]]:
        """Yield another process that holds the lock, and kill it at the end of the block."""
        command = [sys.executable, "-c", HOLD, json.dumps([self.root, dict(self.environment)])]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == "held\n"
                yield other
            finally:
                other.kill()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(str(tmp_path / "storage"))
    s3: S3Server = request.getfixturevalue("s3")
    return Place(f"s3://{s3.create_bucket()}/prefix", s3.environment())


def test_one_at_a_time_has_it(place: Place) -> None:
    inside: list[int] = []
    most_inside: list[int] = []

    def work(owner: int) -> None:
        store = place.store
        for _ in range(3):
            with store.lock("step", f"run {owner}"):
                inside.append(owner)
                most_inside.append(len(inside))
                time.sleep(0.002)
                inside.remove(owner)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most_inside == [1] * 12


def test_each_step_has_a_lock_of_its_own(place: Place) -> None:
    with place.store.lock("step", "one"), place.store.lock("other", "two", wait_seconds=0):
        pass


def test_a_second_holder_waits_and_gets_the_lock_next(place: Place) -> None:
    order: list[str] = []

    def work() -> None:
        with place.store.lock("step", "second"):
            order.append("second")

    second = threading.Thread(target=work)
    with place.store.lock("step", "first"):
        second.start()
        second.join(0.3)
        order.append("first")
    second.join()
    assert order == ["first", "second"]


def test_an_expired_wait_names_the_holder_of_the_lock(place: Place) -> None:
    with (
        place.store.lock("step", "that-long-run"),
        pytest.raises(StorageError, match="that-long-run"),
        place.store.lock("step", "us", wait_seconds=0.05),
    ):
        pass


def test_a_step_that_fails_gives_it_up(place: Place) -> None:
    with pytest.raises(ZeroDivisionError), place.store.lock("step", "first"):
        raise ZeroDivisionError
    with place.store.lock("step", "second", wait_seconds=0):
        pass


def test_a_process_keeps_it_while_it_lives_and_no_longer(place: Place) -> None:
    with place.hold_elsewhere() as other:
        with pytest.raises(StorageError), place.store.lock("step", "us", wait_seconds=0.05):
            pass
        other.kill()
        other.wait()
        with place.store.lock("step", "us", expires_seconds=1, wait_seconds=60):
            pass


def test_a_lock_that_is_renewed_does_not_expire(place: Place) -> None:
    with (
        place.store.lock("step", "living", renew_seconds=0.05),
        pytest.raises(StorageError, match="living"),
        place.store.lock("step", "us", expires_seconds=2, wait_seconds=3),
    ):
        pass


def test_in_a_bucket_a_lock_that_nobody_renews_expires(s3: S3Server) -> None:
    """Another machine held the lock, and has stopped renewing it."""
    store = Place(f"s3://{s3.create_bucket()}", s3.environment()).store
    with (
        store.lock("step", "silent", renew_seconds=LONG_SECONDS),
        store.lock("step", "us", expires_seconds=0.2, wait_seconds=60),
    ):
        pass


def test_a_process_that_lost_its_lock_publishes_nothing(s3: S3Server) -> None:
    """The process was frozen until its lock had expired."""
    store = Place(f"s3://{s3.create_bucket()}", s3.environment()).store
    with (
        store.lock("step", "frozen", renew_seconds=LONG_SECONDS) as frozen,
        store.lock("step", "next", expires_seconds=0.2, wait_seconds=60) as lock,
    ):
        lock.require_held()
        with pytest.raises(StorageError, match="another run has taken over"):
            frozen.require_held()
    with store.lock("step", "us", wait_seconds=0) as lock:
        lock.require_held()


def test_the_holder_of_a_deleted_lock_publishes_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with store.lock("step", "first") as first:
        first.require_held()
        store.delete("shop/locks/step.lock")
        with store.lock("step", "second", wait_seconds=0) as second:
            second.require_held()
            with pytest.raises(StorageError, match="another run has taken over"):
                first.require_held()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_lock_is_nobodys(s3: S3Server, content: bytes) -> None:
    store = Place(f"s3://{s3.create_bucket()}", s3.environment()).store
    store.put("shop/locks/step.lock", content)
    with (
        pytest.raises(StorageError, match=r"step.lock is damaged is still working on this"),
        store.lock("step", "us", wait_seconds=0),
    ):
        pass
    with store.lock("step", "us", expires_seconds=0.05, wait_seconds=60):
        pass


def test_a_storage_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="cannot write"), Store.open(tmp_path).lock("a", "us"):
        pass
