"""Tests of an import's files, and of jobs whose files are lost or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batchrec_dagster_tests.guard.servers.personalize import Local
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
