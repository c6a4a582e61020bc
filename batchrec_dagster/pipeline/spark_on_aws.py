"""Functions that run the Spark job with Dagster Pipes on AWS Glue.

Only pipelines that use Glue import this module, because dagster_aws takes longer to import than
everything else together.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from dagster_aws.pipes import PipesGlueClient, PipesS3ContextInjector, PipesS3MessageReader

from batchrec_dagster.config.running import PreparationSettings
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.spark_results import make_job_failure, read_result
from batchrec_dagster.preparation import spark
from batchrec_dagster.preparation.spark.task import SparkTask
from batchrec_dagster.steps.data.interactions import Prepared
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.objects import split_uri

SCRIPT = Path(spark.__file__).with_name("job.py")
PACKAGE = SCRIPT.parents[2]
# The libraries that Glue installs, in the versions that run here, so that Glue and this machine
# read rows alike.
LIBRARIES = ("polars", "dagster-pipes")
GLUE_VERSION = "5.0"
# Seconds between polls for messages in S3.
INTERVAL = 3
# The states of a job run that ended without success.
FAILED_STATES = ("FAILED", "STOPPED", "TIMEOUT", "ERROR")


def zip_package() -> bytes:
    """Return a zip of this package. The same code always gives the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(PACKAGE.rglob("*.py")):
            name = path.relative_to(PACKAGE.parent).as_posix()
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def upload_code(storage: Storage) -> dict[str, str]:
    """Upload this code, unless the storage has it, and return the job run's arguments to use it.

    Raises UserError.
    """
    package = zip_package()
    folder = storage.uri(f"code/spark-{hashlib.sha256(package).hexdigest()[:16]}")
    contents = {f"{folder}/job.py": SCRIPT.read_bytes(), f"{folder}/package.zip": package}
    for uri, content in contents.items():
        if storage.store.head(uri) is None:
            storage.store.put(uri, content)
    script, modules = contents
    return {
        "--scriptLocation": script,
        "--extra-py-files": modules,
        "--additional-python-modules": ",".join(f"{name}=={version(name)}" for name in LIBRARIES),
    }


class MessageReader(PipesS3MessageReader):
    """A reader of the messages that a job writes to a folder. It deletes them at the end."""

    def __init__(self, storage: Storage, folder: str) -> None:
        bucket, self._key = split_uri(folder)
        super().__init__(interval=INTERVAL, bucket=bucket, client=storage.client("s3"))
        self._store, self._folder = storage.store, folder

    @contextmanager
    def get_params(self) -> Iterator[Any]:
        with super().get_params() as params:
            try:
                yield {**params, "key_prefix": self._key}
            finally:
                for message in self._store.list(f"{self._folder}/"):
                    self._store.delete(message.uri)


def run_on_glue(
    declared: PreparationSettings,
    context: dg.AssetExecutionContext,
    storage: Storage,
    task: SparkTask,
) -> Prepared:
    """Run the task as an AWS Glue job. Raises UserError, and dg.Failure if the job failed.

    Each run passes the URIs of the script and the package, so that the job always runs this code.
    """
    glue = storage.client("glue")
    folder = storage.uri(f"pipes/{context.run.run_id}-{context.retry_number}")
    reader = MessageReader(storage, f"{folder}/messages")
    bucket, key = split_uri(f"{folder}/context-")
    injector = PipesS3ContextInjector(bucket=bucket, client=reader.client, key_prefix=key)
    last_job_run: dict[str, Any] = {}

    def note_job_run(parsed: Mapping[str, Any], **_: Any) -> None:
        last_job_run.update(parsed.get("JobRun") or {})

    def note_start(parsed: Mapping[str, Any], **_: Any) -> None:
        if "JobRunId" in parsed:
            last_job_run["JobRunState"] = "STARTING"

    glue.meta.events.register("after-call.glue.StartJobRun", note_start)
    glue.meta.events.register("after-call.glue.GetJobRun", note_job_run)
    size = {
        "WorkerType": declared.worker_type,
        "NumberOfWorkers": declared.workers,
        "Timeout": declared.timeout_minutes,
    }
    size = {name: value for name, value in size.items() if value is not None}
    # Tags need an additional permission, glue:TagResource. So they are passed only if declared.
    tags = {"Tags": dict(storage.tags)} if storage.tags else {}
    arguments = upload_code(storage)
    _ensure_job(glue, declared, arguments["--scriptLocation"], {**size, **tags})
    try:
        completed = PipesGlueClient(injector, reader, glue).run(
            context=context,
            start_job_run_params={
                "JobName": declared.job_name,
                "Arguments": arguments,
                **size,
            },
            extras={"task": asdict(task)},
        )
    except (ClientError, BotoCoreError) as error:
        if not last_job_run:
            raise
        # A retry would start, and pay for, a second job run.
        raise dg.Failure(
            f"the Glue job {declared.job_name} may still run, but its state is not known: {error}",
            allow_retries=False,
        ) from error
    except RuntimeError as error:
        # The client raises this error if the job run has failed.
        if last_job_run.get("JobRunState") not in FAILED_STATES:
            raise
        # The client's error may leave out the reason. Glue's last report of the job run has it.
        reason = last_job_run.get("ErrorMessage") or "and no reason"
        raise make_job_failure(f"glue says: {last_job_run['JobRunState']}, {reason}") from error
    return read_result(completed), completed.metadata


def _ensure_job(
    glue: Any, declared: PreparationSettings, script: str, settings: Mapping[str, Any]
) -> None:
    """Create the job if there is none. Raises UserError if no role is declared for it."""
    try:
        glue.get_job(JobName=declared.job_name)
    except glue.exceptions.EntityNotFoundException:
        if declared.role is None:
            raise UserError(
                f"there is no Glue job {declared.job_name} (preparation.job_name): create it, or"
                " set preparation.role so that batchrec creates it"
            ) from None
        glue.create_job(
            Name=declared.job_name,
            Role=declared.role,
            Description="Interactions for Amazon Personalize",
            Command={"Name": "glueetl", "ScriptLocation": script, "PythonVersion": "3"},
            GlueVersion=GLUE_VERSION,
            ExecutionProperty={"MaxConcurrentRuns": 10},
            **settings,
        )
