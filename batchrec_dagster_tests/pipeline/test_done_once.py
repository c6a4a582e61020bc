"""Runs that are killed, and runs at the same time: the work ends right, and is done once."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    copied_project,
    declaration,
    killed_at,
    log_on_level_debug,
    table,
    write_ratings,
)

pytestmark = pytest.mark.slow

REFRESH = ("dagster", "job", "execute", "-m", "batchrec_dagster.definitions", "-j", "shop_refresh")


def made_once(project: Project) -> None:
    """Personalize holds one import, one solution version, one batch inference; all good."""
    client = embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())
    (import_job,) = client.list_dataset_import_jobs()["datasetImportJobs"]
    assert import_job["status"] == "ACTIVE"
    (solution,) = client.list_solutions()["solutions"]
    (version,) = client.list_solution_versions(solutionArn=solution["solutionArn"])[
        "solutionVersions"
    ]
    assert version["status"] == "ACTIVE"
    (batch,) = client.list_batch_inference_jobs()["batchInferenceJobs"]
    assert batch["status"] == "ACTIVE"


def test_a_run_killed_in_training_goes_on_and_trains_once(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    # Enough to be busy for a few seconds with training, so that the kill meets it.
    source = write_ratings(tmp_path / "ratings.csv", users=1500, items=4000)
    project.declare(declaration("shop", source))
    # The first look at the training's status is logged while it is under way, on level DEBUG.
    logged_refresh = (*REFRESH, *log_on_level_debug(project))
    killed_at(project, logged_refresh, " - solution version arn:")
    assert "CREATE IN_PROGRESS" in (project.root / "killed.log").read_text().splitlines()[-1]
    assert not list(project.storage.glob("shop/curated/**/*"))

    second_run = project.run(*logged_refresh)
    assert second_run.returncode == 0, second_run.stdout + second_run.stderr
    log = second_run.stdout + second_run.stderr
    assert "unchanged: not imported again" in log
    assert "created solution version" not in log
    assert table(project, "shop").get_column("user_id").n_unique() == 1500

    made_once(project)


def test_two_runs_at_once_do_the_work_once(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    project.declare(declaration("shop", write_ratings(tmp_path / "ratings.csv")))

    def refresh(person: str) -> subprocess.CompletedProcess[str]:
        # A history for each: Dagster's own storage sometimes fails where two processes set one up.
        home = tmp_path / person
        home.mkdir()
        shutil.copy(project.root / "dagster.yaml", home)
        return replace(project, environment={"DAGSTER_HOME": str(home)}).run(*REFRESH)

    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(refresh, ("one", "other")))
    assert [run.returncode for run in runs] == [0, 0], "\n".join(run.stderr[-3000:] for run in runs)
    made_once(project)
    assert table(project, "shop").get_column("user_id").n_unique() == 60
