"""Preparation on AWS Glue: the calls, against moto; the script, as Glue would call it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from dagster import DagsterExecutionInterruptedError
from dagster_pipes import PipesContext
from moto.glue.models import FakeJobRun, glue_backends
from moto.glue.responses import GlueResponse

from batchrec_dagster.config.project import PreparationSettings
from batchrec_dagster.pipeline.spark_on_aws import run_on_glue, zip_package
from batchrec_dagster.preparation.spark.task import PARTS, SUPPRESSED
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.erased import NOBODY
from batchrec_dagster_tests.guard.servers.glue import (
    DONE,
    ROLE,
    TASK,
    create_storage,
    end_run,
    glue,
    make_jobs_do,
    refuse,
    replace_sleep,
    report_success,
    run,
    say,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.preparation.spark_support import QUICK_ARGUMENTS

pytestmark = pytest.mark.slow

DECLARED = PreparationSettings(
    engine="glue",
    job_name="prepare",
    role=ROLE,
    worker_type="G.2X",
    workers=4,
    timeout_minutes=30,
)
ENGINE = partial(run_on_glue, DECLARED)
Job = Callable[[FakeJobRun], None]


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with glue(monkeypatch):
        yield


def read_arguments(run: FakeJobRun) -> dict[str, str]:
    assert run.arguments is not None
    return run.arguments


def say_once(storage: Storage, send_messages: Callable[[PipesContext], None]) -> Job:
    """A job that says something and succeeds."""

    def succeed(run: FakeJobRun) -> None:
        if run.status != "SUCCEEDED":
            say(storage.client("s3"), read_arguments(run), send_messages)
        run.status = "SUCCEEDED"

    return succeed


def list_job_runs() -> list[FakeJobRun]:
    (backend,) = (regions["us-east-1"] for regions in glue_backends.values())
    job_runs: list[FakeJobRun] = backend.jobs["prepare"].job_runs
    return job_runs


def test_a_job_is_created_run_with_this_code_and_heard(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    shop = create_storage(s3)

    make_jobs_do(monkeypatch, say_once(shop, report_success))
    for _ in range(2):
        result, came_out, messages = run(ENGINE, shop)
        assert result.success
        assert came_out == [DONE]
        assert "reading 1 files" in messages
    job_description = shop.client("glue").get_job(JobName="prepare")["Job"]
    assert job_description["Role"] == ROLE
    assert job_description["GlueVersion"] == "5.0"
    assert read_tags(shop) == {}
    first, second = list_job_runs()
    assert (first.worker_type, first.number_of_workers, first.timeout) == ("G.2X", 4, 30)
    script = read_arguments(first)["--scriptLocation"]
    assert script == read_arguments(second)["--scriptLocation"]
    assert b"open_dagster_pipes" in shop.store.get(script)
    assert shop.store.head(read_arguments(first)["--extra-py-files"]) is not None
    libraries = read_arguments(first)["--additional-python-modules"]
    assert libraries == f"polars=={version('polars')},dagster-pipes=={version('dagster-pipes')}"


def read_tags(storage: Storage) -> dict[str, str]:
    arn = "arn:aws:glue:us-east-1:123456789012:job/prepare"
    tags: dict[str, str] = storage.client("glue").get_tags(ResourceArn=arn)["Tags"]
    return tags


def test_a_job_is_created_with_the_tags_of_the_deployment(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    make_jobs_do(monkeypatch, end_run("FAILED"))
    shop = create_storage(s3, team="data")
    run(ENGINE, shop)
    assert read_tags(shop) == {"team": "data"}


def test_files_that_the_job_refuses_fail_the_run(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    shop = create_storage(s3)
    make_jobs_do(monkeypatch, say_once(shop, refuse))
    result, _, reason = run(ENGINE, shop)
    assert not result.success
    assert "ratings.csv: no user" in reason


def test_cancelling_the_run_stops_the_job(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    stopped_ids = []

    def interrupt(_: float) -> None:
        raise DagsterExecutionInterruptedError

    def batch_stop_job_run(self: GlueResponse) -> str:
        stopped_ids.extend(self.parameters["JobRunIds"])
        return '{"SuccessfulSubmissions": [{"JobName": "prepare"}]}'

    replace_sleep(monkeypatch, "dagster_aws.pipes.clients.glue.time", interrupt)
    monkeypatch.setattr(GlueResponse, "batch_stop_job_run", batch_stop_job_run, raising=False)
    make_jobs_do(monkeypatch, end_run("RUNNING"))
    result, _, _ = run(ENGINE, create_storage(s3))
    assert not result.success
    assert stopped_ids == [job_run.job_run_id for job_run in list_job_runs()]


def test_the_script_needs_no_library_that_glue_does_not_have(tmp_path: Path) -> None:
    """Glue has boto3, PySpark and PyArrow, and installs LIBRARIES."""
    (tmp_path / "package.zip").write_bytes(zip_package())
    missing = ("dagster", "duckdb", "obstore", "pydantic", "pydantic_core", "typing_extensions")
    code = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:]));"
    subprocess.run(
        [sys.executable, "-c", f"{code} import batchrec_dagster.preparation.spark.job", *missing],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "package.zip")},
        check=True,
    )


def test_the_script_runs_as_glue_calls_it(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, tmp_path: Path
) -> None:
    """The script runs with nothing of this project but the zip that is uploaded.

    Pipes goes through S3. The data are in local files, because this Spark has no file system for
    S3.
    """
    shop = create_storage(s3)
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("userId,movieId,rating,timestamp\n1,10,5,1000\n2,10,1,1000\n1,11,4,2000\n")
    task = replace(
        TASK,
        files={"ratings.csv": f"file://{ratings}"},
        work=f"file://{tmp_path}/work",
    )
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / SUPPRESSED).write_bytes(NOBODY.encode())
    processes: list[subprocess.Popen[bytes]] = []

    def start(run: FakeJobRun) -> subprocess.Popen[bytes]:
        for name in ("--scriptLocation", "--extra-py-files"):
            shop.store.download(read_arguments(run)[name], tmp_path / name.strip("-"))
        words = {"--JOB_NAME": run.job_name, "--JOB_RUN_ID": run.job_run_id, **read_arguments(run)}
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("AWS_")
        }
        return subprocess.Popen(
            [
                sys.executable,
                str(tmp_path / "scriptLocation"),
                *(word for argument in words.items() for word in argument),
            ],
            cwd=tmp_path,
            env={
                **environment,
                **s3.environment(),
                "PYTHONPATH": str(tmp_path / "extra-py-files"),
                "PYSPARK_PYTHON": sys.executable,
                "PYSPARK_SUBMIT_ARGS": "--master local[1] --conf spark.ui.enabled=false"
                " --conf spark.driver.bindAddress=127.0.0.1 --conf spark.driver.host=127.0.0.1 "
                + QUICK_ARGUMENTS,
            },
        )

    def run_script(run: FakeJobRun) -> None:
        if not processes:
            processes.append(start(run))
        code = processes[0].poll()
        run.status = "RUNNING" if code is None else "FAILED" if code else "SUCCEEDED"

    make_jobs_do(monkeypatch, run_script)
    replace_sleep(monkeypatch, "dagster_aws.pipes.clients.glue.time", lambda _: time.sleep(0.3))
    try:
        result, came_out, messages = run(ENGINE, shop, task)
    finally:
        for process in processes:
            process.kill()
    assert result.success, messages
    parts = "".join(part.read_text() for part in tmp_path.glob(f"work/{PARTS}/part-*"))
    assert sorted(parts.splitlines()) == ["1,10,1000", "1,11,2000"]
    assert came_out[0].left_out == {"rating below min_rating": 1}
    assert "wrote 2 interactions" in messages
