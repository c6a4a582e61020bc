"""Tests of an import's files, and of jobs whose files are lost or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.local_personalize import imported_rows
from batchrec_dagster.local_personalize.engine.data import Interactions
from batchrec_dagster_tests.guard.servers.personalize import ROLE, Local
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows

pytestmark = pytest.mark.slow

RECIPE = "aws-user-personalization"


@pytest.fixture
def imports(local: Local) -> Path:
    """Return the folder with imported data."""
    return local.root / "home" / "datasets"


def test_rows_are_stored_once(local: Local, imports: Path) -> None:
    local.import_rows(build_taste_rows())
    [folder] = imports.iterdir()
    assert [path.name for path in folder.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "damaged"])
def test_lost_or_damaged_rows_fail_the_job(local: Local, imports: Path, is_lost: bool) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    [folder] = imports.iterdir()
    path = folder / "rows.parquet"
    if is_lost:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    failed_version = local.wait(local.create_version(local.create_solution(group, RECIPE)))
    assert failed_version["status"] == "CREATE FAILED"
    reason = failed_version["failureReason"]
    assert reason.startswith(f"Create failed. The data of {dataset} cannot be read: ")
    assert "rows.parquet" in reason or not is_lost
    assert reason.endswith("import them again (a pipeline's next run does).")
    local.wait_until_active(local.start_import(dataset, "s3://data/interactions.csv", "again"))
    version = local.create_version(local.create_solution(group, RECIPE, name="again"))
    assert local.recommend(local.wait_until_active(version), ["u1"])["u1"]
    assert folder not in imports.iterdir()


def test_lost_data_fail_a_batch_job(local: Local, imports: Path) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    version = local.wait_until_active(local.create_version(local.create_solution(group, RECIPE)))
    [folder] = imports.iterdir()
    shutil.rmtree(folder)
    local.store.put("s3://data/users.json", b'{"userId":"u1"}\n')
    failed_job = local.wait(local.create_batch_job(version))
    assert failed_job["failureReason"].startswith(
        f"Create failed. The data of {dataset} cannot be read: "
    )


def test_an_error_of_a_job_keeps_intact_rows(
    local: Local, imports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> Interactions:
        raise pl.exceptions.ComputeError("no memory")

    group, dataset = local.import_rows(build_taste_rows())
    rows = list(imports.iterdir())
    solution = local.create_solution(group, RECIPE)
    with monkeypatch.context() as patches:
        patches.setattr(Interactions, "from_frame", fail)
        failed_version = local.wait(local.create_version(solution))
    assert failed_version["failureReason"] == "Create failed. no memory"
    [job] = local.client.list_dataset_import_jobs(datasetArn=dataset)["datasetImportJobs"]
    assert (job["status"], list(imports.iterdir())) == ("ACTIVE", rows)
    local.wait_until_active(local.create_version(solution))


def test_a_deletion_of_users_that_fails_keeps_intact_rows(
    local: Local, imports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise pl.exceptions.ComputeError("no memory")

    def start_deletion(name: str) -> str:
        return local.client.create_data_deletion_job(
            jobName=name,
            datasetGroupArn=group,
            roleArn=ROLE,
            dataSource={"dataLocation": "s3://data/erase.csv"},
        )["dataDeletionJobArn"]

    group, _ = local.import_rows(build_taste_rows())
    rows = list(imports.iterdir())
    local.store.put("s3://data/erase.csv", b"USER_ID\nu1\n")
    with monkeypatch.context() as patches:
        patches.setattr(pl.LazyFrame, "sink_parquet", fail)
        failed_job = local.wait(start_deletion("first"))
    assert failed_job["failureReason"] == "Create failed. no memory"
    assert list(imports.iterdir()) == rows
    assert local.wait(start_deletion("second"))["status"] == "COMPLETED"


def test_a_training_checks_an_import_of_items_once(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: list[dict[str, Any]] = [{"name": "ITEM_ID"}]
    columns += [{"name": name, "categorical": True} for name in ("KIND", "COLOUR", "SIZE")]
    group, _ = local.import_rows(build_taste_rows())
    items = local.import_metadata(
        group, "Items", columns, [f"i{n},{n % 2},{n % 3},{n % 4}" for n in range(40)]
    )
    [job] = local.client.list_dataset_import_jobs(datasetArn=items)["datasetImportJobs"]
    prefix = job["datasetImportJobArn"].split(":", 5)[5].replace("/", ".")
    checked: list[str] = []
    compute_digest = imported_rows._compute_digest

    def record(folder: Path) -> str:
        checked.append(folder.name)
        return compute_digest(folder)

    monkeypatch.setattr(imported_rows, "_compute_digest", record)
    local.train_version(group, "aws-user-personalization-v2")
    assert sum(f".{prefix}." in name for name in checked) == 1
