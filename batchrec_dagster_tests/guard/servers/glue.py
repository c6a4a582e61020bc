"""AWS Glue, mocked by moto, with a real S3 server as the storage and jobs that a test defines."""

# Annotations are not postponed here, because Dagster reads the annotations of an asset that is
# defined within a function.
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster_pipes import (
    PipesContext,
    PipesMappingParamsLoader,
    PipesS3ContextLoader,
    PipesS3MessageWriter,
)
from moto import mock_aws
from moto.glue.models import FakeJobRun
from moto.moto_api import state_manager

from batchrec_dagster.pipeline.spark_jobs import RunOnEngine
from batchrec_dagster.preparation.file_form import Columns, FileForm
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.row_rules import RowRules
from batchrec_dagster.preparation.spark.task import ERASED_USERS_FILE, PARTS, SparkTask
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.erased import ErasedUsers
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

ROLE = "arn:aws:iam::123456789012:role/spark"
TASK = SparkTask(
    {"ratings.csv": "s3://shop/raw/ratings.csv"},
    FileForm("csv", ","),
    Columns({"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}),
    RowRules(min_rating=3.5),
    "s",
    "s3://shop/work",
)


def create_storage(s3: S3Server, **tags: str) -> Storage:
    """Return a storage in a new S3 bucket.

    tags: the tags of the resources that the storage's clients create.
    """
    return Storage(
        root=f"s3://{s3.create_bucket()}/shop",
        tags=tags,
        s3=S3Connection(
            endpoint_url=s3.endpoint,
            region_name=REGION,
            aws_access_key_id=OWNER.access,
            aws_secret_access_key=OWNER.secret,
        ),
    )


def say(s3: Any, params: Mapping[str, str], send_messages: Callable[[PipesContext], None]) -> None:
    """Send messages by Dagster Pipes, as the job's script would.

    params: the arguments of a Glue job.
    """
    arguments = {"--dagster-pipes-context": "CONTEXT", "--dagster-pipes-messages": "MESSAGES"}
    environment = {f"DAGSTER_PIPES_{n}": params[a] for a, n in arguments.items() if a in params}
    with PipesContext(
        PipesMappingParamsLoader({**params, **environment}),
        PipesS3ContextLoader(s3),
        PipesS3MessageWriter(s3, interval=0.2),
    ) as pipes:
        send_messages(pipes)


def run(
    engine: RunOnEngine, storage: Storage, task: SparkTask = TASK
) -> tuple[dg.ExecuteInProcessResult, list[Any], str]:
    """Run the task in an asset.

    Return the run, a list with the engine's result (empty if the run failed), and the errors of
    failed steps, or else all messages.
    """
    came_out = []

    @dg.asset
    def interactions(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        result, metadata = engine(context, storage, task)
        came_out.append(result)
        return dg.MaterializeResult(metadata=metadata)

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([interactions], instance=instance, raise_on_error=False)
        messages = [log.message for log in instance.all_logs(result.run_id)]
    errors = [
        str(event.step_failure_data.error) for event in result.all_events if event.is_step_failure
    ]
    return result, came_out, "\n".join(errors or messages)


def replace_sleep(
    monkeypatch: pytest.MonkeyPatch, module: str, sleep: Callable[[float], None]
) -> None:
    """Make a Pipes client of Dagster call `sleep` where it would wait.

    The client also waits only shortly for messages.
    module: the path of the name `time` in the client's module.
    """
    monkeypatch.setattr("dagster._core.pipes.utils.WAIT_FOR_LOGS_AFTER_EXECUTION_INTERVAL", 1)
    monkeypatch.setattr("batchrec_dagster.pipeline.spark_on_aws.INTERVAL", 0.2)
    monkeypatch.setattr(module, SimpleNamespace(sleep=sleep, time=lambda: 0.0))


@contextmanager
def glue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mock AWS Glue with runs that change their status only when the test changes it."""
    replace_sleep(monkeypatch, "dagster_aws.pipes.clients.glue.time", time.sleep)
    transition = {"progression": "manual", "times": 1_000_000}
    state_manager.set_transition(model_name="glue::job_run", transition=transition)
    try:
        with mock_aws(config={"core": {"mock_credentials": False}}):
            yield
    finally:
        state_manager.unset_transition(model_name="glue::job_run")


def make_jobs_do(monkeypatch: pytest.MonkeyPatch, job: Callable[[FakeJobRun], None]) -> None:
    """Call `job`, which has to set the status, each time that a Glue job's run is described."""
    describe_run = FakeJobRun.as_dict

    def describe_with_error(run: FakeJobRun) -> dict[str, Any]:
        error = vars(run).get("error")
        return {**describe_run(run), **({"ErrorMessage": error} if error else {})}

    monkeypatch.setattr(FakeJobRun, "as_dict", describe_with_error)
    monkeypatch.setattr(FakeJobRun, "advance", lambda self: job(self))


def end_run(status: str, error: str = "") -> Callable[[FakeJobRun], None]:
    """Return a job that ends with this status and this error."""

    def set_status(run: FakeJobRun) -> None:
        run.status = status
        vars(run)["error"] = error

    return set_status


def do_task(s3: S3Server, folder: Path) -> Callable[[FakeJobRun], None]:
    """Return a job that does the Spark task with Polars, from S3 to S3.

    folder: a folder for temporary files.
    """

    def prepare(pipes: PipesContext) -> None:
        task = SparkTask.from_json(pipes.get_extra("task"))
        store, ((name, uri),) = s3.store(), task.files.items()
        erased_users = ErasedUsers.decode(store.get(f"{task.work}/{ERASED_USERS_FILE}"))
        store.download(uri, folder / "raw.csv")
        target = folder / "interactions.csv"
        files = [RawFile(folder / "raw.csv", name)]
        with open_ratings(files, task.form, task.columns, task.rules, erased_users) as read:
            result = read.write_interactions(target)
        store.put(f"{task.work}/{PARTS}/part-0.csv", target.read_bytes().partition(b"\n")[2])
        pipes.report_custom_message(asdict(result))

    def do(run: FakeJobRun) -> None:
        if run.status != "SUCCEEDED":
            say(s3.client(), run.arguments or {}, prepare)
        run.status = "SUCCEEDED"

    return do
