"""Tests of two runs of a pipeline at once: the second waits, and finds the work done."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    count_created,
    declaration,
    definitions,
    open_personalize,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.seams.publishing import Editions
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.night import count_personalize_jobs, made_once

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 300


def read_edition(project: Project) -> int | None:
    live = Editions(Store.open(project.storage)).live()
    return None if live is None else live.number


@pytest.mark.usefixtures("first_run_of_shop")
def test_two_runs_at_once_make_and_publish_everything_once(project: Project) -> None:
    before = table(project, "shop")
    write_ratings(project.root / "ratings.csv", seed=1)
    with definitions(project) as defs:
        job = defs.resolve_job_def("shop_refresh")

        def run(_: int) -> bool:
            # Threads that share an instance in memory block each other by table locks.
            with dg.DagsterInstance.ephemeral() as instance:
                return job.execute_in_process(instance=instance, raise_on_error=False).success

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(run, range(2))) == [True, True]
    assert read_edition(project) == 2
    assert not table(project, "shop").equals(before)
    assert count_personalize_jobs(open_personalize(project)) == made_once(2)


def test_a_run_waits_for_another_that_trains(project: Project) -> None:
    project.declare(declaration("shop", write_ratings(project.root / "ratings.csv")))
    results: list[dg.ExecuteInProcessResult] = []
    with definitions(project) as defs:
        job = defs.resolve_job_def("shop_refresh")
    # The instance is in files, because another thread reads while the run writes.
    home = project.root / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:

        def run() -> None:
            results.append(job.execute_in_process(instance=instance, raise_on_error=False))

        second = threading.Thread(target=run)
        with Store.open(project.storage).lock("solution_version", "another"):
            second.start()
            give_up = time.monotonic() + PATIENCE_SECONDS
            while "shop__solution_version" not in list_started_steps(instance):
                assert time.monotonic() < give_up
                assert second.is_alive()
                time.sleep(0.1)
            second.join(0.5)
            assert second.is_alive()
            assert not count_created(project)["models"]
        second.join()
    assert [result.success for result in results] == [True]
    assert count_personalize_jobs(open_personalize(project)) == made_once(1)


def list_started_steps(instance: dg.DagsterInstance) -> list[str | None]:
    """Return the steps that started in any run."""
    return [
        record.event_log_entry.step_key
        for run_record in instance.get_run_records()
        for record in instance.get_records_for_run(
            run_record.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_START
        ).records
    ]


@pytest.mark.usefixtures("first_run_of_shop")
def test_a_run_does_not_wait_for_one_whose_publication_failed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    good = table(project, "shop")
    write_ratings(project.root / "ratings.csv", seed=1)
    history = project.storage / "shop/curated/history"
    history.write_text("a file where a folder should be")
    assert not refresh(project, "shop", instance).success
    assert table(project, "shop").equals(good)

    history.unlink()
    # A run would wait for a leftover lock.
    project.environment["BATCHREC_DEADLINE_HOURS"] = "0.002"
    assert refresh(project, "shop", instance).success
    assert read_edition(project) == 2
    assert count_personalize_jobs(open_personalize(project)) == made_once(2)
