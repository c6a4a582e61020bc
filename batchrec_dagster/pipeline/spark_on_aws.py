"""Runs the Spark job with Dagster Pipes on AWS Glue.

Only pipelines that use Glue import this: dagster_aws takes longer to import than all the rest.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import dagster_pipes
from dagster_aws.pipes import PipesGlueClient, PipesS3ContextInjector, PipesS3MessageReader

from batchrec_dagster.config.project import PreparationSettings
from batchrec_dagster.pipeline.spark_jobs import OutcomeReader, explain_failures
from batchrec_dagster.preparation import spark
from batchrec_dagster.preparation.spark.task import SparkTask
from batchrec_dagster.steps.interactions import SparkResult
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.objects import split_uri

SCRIPT = Path(spark.__file__).with_name("job.py")
ROOT = SCRIPT.parents[2]
# The modules of this project that the Spark package imports. None of them imports Dagster.
MODULES = (
    "__init__.py",
    "errors.py",
    "personalize/__init__.py",
    "personalize/schemas.py",
    "preparation/__init__.py",
    "preparation/column_names.py",
    "preparation/layout.py",
    "preparation/polars/__init__.py",
    "preparation/polars/cells.py",
    "preparation/polars/json_decoding.py",
    "preparation/polars/row_conditions.py",
    "preparation/polars/rows.py",
    "preparation/polars/times.py",
    "preparation/polars/row_problems.py",
    "preparation/rules.py",
    "preparation/sources/__init__.py",
    "preparation/sources/errors.py",
    "preparation/sources/formats.py",
    "preparation/sources/limits.py",
    "storage/__init__.py",
    "storage/erased.py",
)


class SparkCode(NamedTuple):
    """The code of the Spark job in the storage."""

    script: str
    """The URI of the script."""

    modules: str
    """The URI of a zip with the modules that the script imports."""


def upload_code(storage: Storage) -> SparkCode:
    """Upload the code unless it is there. Raises UserError."""
    script, modules = SCRIPT.read_bytes(), zip_modules()
    code_version = hashlib.sha256(script + modules).hexdigest()[:16]
    code = SparkCode(
        storage.uri(f"code/spark-{code_version}/preparation.py"),
        storage.uri(f"code/spark-{code_version}/modules.zip"),
    )
    for uri, content in zip(code, (script, modules), strict=True):
        if storage.store.head(uri) is None:
            storage.store.put(uri, content)
    return code


def zip_modules() -> bytes:
    """A zip of the modules, which has the same bytes for the same modules."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_list_modules()):
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _list_modules() -> Iterator[tuple[str, Path]]:
    """The path of each module in the zip, and on this machine."""
    package = SCRIPT.parent
    for path in [*(ROOT / module for module in MODULES), *package.glob("*.py")]:
        yield f"batchrec_dagster/{path.relative_to(ROOT).as_posix()}", path
    for path in Path(dagster_pipes.__file__).parent.glob("*.py"):
        yield f"dagster_pipes/{path.name}", path


# Seconds between polls for messages in S3.
INTERVAL = 3
GLUE_VERSION = "5.0"


class S3OutcomeReader(OutcomeReader, PipesS3MessageReader):
    """Reads messages from under a prefix of the storage, and deletes them at the end."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        bucket, self._key = split_uri(storage.uri(prefix))
        super().__init__(interval=INTERVAL, bucket=bucket, client=storage.client("s3"))
        self._storage, self._prefix = storage, prefix

    @contextmanager
    def get_params(self) -> Iterator[Any]:
        with super().get_params() as params:
            try:
                yield {**params, "key_prefix": self._key}
            finally:
                for message in self._storage.store.list(f"{self._storage.uri(self._prefix)}/"):
                    self._storage.store.delete(message.uri)


@dataclass(frozen=True)
class GlueSpark:
    """An AWS Glue job, created with `role` if it does not exist.

    Each run passes its script and modules, so that the job always runs this code.
    """

    declared: PreparationSettings

    def run(
        self, context: dg.AssetExecutionContext, storage: Storage, task: SparkTask
    ) -> SparkResult:
        glue = storage.client("glue")
        prefix = f"pipes/{context.run.run_id}-{context.retry_number}"
        reader = S3OutcomeReader(storage, f"{prefix}/messages")
        bucket, key = split_uri(storage.uri(prefix))
        injector = PipesS3ContextInjector(
            bucket=bucket, client=storage.client("s3"), key_prefix=f"{key}/context-"
        )
        last_job_run: dict[str, Any] = {}

        def note_job_run(parsed: Mapping[str, Any], **_: Any) -> None:
            last_job_run.update(parsed.get("JobRun") or {})

        def describe_last_job_run() -> str:
            """What Glue last reported of the job run, which the client does not pass on."""
            state = last_job_run.get("JobRunState", "not started")
            return f"glue says: {state}, {last_job_run.get('ErrorMessage') or 'and no reason'}"

        glue.meta.events.register("after-call.glue.GetJobRun", note_job_run)
        with explain_failures(reader, describe_last_job_run):
            code = upload_code(storage)
            self._ensure_job(glue, code, storage.tags)
            completed = PipesGlueClient(injector, reader, glue).run(
                context=context,
                start_job_run_params={
                    "JobName": self.declared.job_name,
                    "Arguments": {
                        "--scriptLocation": code.script,
                        "--extra-py-files": code.modules,
                        # The version that runs here, so that rows are read alike.
                        "--additional-python-modules": f"polars=={version('polars')}",
                    },
                    **self._size(),
                },
                extras={"task": asdict(task)},
            )
        return reader.result(), completed.metadata

    def _ensure_job(self, glue: Any, code: SparkCode, tags: Mapping[str, str]) -> None:
        try:
            glue.get_job(JobName=self.declared.job_name)
        except glue.exceptions.EntityNotFoundException:
            name, role = self.declared.job_name, self.declared.role
            if role is None:
                raise dg.Failure(
                    f"there is no Glue job {name} (preparation.job_name): create it, or set"
                    " preparation.role so that batchrec creates it",
                    allow_retries=False,
                ) from None
            glue.create_job(
                Name=name,
                Role=role,
                Description="Interactions for Amazon Personalize",
                Command={"Name": "glueetl", "ScriptLocation": code.script, "PythonVersion": "3"},
                GlueVersion=GLUE_VERSION,
                ExecutionProperty={"MaxConcurrentRuns": 10},
                # Tags need another permission, glue:TagResource.
                **({"Tags": dict(tags)} if tags else {}),
                **self._size(),
            )

    def _size(self) -> dict[str, Any]:
        size = {
            "WorkerType": self.declared.worker_type,
            "NumberOfWorkers": self.declared.workers,
            "Timeout": self.declared.timeout_minutes,
        }
        return {name: value for name, value in size.items() if value is not None}
