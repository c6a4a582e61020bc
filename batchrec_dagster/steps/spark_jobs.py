"""Runs Spark jobs with Dagster Pipes: in a local process, on AWS Glue, on EMR Serverless.

Each engine runs one task of `preparation.spark` and returns its result. A failed job raises
dg.Failure with the job's own reason, if it gave one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from dagster_aws.pipes import (
    PipesEMRServerlessClient,
    PipesGlueClient,
    PipesS3ContextInjector,
    PipesS3MessageReader,
)

from batchrec_dagster.config.interactions import Preparation
from batchrec_dagster.preparation.spark.task import Done, Task
from batchrec_dagster.steps.spark_code import SparkCode, upload_code
from batchrec_dagster.storage.object_store import StorageError, split_uri
from batchrec_dagster.storage.resource import StorageResource

# Seconds between polls for messages in S3.
INTERVAL = 3


class Messages:
    """Mixin for Pipes message readers that keeps the outcome, which the clients return only if
    the job succeeded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.outcome: dict[str, Any] = {}

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[Any]:
        handle = handler.handle_message

        def keep_outcome(message: Any) -> None:
            if message["method"] == "report_custom_message":
                self.outcome |= message["params"]["payload"]
            handle(message)

        handler.handle_message = keep_outcome
        with super().read_messages(handler) as params:  # type: ignore[misc]
            yield params

    def done(self) -> Mapping[str, Any]:
        if "done" not in self.outcome:
            raise dg.Failure("the Spark job ended without reporting a result")
        done: Mapping[str, Any] = self.outcome["done"]
        return done


class LocalMessages(Messages, dg.PipesTempFileMessageReader):
    """Messages through a local file."""


class S3Messages(Messages, PipesS3MessageReader):
    """Messages under a prefix of the storage, which are deleted at the end."""

    def __init__(self, storage: StorageResource, prefix: str) -> None:
        bucket, self._key = split_uri(storage.uri(prefix))
        super().__init__(interval=INTERVAL, bucket=bucket, client=storage.client("s3"))
        self._storage, self._prefix = storage, prefix

    @contextmanager
    def get_params(self) -> Iterator[Any]:
        with super().get_params() as params:
            try:
                yield {**params, "key_prefix": self._key}
            finally:
                for found in self._storage.store.list(f"{self._storage.uri(self._prefix)}/"):
                    self._storage.store.delete(found.uri)


@contextmanager
def explained(reader: Messages, why: Callable[[], str]) -> Iterator[None]:
    """Turn errors into dg.Failure with the job's own reason, else with that of `why`."""
    try:
        yield
    except dg.Failure:
        raise
    except StorageError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except (ClientError, BotoCoreError) as error:
        raise dg.Failure(f"the Spark job did not run: {error}", allow_retries=False) from error
    except Exception as error:
        reason = reader.outcome.get("error")
        raise dg.Failure(reason or f"the Spark job failed: {why()}", allow_retries=False) from error


GLUE_VERSION = "5.0"
# The task's result, and metadata of the job.
Ran = tuple[Done, Mapping[str, Any]]


class SparkEngine(Protocol):
    """Where a task runs. `on_aws`: on AWS, where the data must be in S3."""

    @property
    def on_aws(self) -> bool: ...

    def run(self, context: dg.AssetExecutionContext, storage: StorageResource, task: Task) -> Ran:
        """Run the task. Raises dg.Failure."""


