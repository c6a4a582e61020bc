"""Tests of faults other than kills.

The faults are throttling, errors, cut connections, refused keys, jobs that fail or do not end, a
full disk, and a clock that is set back. The last good lists stay, and nothing is done twice.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import dagster as dg
import pytest
from polars.testing import assert_frame_equal

from batchrec_dagster_tests.guard.builders import (
    Project,
    module_project,
    open_personalize,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.proxy import (
    RESET,
    Proxy,
    personalize_error,
    proxy,
    s3_error,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.night import Night, made_once, night
from batchrec_dagster_tests.guard.servers.s3 import READER, S3Server

pytestmark = pytest.mark.slow

BURST_SECONDS = 1
PERSONALIZE = (
    personalize_error("400 Bad Request", "ThrottlingException"),
    personalize_error("500 Internal Server Error", "InternalServerError"),
    RESET,
)
S3 = (
    s3_error("503 Slow Down", "SlowDown"),
    s3_error("500 Internal Server Error", "InternalError"),
    RESET,
)


@contextmanager
def behind_proxies(folder: Path, s3: S3Server) -> Iterator[tuple[Night, Proxy, Proxy]]:
    """Yield a night that reaches S3 and Personalize through proxies, and the two proxies."""
    with (
        proxy(s3.endpoint) as to_s3,
        night(folder, s3, s3_endpoint=to_s3.address) as shop,
        proxy(f"http://127.0.0.1:{shop.port}") as to_personalize,
    ):
        shop.start_personalize()
        shop.environment["BATCHREC_PERSONALIZE"] = to_personalize.address
        yield shop, to_s3, to_personalize


@nightly("runs on servers of their own")
def test_a_minute_of_throttling_errors_and_cut_connections_is_sat_out(
    tmp_path: Path, s3: S3Server
) -> None:
    with behind_proxies(tmp_path, s3) as (shop, to_s3, to_personalize):
        run = shop.start_run()
        for faults, before in ((PERSONALIZE, to_personalize), (S3, to_s3)):
            for fault in faults:
                burst(before, fault)
        assert not run.end()
        assert to_personalize.refused + to_s3.refused
        assert_frame_equal(shop.lists(), shop.make_expected_lists(tmp_path / "expected"))
        assert shop.count_jobs() == made_once(1)


def test_answers_that_are_lost_lead_to_nothing_twice(tmp_path: Path, s3: S3Server) -> None:
    with behind_proxies(tmp_path, s3) as (shop, to_s3, to_personalize):
        for before in (to_s3, to_personalize):
            before.unheard = cycle([False] * 3 + [True])
        assert not shop.start_run().end()
        assert to_s3.lost
        assert to_personalize.lost
        assert_frame_equal(shop.lists(), shop.make_expected_lists(tmp_path / "expected"))
        assert shop.count_jobs() == made_once(1)


def burst(before: Proxy, fault: bytes) -> None:
    """Answer only with the fault for a while, after some time for normal work."""
    time.sleep(0.5)
    before.misbehave(fault)
    time.sleep(BURST_SECONDS)
    before.misbehave(None)


@nightly("runs on servers of their own")
def test_credentials_that_expire_stop_the_run_and_new_ones_go_on(
    tmp_path: Path, s3: S3Server
) -> None:
    with (
        night(tmp_path, s3) as shop,
        proxy(f"http://127.0.0.1:{shop.port}") as to_personalize,
    ):
        shop.start_personalize()
        assert not shop.start_run().end()
        good = shop.lists()
        shop.new_data(1)
        shop.environment["BATCHREC_PERSONALIZE"] = to_personalize.address
        to_personalize.misbehave(personalize_error("400 Bad Request", "ExpiredTokenException"))
        assert "ExpiredTokenException" in shop.start_run().end()
        assert_frame_equal(shop.lists(), good)
        to_personalize.misbehave(None)
        assert not shop.start_run().end()
        assert_frame_equal(shop.lists(), shop.make_expected_lists(tmp_path / "expected"))
        assert shop.count_jobs() == made_once(2)


@nightly("runs on servers of their own")
def test_a_job_that_fails_is_reported_and_made_again(tmp_path: Path, s3: S3Server) -> None:
    with night(tmp_path, s3) as shop:
        shop.start_personalize()
        assert not shop.start_run().end()
        good = shop.lists()
        shop.new_data(1)
        shop.kill_personalize()
        shop.start_personalize(keys=READER)  # The job cannot write the lists.
        failure = shop.start_run().end()
        assert "batch inference job failed: " in failure
        assert "then run again: it creates a new one" in failure
        assert_frame_equal(shop.lists(), good)
        shop.kill_personalize()
        shop.start_personalize()
        assert not shop.start_run().end()
        assert_frame_equal(shop.lists(), shop.make_expected_lists(tmp_path / "expected"))
        # The first run did not start the job once more, because its failure would have repeated.
        assert shop.count_jobs() == {**made_once(2), "failed lists": 1}


@nightly("runs on servers of their own")
def test_a_job_that_does_not_end_is_given_up_and_found_again(tmp_path: Path, s3: S3Server) -> None:
    with night(tmp_path, s3) as shop:
        shop.start_personalize(is_idle=True)
        failure = shop.start_run(BATCHREC_DEADLINE_HOURS="0.0005").end()
        assert "is CREATE" in failure
        assert "hours. Personalize keeps working" in failure
        shop.kill_personalize()
        shop.start_personalize()
        assert not shop.start_run().end()
        assert_frame_equal(shop.lists(), shop.make_expected_lists(tmp_path / "expected"))
        assert shop.count_jobs() == made_once(1)


def count_jobs(project: Project) -> dict[str, int]:
    """Return the numbers of Night.count_jobs for an embedded Personalize."""
    client = open_personalize(project)
    return {
        "import": len(client.list_dataset_import_jobs()["datasetImportJobs"]),
        "training": len(client.list_solution_versions()["solutionVersions"]),
        "lists": len(client.list_batch_inference_jobs()["batchInferenceJobs"]),
    }


@pytest.mark.usefixtures("first_run_of_shop")
def test_a_clock_that_is_set_back_misleads_nobody(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_lists = table(project, "shop")

    write_ratings(project.root / "ratings.csv", seed=1)
    real_time = time.time
    monkeypatch.setattr("time.time", lambda: real_time() - 86_400)
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    second = table(project, "shop")
    assert not second.equals(first_lists)
    assert count_jobs(project) == made_once(2)

    monkeypatch.undo()
    assert refresh(project, "shop", instance).success
    assert table(project, "shop").equals(second)
    assert count_jobs(project) == made_once(2)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small file system in the folder. Skips the test if mounting is not permitted."""
    folder.mkdir()
    mount = shutil.which("mount")
    options = f"size={megabytes}m"
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode
    ):
        pytest.skip("a small disk cannot be mounted: run the tests as root, outside a sandbox")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    tmp_path: Path, first_run: FirstRun, instance: dg.DagsterInstance
) -> None:
    with small_disk(tmp_path / "disk", 60):
        project = module_project(tmp_path / "disk")
        first_run.copy_to(project, instance)
        good = table(project, "shop")
        write_ratings(project.root / "ratings.csv", seed=1)
        filler = tmp_path / "disk/filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(60 << 20))
        failed_result = refresh(project, "shop", instance)
        assert not failed_result.success
        assert "No space left on device" in why(failed_result)
        assert table(project, "shop").equals(good)
        filler.unlink()
        assert refresh(project, "shop", instance).success
        assert not table(project, "shop").equals(good)
        assert count_jobs(project) == made_once(2)
