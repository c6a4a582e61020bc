"""One run at a time works at a step: on a folder and on a real S3 server."""

from __future__ import annotations

import json
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.lock import Lease
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore
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
    with third, pytest.raises(UserError, match=r"run third .*is still working"), slow.hold():
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
    with pytest.raises(UserError, match=r"run them .* is still working"):
        lease(folder, deadline_seconds=0.05).hold().__enter__()
    assert [info.uri for info in folder[0].list(folder[1])] == [f"{folder[1]}000002.json"]