@dataclass(frozen=True)
class LocalSpark:
    """Spark in a separate process on this machine."""

    memory: str = "2g"
    cores: str = "*"
    on_aws: bool = False

    def run(self, context: dg.AssetExecutionContext, storage: StorageResource, task: Task) -> Ran:
        self._check()
        reader = LocalMessages()
        client = dg.PipesSubprocessClient(message_reader=reader)
        with explained(reader, lambda: "see its output in the run's compute logs"):
            client.run(
                context=context,
                command=[sys.executable, "-m", "batchrec_dagster.preparation.spark.job"],
                env={"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable},
                extras={
                    "task": task.to_json(),
                    "local": {"cores": self.cores, "memory": self.memory},
                },
            )
        return Done.from_json(reader.done()), {}

    @staticmethod
    def _check() -> None:
        if importlib.util.find_spec("pyspark") is None:
            raise dg.Failure(
                "preparation.engine spark needs pyspark: pip install 'pyspark==3.5.*'",
                allow_retries=False,
            )
        if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
            raise dg.Failure(
                "preparation.engine spark needs a Java runtime, 17 or 21: apt-get install"
                " default-jre-headless",
                allow_retries=False,
            )


@dataclass(frozen=True)
class GlueSpark:
    """An AWS Glue job, created with `role` if it does not exist.

    Each run passes its script and modules, so that the job always runs this code. None: the job's
    own setting.
    """

    job_name: str
    role: str | None = None
    worker_type: str | None = None
    workers: int | None = None
    timeout_minutes: int | None = None
    on_aws: bool = True

    def run(self, context: dg.AssetExecutionContext, storage: StorageResource, task: Task) -> Ran:
        glue = storage.client("glue")
        with _on_aws(context, storage, glue, "glue", "ErrorMessage") as (code, injector, reader):
            self._ensure_job(glue, code)
            completed = PipesGlueClient(injector, reader, glue).run(
                context=context,
                start_job_run_params={
                    "JobName": self.job_name,
                    "Arguments": {
                        "--scriptLocation": code.script,
                        "--extra-py-files": code.modules,
                    },
                    **self._size(),
                },
                extras={"task": task.to_json()},
            )
        return Done.from_json(reader.done()), completed.metadata

    def _ensure_job(self, glue: Any, code: SparkCode) -> None:
        try:
            glue.get_job(JobName=self.job_name)
        except glue.exceptions.EntityNotFoundException:
            if self.role is None:
                raise dg.Failure(
                    f"there is no Glue job {self.job_name} (preparation.job_name): create it, or"
                    " set preparation.role so that batchrec creates it",
                    allow_retries=False,
                ) from None
            glue.create_job(
                Name=self.job_name,
                Role=self.role,
                Description="Interactions for Amazon Personalize",
                Command={"Name": "glueetl", "ScriptLocation": code.script, "PythonVersion": "3"},
                GlueVersion=GLUE_VERSION,
                ExecutionProperty={"MaxConcurrentRuns": 10},
                **self._size(),
            )

    def _size(self) -> dict[str, Any]:
        size = {
            "WorkerType": self.worker_type,
            "NumberOfWorkers": self.workers,
            "Timeout": self.timeout_minutes,
        }
        return {name: value for name, value in size.items() if value is not None}


@dataclass(frozen=True)
class EmrServerlessSpark:
    """A job run of an EMR Serverless application, release 7. Its Python must be 3.11 or newer:
    `spark_submit_parameters` can select one."""

    application_id: str
    role: str
    timeout_minutes: int | None = None
    spark_submit_parameters: str = ""
    on_aws: bool = True

    def run(self, context: dg.AssetExecutionContext, storage: StorageResource, task: Task) -> Ran:
        emr = storage.client("emr-serverless")
        with _on_aws(context, storage, emr, "emr-serverless", "stateDetails") as (
            code,
            injector,
            reader,
        ):
            submit = f"--py-files {code.modules} {self.spark_submit_parameters}".strip()
            limit = self.timeout_minutes
            completed = PipesEMRServerlessClient(emr, injector, reader).run(
                context=context,
                start_job_run_params={
                    "applicationId": self.application_id,
                    "executionRoleArn": self.role,
                    "name": context.asset_key.to_python_identifier(),
                    "jobDriver": {
                        "sparkSubmit": {
                            "entryPoint": code.script,
                            "sparkSubmitParameters": submit,
                        }
                    },
                    **({"executionTimeoutMinutes": limit} if limit is not None else {}),
                },
                extras={"task": task.to_json()},
            )
        return Done.from_json(reader.done()), completed.metadata


def spark_engine(declared: Preparation) -> SparkEngine | None:
    """The Spark that prepares the interactions; None for the local engine."""
    match declared.engine:
        case "spark":
            return LocalSpark(declared.memory or LocalSpark.memory)
        case "glue":
            return GlueSpark(
                declared.job_name or "",
                declared.role,
                declared.worker_type,
                declared.workers,
                declared.timeout_minutes,
            )
        case "emr_serverless":
            return EmrServerlessSpark(
                declared.application_id or "",
                declared.role or "",
                declared.timeout_minutes,
                declared.spark_submit_parameters or "",
            )
    return None


@contextmanager
def _on_aws(
    context: dg.AssetExecutionContext,
    storage: StorageResource,
    client: Any,
    service: str,
    reason: str,
) -> Iterator[tuple[SparkCode, PipesS3ContextInjector, S3Messages]]:
    """The uploaded code, context injector and message reader of a job on AWS. Failures carry
    the job state that the service last reported."""
    prefix = f"pipes/{context.run.run_id}-{context.retry_number}"
    reader = S3Messages(storage, f"{prefix}/messages")
    bucket, key = split_uri(storage.uri(prefix))
    injector = PipesS3ContextInjector(
        bucket=bucket, client=storage.client("s3"), key_prefix=f"{key}/context-"
    )
    last: dict[str, Any] = {}

    def note(parsed: Mapping[str, Any], **_: Any) -> None:
        last.update(parsed.get("JobRun") or parsed.get("jobRun") or {})

    def why() -> str:
        state = last.get("JobRunState") or last.get("state") or "not started"
        return f"{service} says: {state}, {last.get(reason) or 'and no reason'}"

    client.meta.events.register(f"after-call.{service}.GetJobRun", note)
    with explained(reader, why):
        yield upload_code(storage), injector, reader
