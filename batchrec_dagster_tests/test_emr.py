"""Preparation on EMR Serverless: the calls, against moto."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from dagster import DagsterExecutionInterruptedError
from moto import mock_aws
from moto.emrserverless.models import EMRServerlessBackend, JobRun

from batchrec_dagster.config.interactions import PreparationSettings
from batchrec_dagster.steps.spark_on_aws import EmrServerlessSpark
from batchrec_dagster_tests.aws_jobs import (
    DONE,
    ROLE,
    Storage,
    fail,
    run,
    say,
    storage,
    succeed,
    without_waiting,
)
from batchrec_dagster_tests.s3_server import S3Server

pytestmark = pytest.mark.slow

Job = Callable[[JobRun], None]


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_waiting(monkeypatch, "dagster_aws.pipes.clients.emr_serverless.time", time.sleep)
    with mock_aws(config={"core": {"mock_credentials": False}}):
        yield


@pytest.fixture
def shop(s3: S3Server) -> Storage:
    return storage(s3)


@pytest.fixture
def engine(shop: Storage) -> EmrServerlessSpark:
    application = shop.client("emr-serverless").create_application(
        name="spark", type="SPARK", releaseLabel="emr-7.9.0"
    )
    declared = PreparationSettings(
        engine="emr_serverless",
        application_id=application["applicationId"],
        role=ROLE,
        timeout_minutes=30,
        spark_submit_parameters="--conf spark.driver.memory=4g",
    )
    return EmrServerlessSpark(declared)


@pytest.fixture
def runs() -> list[JobRun]:
    """The job runs, as they are asked for."""
    return []


def emr_does(monkeypatch: pytest.MonkeyPatch, runs: list[JobRun], job: Job) -> None:
    """What a run does when it is first asked for; it has to set its state."""
    get = EMRServerlessBackend.get_job_run

    def get_job_run(self: EMRServerlessBackend, application_id: str, job_run_id: str) -> JobRun:
        found = get(self, application_id, job_run_id)
        if found not in runs:
            runs.append(found)
            job(found)
        return found

    monkeypatch.setattr(EMRServerlessBackend, "get_job_run", get_job_run)


def submitted(run: JobRun, part: str = "sparkSubmitParameters") -> str:
    assert run.job_driver is not None
    return str(run.job_driver["sparkSubmit"][part])


def params(run: JobRun) -> dict[str, str]:
    """The environment of the driver, as Pipes reads it."""
    return dict(re.findall(r"driverEnv\.(\w+)=(\S+)", submitted(run)))


def ends(state: str, details: str = "") -> Job:
    def job(run: JobRun) -> None:
        run.state, run.state_details = state, details

    return job


def test_a_job_run_is_started_with_this_code_and_heard(
    monkeypatch: pytest.MonkeyPatch, shop: Storage, engine: EmrServerlessSpark, runs: list[JobRun]
) -> None:
    def job(run: JobRun) -> None:
        say(shop.client("s3"), params(run), succeed)
        run.state = "SUCCESS"

    emr_does(monkeypatch, runs, job)
    result, came_out, logged = run(engine, shop)
    assert result.success
    assert came_out == [DONE]
    assert "reading 1 files" in logged
    (started,) = runs
    assert started.execution_role_arn == ROLE
    assert started.execution_timeout_minutes == 30
    assert b"open_dagster_pipes" in shop.store.get(submitted(started, "entryPoint"))
    modules = re.search(r"--py-files (\S+) --conf spark.driver.memory=4g", submitted(started))
    assert modules is not None
    assert shop.store.head(modules[1]) is not None
    assert len(shop.store.list(f"{shop.root}/")) == 2


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (ends("FAILED", "OutOfMemoryError"), "emr-serverless says: FAILED, OutOfMemoryError"),
        (ends("CANCELLED", "Job exceeded its timeout"), "CANCELLED, Job exceeded its timeout"),
        (ends("SUCCESS"), "ended without reporting a result"),
    ],
    ids=["failed", "timeout", "silent"],
)
def test_a_job_run_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch,
    shop: Storage,
    engine: EmrServerlessSpark,
    runs: list[JobRun],
    job: Job,
    said: str,
) -> None:
    emr_does(monkeypatch, runs, job)
    result, came_out, reason = run(engine, shop)
    assert not result.success
    assert not came_out
    assert said in reason


def test_the_jobs_own_reason_comes_first(
    monkeypatch: pytest.MonkeyPatch, shop: Storage, engine: EmrServerlessSpark, runs: list[JobRun]
) -> None:
    def job(run: JobRun) -> None:
        say(shop.client("s3"), params(run), fail)
        ends("FAILED", "exit code 1")(run)

    emr_does(monkeypatch, runs, job)
    _, _, reason = run(engine, shop)
    assert reason == "ratings.csv, line 2: no user"


def test_cancelling_the_run_cancels_the_job_run(
    monkeypatch: pytest.MonkeyPatch, shop: Storage, engine: EmrServerlessSpark, runs: list[JobRun]
) -> None:
    def interrupt(_: float) -> None:
        raise DagsterExecutionInterruptedError

    without_waiting(monkeypatch, "dagster_aws.pipes.clients.emr_serverless.time", interrupt)
    emr_does(monkeypatch, runs, ends("RUNNING"))
    result, _, _ = run(engine, shop)
    assert not result.success
    assert [one.state for one in runs] == ["CANCELLED"]
