"""Tests of the local Personalize's jobs: their status while running, and after a kill."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchrec_dagster_tests.guard.seams.personalize import (
    CatalogueFailure,
    counted_reads,
    held_downloads,
    impatient_catalogue,
)
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.personalize import RECIPE, Local, poll_until_deadline
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_csv,
    encode_user_lines,
)

if TYPE_CHECKING:
    from types_boto3_personalize.type_defs import TagTypeDef

pytestmark = pytest.mark.slow

DATA, LINES = "s3://data/interactions.csv", "s3://data/users.json"
MODEL_TAG: TagTypeDef = {"tagKey": "batchrec:model", "tagValue": "expired"}


def wait_for_status(local: Local, arn: str, status: str) -> None:
    for _ in poll_until_deadline():
        if local.describe(arn)["status"] == status:
            return
    raise AssertionError(local.describe(arn))


def train(local: Local) -> str:
    group, _ = local.import_rows(build_taste_rows())
    return local.train_version(group, "aws-user-personalization")


def test_jobs_of_a_kind_wait_for_each_other_and_need_what_they_read(local: Local) -> None:
    version = train(local)
    local.store.put(LINES, encode_user_lines(["u1"]))
    dataset = local.client.list_datasets()["datasets"][0]["datasetArn"]
    delete_solution = partial(local.client.delete_solution, solutionArn=version.rpartition("/")[0])
    delete_dataset = partial(local.client.delete_dataset, datasetArn=dataset)
    starts: list[tuple[Callable[[str], str], Callable[[], Any]]] = [
        (lambda name: local.start_import(dataset, DATA, name), delete_dataset),
        (
            lambda name: local.create_batch_job(version, jobName=name, target=f"s3://data/{name}/"),
            delete_solution,
        ),
    ]
    in_use = local.client.exceptions.ResourceInUseException
    for start, delete in starts:
        with held_downloads():
            first, second = start("a"), start("b")
            wait_for_status(local, first, "CREATE IN_PROGRESS")
            assert local.describe(second)["status"] == "CREATE PENDING"
            with pytest.raises(in_use, match="not finished"):
                delete()
        for job in (first, second):
            local.wait_until_active(job)


def _import_until_killed(root: Path) -> None:
    local = Local(root)
    (dataset,) = local.client.list_datasets()["datasets"]
    with held_downloads():
        local.start_import(dataset["datasetArn"], DATA, "killed")
        time.sleep(600)


def start_and_kill(local: Local) -> str:
    """Start an import job, kill its process during the work, and return the job's ARN."""
    process = FORKS.Process(target=_import_until_killed, args=(local.root,), daemon=True)
    process.start()
    for _ in poll_until_deadline():
        for job in local.client.list_dataset_import_jobs()["datasetImportJobs"]:
            if job["jobName"] == "killed" and job["status"] == "CREATE IN_PROGRESS":
                process.kill()
                process.join()
                return job["datasetImportJobArn"]
    raise AssertionError("the job does not begin")


def test_a_job_whose_process_was_killed_has_failed_and_leaves_nothing(local: Local) -> None:
    _, dataset = local.import_rows(build_taste_rows())
    folders = [local.root / "home" / name for name in ("datasets", "locks")]
    before = [set(folder.iterdir()) for folder in folders]
    killed = local.describe(start_and_kill(local))
    assert killed["status"] == "CREATE FAILED"
    assert "has ended" in killed["failureReason"]
    assert [set(folder.iterdir()) for folder in folders] == before
    # The dead job blocks no other job.
    local.wait_until_active(local.start_import(dataset, DATA, "another"))
    local.client.delete_dataset(datasetArn=dataset)
    local.wait_until_gone(dataset)


def test_a_copy_of_the_catalogue_is_a_backup(tmp_path: Path) -> None:
    process = FORKS.Process(target=_train_in, args=(tmp_path / "first",))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    home = tmp_path / "second" / "home"
    home.mkdir(parents=True)
    # without SQLite's write-ahead log next to it
    shutil.copyfile(tmp_path / "first/home/catalog.sqlite", home / "catalog.sqlite")
    client = Local(tmp_path / "second").client
    (version,) = client.list_solution_versions()["solutionVersions"]
    assert version["status"] == "ACTIVE"
    tags = client.list_tags_for_resource(resourceArn=version["solutionVersionArn"])["tags"]
    assert tags == [{"tagKey": "k", "tagValue": "v"}]


