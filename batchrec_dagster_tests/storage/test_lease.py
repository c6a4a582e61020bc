"""One run at a time works at a step: on a folder and on a real S3 server."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.storage.lease import Lease
from batchrec_dagster.storage.object_store import ObjectInfo, ObjectStore, StorageError
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server

LONG = 1_000.0


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ObjectStore, str]:
    if request.param == "folder":
        return ObjectStore({"b": tmp_path}), "s3://b/shop/leases/step/"
    server: S3Server = request.getfixturevalue("s3")
    return server.store(), f"s3://{server.create_bucket()}/shop/leases/step/"


@pytest.fixture
def folder(tmp_path: Path) -> tuple[ObjectStore, str]:
    return ObjectStore({"b": tmp_path}), "s3://b/shop/leases/step/"


def lease(place: tuple[ObjectStore, str], owner: str = "us", **options: Any) -> Lease:
    log = logging.getLogger("test")
    options = {"deadline_seconds": LONG, "poll_seconds": 0.01, **options}
    return Lease(place[0], place[1], owner, log, **options)


def write_foreign_lease(place: tuple[ObjectStore, str], number: int = 1) -> None:
    """Writes a lease of a process on another machine, which is never renewed."""
    lease_content = {"owner": "them", "renewals": 3, "pid": 1, "machine": "other pid:[1]"}
    place[0].put(f"{place[1]}{number:06}.json", json.dumps(lease_content).encode())


def wait_for_message(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Returns as soon as the log has this text."""
    give_up = time.monotonic() + 300
    while text not in caplog.text:
        assert time.monotonic() < give_up, caplog.text
        time.sleep(0.01)


def test_one_at_a_time_has_it(place: tuple[ObjectStore, str]) -> None:
    owners_inside, counts_inside = [], []

    def work(owner: int) -> None:
        for _ in range(3):
            with lease(place, str(owner)).hold():
                owners_inside.append(owner)
                counts_inside.append(len(owners_inside))
                time.sleep(0.002)
                owners_inside.remove(owner)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert counts_inside == [1] * 12
    assert place[0].list(place[1]) == []


def test_a_lease_that_is_released_while_it_is_looked_at_goes_to_one_run(tmp_path: Path) -> None:
    first, third = ExitStack(), ExitStack()

    class Slow(ObjectStore):
        """Between its look at the first run's lease and its next step, a third run gets it."""

        def list(self, prefix: str) -> list[ObjectInfo]:
            objects = super().list(prefix)
            first.close()
            return objects

        def get(self, uri: str) -> bytes:
            try:
                return super().get(uri)
            finally:
                if not holds and not super().list(place[1]):
                    holds.append(third.enter_context(lease(place, "third").hold()))

    holds: list[None] = []
    place = ObjectStore({"b": tmp_path}), "s3://b/shop/leases/step/"
    first.enter_context(lease(place, "first").hold())
    slow = lease((Slow({"b": tmp_path}), place[1]), "second", deadline_seconds=2)
    with third, pytest.raises(StorageError, match=r"run third .*is still working"), slow.hold():
        pass
    assert holds


def test_a_stale_takeover_leaves_a_living_run_its_lease(
    folder: tuple[ObjectStore, str],
) -> None:
    write_foreign_lease(folder)
    stale = lease(folder, "stale")
    dead = folder[0].get(f"{folder[1]}000001.json")
    with lease(folder, "other", expires_seconds=0).hold():
        pass
    with lease(folder, "living").hold():
        assert not stale._try_to_create(2, dead)
        assert [info.uri for info in folder[0].list(folder[1])] == [f"{folder[1]}000001.json"]


def test_another_waits_says_for_whom_and_has_it_next(
    folder: tuple[ObjectStore, str], caplog: pytest.LogCaptureFixture
) -> None:
    order = []

    def work() -> None:
        with lease(folder, "second").hold():
            order.append("second")

    second = threading.Thread(target=work)
    with caplog.at_level(logging.INFO), lease(folder, "first").hold():
        second.start()
        wait_for_message(caplog, "run first (process")
        order.append("first")
    second.join()
    assert order == ["first", "second"]
    assert "which is working on this" in caplog.text
    assert "dead" not in caplog.text


def test_a_step_that_fails_gives_it_up(folder: tuple[ObjectStore, str]) -> None:
    with pytest.raises(ZeroDivisionError), lease(folder).hold():
        raise ZeroDivisionError
    assert folder[0].list(folder[1]) == []


