"""Spark jobs on an AWS that is moto, with a real S3 server for the storage."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
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
from moto.moto_api import state_manager

from batchrec_dagster.pipeline.spark_jobs import SparkEngine
from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.spark.task import SourceFile, SparkTask, SparkTaskResult
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

ROLE = "arn:aws:iam::123456789012:role/spark"
TASK = SparkTask(
    [SourceFile("s3://shop/raw/ratings.csv", "ratings.csv")],
    Layout(",", "userId", "movieId", "rating", "timestamp"),
    Rules(min_rating=3.5),
    "s3://shop/interactions.csv",
    "s3://shop/users.parquet",
    "s3://shop/work",
)
DONE = SparkTaskResult(
    rows_read=3,
    left_out={"no user": 1},
    bad_row_examples=["line 2: no user"],
    timestamp_unit="s",
    users=2,
    users_with_two=0,
    items=1,
    earliest=10,
    latest=20,
    sha256="abc",
)


def create_storage(s3: S3Server, **tags: str) -> StorageResource:
    """A storage in S3, whose clients create what has these tags."""
    return StorageResource(
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
    """Say something by Pipes, as the job's script would. `params`: the arguments of a Glue job."""
    arguments = {"--dagster-pipes-context": "CONTEXT", "--dagster-pipes-messages": "MESSAGES"}
    environment = {f"DAGSTER_PIPES_{n}": params[a] for a, n in arguments.items() if a in params}
    with PipesContext(
        PipesMappingParamsLoader({**params, **environment}),
        PipesS3ContextLoader(s3),
        PipesS3MessageWriter(s3, interval=0.2),
    ) as pipes:
        send_messages(pipes)


def report_success(pipes: PipesContext) -> None:
    assert SparkTask.from_json(pipes.get_extra("task")) == TASK
    pipes.log.info("reading 1 files")
    pipes.report_custom_message({"done": asdict(DONE)})


def fail(pipes: PipesContext) -> None:
    pipes.report_custom_message({"error": "ratings.csv, line 2: no user"})


def run(
    engine: SparkEngine, storage: StorageResource, task: SparkTask = TASK
) -> tuple[dg.ExecuteInProcessResult, list[Any], str]:
    """Run the task in an asset: the run, what came out, and the reason of a failure."""
    came_out = []

    @dg.asset
    def interactions(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        result, metadata = engine.run(context, storage, task)
        came_out.append(result)
        return dg.MaterializeResult(metadata=metadata)

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([interactions], instance=instance, raise_on_error=False)
        messages = [log.message for log in instance.all_logs(result.run_id)]
    reasons = [
        event.step_failure_data.user_failure_data.description or ""
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    ]
    return result, came_out, "".join(reasons) + ("\n".join(messages) if not reasons else "")


def replace_sleep(
    monkeypatch: pytest.MonkeyPatch, module: str, sleep: Callable[[float], None]
) -> None:
    """Have a client of Dagster's do this where it would wait, and wait little for messages."""
    monkeypatch.setattr("dagster._core.pipes.utils.WAIT_FOR_LOGS_AFTER_EXECUTION_INTERVAL", 1)
    monkeypatch.setattr("batchrec_dagster.pipeline.spark_on_aws.INTERVAL", 0.2)
    monkeypatch.setattr(module, SimpleNamespace(sleep=sleep, time=lambda: 0.0))


@contextmanager
def glue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Glue whose runs change their status when the test says so."""
    replace_sleep(monkeypatch, "dagster_aws.pipes.clients.glue.time", time.sleep)
    transition = {"progression": "manual", "times": 1_000_000}
    state_manager.set_transition(model_name="glue::job_run", transition=transition)
    try:
        with mock_aws(config={"core": {"mock_credentials": False}}):
            yield
    finally:
        state_manager.unset_transition(model_name="glue::job_run")