def _train_in(root: Path) -> None:
    local = Local(root)
    version = train(local)
    local.client.tag_resource(resourceArn=version, tags=[{"tagKey": "k", "tagValue": "v"}])


def test_a_catalogue_that_another_process_locks_is_named(local: Local) -> None:
    local.create_group()
    path = local.root / "home" / "catalog.sqlite"
    with impatient_catalogue():
        client = local.open_client()
        process = FORKS.Process(target=_lock_until_killed, args=(path,), daemon=True)
        process.start()
        for _ in poll_until_deadline():
            if (path.parent / "locked").exists():
                break
        try:
            with pytest.raises(CatalogueFailure, match=r"catalog\.sqlite is locked by another"):
                client.create_dataset_group(name="later")
        finally:
            process.kill()
            process.join()
        client.create_dataset_group(name="later")


def _lock_until_killed(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("BEGIN IMMEDIATE")
    (path.parent / "locked").touch()
    time.sleep(600)


def test_the_batch_jobs_of_a_version_go_with_its_model(local: Local) -> None:
    version = train(local)
    local.recommend(version, ["u1"])
    assert local.client.list_batch_inference_jobs()["batchInferenceJobs"]
    local.client.tag_resource(resourceArn=version, tags=[MODEL_TAG])
    assert local.client.list_batch_inference_jobs()["batchInferenceJobs"] == []
    assert local.client.get_solution_metrics(solutionVersionArn=version)["metrics"]


def test_no_request_but_list_reads_the_jobs_that_ended(local: Local) -> None:
    version = train(local)
    for number in range(20):
        local.recommend(version, ["u1"], f"earlier-{number}")
    local.store.put(LINES, encode_user_lines(["u1"]))
    with counted_reads() as reads:
        job = local.create_batch_job(version, jobName="another")
        # the resources that the request names, and their parents
        assert len(reads) < 15
    local.wait_until_active(job)
    (dataset,) = local.client.list_datasets()["datasets"]
    with counted_reads() as reads:
        local.client.delete_dataset(datasetArn=dataset["datasetArn"])
        assert len(reads) < 15


def test_a_model_stays_while_a_job_needs_it(local: Local) -> None:
    version = train(local)
    local.store.put(LINES, encode_user_lines(["u1"]))
    in_use = local.client.exceptions.ResourceInUseException
    with held_downloads():
        job = local.create_batch_job(version)
        with pytest.raises(in_use, match=f"{job} needs its model"):
            local.client.tag_resource(resourceArn=version, tags=[MODEL_TAG])
    local.wait_until_active(job)
    assert local.client.list_tags_for_resource(resourceArn=version)["tags"] == []


def test_no_number_of_groups_and_solutions_is_too_many(local: Local) -> None:
    groups = [local.create_group(f"group-{number}") for number in range(60)]
    for number in range(12):
        local.client.create_solution(
            name=f"s{number}", datasetGroupArn=groups[0], recipeArn=f"{RECIPE}aws-sims"
        )
    assert len(local.client.list_dataset_groups()["datasetGroups"]) == 60


def test_everything_in_the_home_is_private(local: Local) -> None:
    train(local)
    home = local.root / "home"
    for path in (home, *home.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_failed_job_says_why_and_the_next_one_is_another(local: Local) -> None:
    _, dataset = local.import_rows(build_taste_rows())
    failed = local.wait(local.start_import(dataset, "s3://data/none.csv", "none"))
    assert failed["status"] == "CREATE FAILED"
    assert "s3://data/none.csv" in failed["failureReason"]
    local.store.put("s3://data/none.csv", encode_csv(build_taste_rows()))
    with pytest.raises(local.client.exceptions.ResourceAlreadyExistsException):
        local.start_import(dataset, "s3://data/none.csv", "none")
    local.wait_until_active(local.start_import(dataset, "s3://data/none.csv", "none-2"))
