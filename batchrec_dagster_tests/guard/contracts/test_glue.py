"""Tests of `preparation: {engine: glue}`.

The job reads data in S3 and makes the same files as a single machine. If the job fails, the run
says why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import dagster as dg
import pytest
from botocore.exceptions import ClientError
from moto.glue.models import FakeJobRun

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    interactions,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.glue import (
    ROLE,
    do_task,
    end_run,
    glue,
    make_jobs_do,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server

pytestmark = pytest.mark.slow

ENGINE = {"engine": "glue", "job_name": "prepare", "role": ROLE, "workers": 4}


@pytest.fixture
def in_s3(project: Project, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Yield a project with its storage in a bucket, and a Glue service."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    storage = f"s3://{s3.create_bucket()}/data"
    project.environment.update(BATCHREC_STORAGE=storage, AWS_ENDPOINT_URL_S3=s3.endpoint)
    with glue(monkeypatch):
        yield project


def prepare(
    project: Project, instance: dg.DagsterInstance, **attributes: Any
) -> dg.ExecuteInProcessResult:
    """Run the pipeline `shop` as far as batch_users."""
    project.declare(declaration("shop", project.root / "ratings.csv", **attributes))
    assets = [dg.AssetKey(["shop", n]) for n in ("raw_ratings", "interactions", "batch_users")]
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=assets, raise_on_error=False
        )


@nightly("Spark takes seconds for each")
def test_glue_makes_in_s3_what_one_machine_makes(
    in_s3: Project,
    instance: dg.DagsterInstance,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    write_ratings(in_s3.root / "ratings.csv")
    jobs: list[str] = []
    do = do_task(s3, tmp_path)

    def note_and_do(run: FakeJobRun) -> None:
        jobs.append(run.job_run_id)
        do(run)

    make_jobs_do(monkeypatch, note_and_do)
    result = prepare(in_s3, instance, preparation=ENGINE)
    assert result.success, why(result)
    root = in_s3.environment.pop("BATCHREC_STORAGE")
    stored = f"{root}/shop/transformed"
    written = s3.store().get(f"{stored}/interactions/interactions.csv")
    users = s3.store().get(f"{stored}/batch_users_input/users.json")
    # Files that the job wrote meanwhile are deleted.
    assert not [info.uri for info in s3.store().list(f"{root}/") if "/work/" in info.uri]

    second_environment = {**in_s3.environment, "BATCHREC_STORAGE": root}
    runs = set(jobs)
    here = prepare(in_s3, instance)
    assert here.success, why(here)
    assert interactions(in_s3, "shop").height == written.count(b"\n") - 1
    folder = in_s3.storage / "shop/transformed"
    assert (folder / "interactions/interactions.csv").read_bytes() == written
    assert (folder / "batch_users_input/users.json").read_bytes() == users

    # Unchanged ratings are not prepared again.
    in_s3.environment.update(second_environment)
    assert prepare(in_s3, instance, preparation=ENGINE).success
    assert set(jobs) == runs


@nightly("Spark takes seconds for each")
def test_glue_reads_files_in_s3_where_they_are(
    in_s3: Project,
    instance: dg.DagsterInstance,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The files are not copied, and not deleted if the source changes or people are erased."""
    ratings = write_ratings(in_s3.root / "ratings.csv").read_bytes()
    source = f"s3://{s3.create_bucket()}/ratings.csv"
    s3.store().put(source, ratings)
    root = in_s3.environment["BATCHREC_STORAGE"]
    do = do_task(s3, tmp_path)
    make_jobs_do(monkeypatch, do)
    result = prepare(in_s3, instance, ratings={"source": source}, preparation=ENGINE)
    assert result.success, why(result)
    assert not s3.store().list(f"{root}/shop/raw/ratings/")
    assert prepare(in_s3, instance, preparation=ENGINE).success
    assert s3.store().get(source) == ratings

    def change_and_do(run: FakeJobRun) -> None:
        do(run)
        s3.store().put(source, ratings + ratings.splitlines(keepends=True)[-1])

    make_jobs_do(monkeypatch, change_and_do)
    attributes = {"ratings": {"source": source}, "interactions": {"min_rating": 2}}
    result = prepare(in_s3, instance, **attributes, preparation=ENGINE)
    assert f"{source} has changed since this run listed it" in why(result)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (end_run("FAILED", "OutOfMemoryError"), "glue says: FAILED, OutOfMemoryError"),
        (end_run("STOPPED"), "glue says: STOPPED, and no reason"),
        (end_run("SUCCEEDED"), "ended without reporting a result"),
    ],
    ids=["failed", "stopped by somebody", "silent"],
)
def test_a_job_that_fails_says_why(
    in_s3: Project,
    instance: dg.DagsterInstance,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    job: Callable[[FakeJobRun], None],
    message: str,
) -> None:
    write_ratings(in_s3.root / "ratings.csv")
    make_jobs_do(monkeypatch, job)
    result = prepare(in_s3, instance, preparation=ENGINE)
    assert not result.success
    assert message in why(result)
    root = in_s3.environment["BATCHREC_STORAGE"]
    assert s3.store().head(f"{root}/shop/transformed/interactions/interactions.csv") is None