HOLDING = """
import logging, sys, time
from pathlib import Path
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.lease import Lease
store = ObjectStore({"b": Path(sys.argv[1])})
with Lease(store, sys.argv[2], "killed", logging.getLogger(), 1000).hold():
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.mark.slow
def test_the_lease_of_a_process_that_was_killed_is_taken_at_once(
    folder: tuple[ObjectStore, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path), folder[1]], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with caplog.at_level(logging.INFO), lease(folder, expires_seconds=LONG).hold():
        assert "run killed (process" in caplog.text
        assert "is dead: taking over" in caplog.text
        # Nothing is left of leases that were superseded.
        assert len(folder[0].list(folder[1])) == 1
    assert folder[0].list(folder[1]) == []


def test_a_lease_of_another_machine_expires_when_nothing_is_heard(
    place: tuple[ObjectStore, str], caplog: pytest.LogCaptureFixture
) -> None:
    write_foreign_lease(place)
    with caplog.at_level(logging.INFO), lease(place, expires_seconds=0.1).hold():
        pass
    assert "run them (process 1 on other) is dead: taking over" in caplog.text


def test_a_lease_that_is_renewed_does_not_expire(
    folder: tuple[ObjectStore, str], caplog: pytest.LogCaptureFixture
) -> None:
    stop_event = threading.Event()

    def renew() -> None:
        # Another machine would renew so, whatever its clock says.
        renewals = 0
        while not stop_event.wait(0.01):
            renewals += 1
            lease_content = {"owner": "them", "renewals": renewals, "pid": 1, "machine": "other"}
            folder[0].put(f"{folder[1]}000001.json", json.dumps(lease_content).encode())

    write_foreign_lease(folder)
    other = threading.Thread(target=renew)
    other.start()
    waiting = lease(folder, expires_seconds=5, deadline_seconds=0.3)
    with pytest.raises(StorageError, match=r"run them .* is still working on this"):
        waiting.hold().__enter__()
    stop_event.set()
    other.join()
    assert "dead" not in caplog.text


def test_a_holder_that_was_superseded_is_warned_and_deletes_nothing(
    folder: tuple[ObjectStore, str], caplog: pytest.LogCaptureFixture
) -> None:
    with lease(folder, renew_seconds=0.01).hold():
        write_foreign_lease(folder, number=2)
        wait_for_message(caplog, "another run has taken over")
    assert [info.uri for info in folder[0].list(folder[1])] == [f"{folder[1]}000002.json"]


def test_a_number_that_was_superseded_is_no_lease(
    folder: tuple[ObjectStore, str], caplog: pytest.LogCaptureFixture
) -> None:
    # Number 1 is free to be created: the owner of number 2 has cleared it away.
    write_foreign_lease(folder, number=2)
    with pytest.raises(StorageError, match=r"run them .* is still working"):
        lease(folder, deadline_seconds=0.05).hold().__enter__()
    assert [info.uri for info in folder[0].list(folder[1])] == [f"{folder[1]}000002.json"]


def test_a_storage_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"cannot write s3://b/shop/leases/step/000001\.json"):
        lease((ObjectStore({"b": tmp_path}), "s3://b/shop/leases/step/")).hold().__enter__()


@pytest.mark.slow
def test_a_run_waits_for_the_one_that_trains_and_finds_it_done(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declaration("shop", write_ratings(project.root / "ratings.csv")))
    results = []
    with definitions(project) as defs:
        job = defs.resolve_job_def("shop_refresh")

    def run() -> None:
        results.append(job.execute_in_process(instance=instance, raise_on_error=False))

    def is_waiting() -> bool:
        return any(
            "which is working on this" in entry.user_message
            for record in instance.get_run_records()
            for entry in instance.all_logs(record.dagster_run.run_id)
        )

    store = ObjectStore({"b": project.storage})
    first = lease((store, "s3://b/shop/leases/solution_version/"), "another")
    second = threading.Thread(target=run)
    with first.hold():
        second.start()
        give_up = time.monotonic() + 300
        while not is_waiting():
            assert time.monotonic() < give_up
            assert second.is_alive(), [why(result) for result in results]
            time.sleep(0.1)
    second.join()
    assert [result.success for result in results] == [True]
    assert metadata(results[0], "solution_version")["outcome"] == "trained"
    assert refresh(project, "shop", instance).success
    assert store.list("s3://b/shop/leases/") == []
