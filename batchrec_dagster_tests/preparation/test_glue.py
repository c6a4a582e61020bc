"""Tests of the Glue job in moto, and of its script, called as Glue would call it.

guard/contracts/test_glue.py tests the job's results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from dagster import DagsterExecutionInterruptedError
from moto.glue.models import FakeJobRun, glue_backends
from moto.glue.responses import GlueResponse

from batchrec_dagster.config.running import PreparationSettings
from batchrec_dagster.pipeline.spark_on_aws import run_on_glue, zip_package
from batchrec_dagster.preparation.spark.task import ERASED_USERS_FILE, PARTS
from batchrec_dagster.storage.erased import NOBODY
from batchrec_dagster_tests.guard.servers.glue import (
    ROLE,
    TASK,
    create_storage,
    end_run,
    glue,
    make_jobs_do,
    replace_sleep,
    run,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.spark import QUICK_ARGUMENTS

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
TIME = "dagster_aws.pipes.clients.glue.time"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with glue(monkeypatch):
        yield


def read_arguments(run: FakeJobRun) -> dict[str, str]:
    assert run.arguments is not None
    return run.arguments


def test_cancelling_the_run_stops_the_job(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    stopped_ids = []

    def interrupt(_: float) -> None:
        raise DagsterExecutionInterruptedError

    def batch_stop_job_run(self: GlueResponse) -> str:
        stopped_ids.extend(self.parameters["JobRunIds"])
        return '{"SuccessfulSubmissions": [{"JobName": "prepare"}]}'

    replace_sleep(monkeypatch, TIME, interrupt)
    monkeypatch.setattr(GlueResponse, "batch_stop_job_run", batch_stop_job_run, raising=False)
    make_jobs_do(monkeypatch, end_run("RUNNING"))
    shop = create_storage(s3, team="data")
    result, _, _ = run(ENGINE, shop)
    assert not result.success
    (backend,) = (regions["us-east-1"] for regions in glue_backends.values())
    (job_run,) = backend.jobs["prepare"].job_runs
    assert stopped_ids == [job_run.job_run_id]
    # The job has the declared settings and the deployment's tags.
    assert (job_run.worker_type, job_run.number_of_workers, job_run.timeout) == ("G.2X", 4, 30)
    libraries = read_arguments(job_run)["--additional-python-modules"]
    assert libraries == f"polars=={version('polars')},dagster-pipes=={version('dagster-pipes')}"
    job = shop.client("glue").get_job(JobName="prepare")["Job"]
    assert (job["Role"], job["GlueVersion"]) == (ROLE, "5.0")
    arn = "arn:aws:glue:us-east-1:123456789012:job/prepare"
    assert shop.client("glue").get_tags(ResourceArn=arn)["Tags"] == {"team": "data"}


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
    """The script needs nothing from this project but the uploaded zip.

    Pipes messages go through S3. The data are in local files, because this Spark has no file system
    for S3.
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
    (tmp_path / "work" / ERASED_USERS_FILE).write_bytes(NOBODY.encode())
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
    replace_sleep(monkeypatch, TIME, lambda _: time.sleep(0.3))
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