def fail_with_bug(*_: object, **__: object) -> None:
    raise LookupError("a bug")


def find_errors(result: dg.ExecuteInProcessResult) -> str:
    """Return the errors of the run's failed steps, with their stacks."""
    return "".join(
        event.step_failure_data.error.to_string()
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.error
    )


@pytest.mark.parametrize("engine", [ENGINE, {"engine": "spark"}], ids=["glue", "spark"])
def test_a_bug_before_the_job_has_started_is_no_failure_of_spark(
    in_s3: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    engine: dict[str, object],
) -> None:
    write_ratings(in_s3.root / "ratings.csv")
    monkeypatch.setattr(ZipFile, "writestr", fail_with_bug)
    monkeypatch.setattr(dg.PipesSubprocessClient, "run", fail_with_bug)
    errors = find_errors(prepare(in_s3, instance, preparation=engine))
    assert "LookupError: a bug" in errors
    assert "in fail_with_bug" in errors
    assert "Spark job" not in errors


def test_a_process_of_spark_that_fails_is_named_and_its_error_is_the_cause(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ratings(project.root / "ratings.csv")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    project.declare(declaration("shop", "ratings.csv", preparation={"engine": "spark"}))
    with definitions(project) as defs, pytest.raises(dg.Failure) as error:
        defs.resolve_job_def("shop_refresh").execute_in_process(instance=instance)
    failure = error.value
    assert failure.description == ("the Spark job failed: see its output in the run's compute logs")
    assert "process failed with code 1" in str(failure.__cause__)


def test_a_glue_that_stops_answering_while_the_job_runs_is_not_asked_for_a_second_job(
    in_s3: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ratings(in_s3.root / "ratings.csv")
    jobs: list[FakeJobRun] = []

    def throttle(run: FakeJobRun) -> None:
        jobs.append(run)
        answer = {"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}
        raise ClientError(answer, "GetJobRun")  # type: ignore[arg-type]

    make_jobs_do(monkeypatch, throttle)
    retries = {"*": {"retries": {"max_retries": 2, "delay_seconds": 0}}}
    result = prepare(in_s3, instance, preparation=ENGINE, op=retries)
    assert why(result).startswith("the Glue job prepare may still run, but its state is not known:")
    assert len(jobs) == 1


def test_settings_missing_for_glue_are_named(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    result = prepare(project, instance, preparation=ENGINE)
    assert "BATCHREC_STORAGE=s3://bucket/prefix" in why(result)


def test_without_a_job_and_a_role_it_says_what_to_do(
    in_s3: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(in_s3.root / "ratings.csv")
    engine = {name: value for name, value in ENGINE.items() if name != "role"}
    result = prepare(in_s3, instance, preparation=engine)
    assert "there is no Glue job prepare" in why(result)
