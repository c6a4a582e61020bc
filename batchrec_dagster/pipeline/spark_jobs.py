"""Runs Spark jobs with Dagster Pipes in a process on this machine; `spark_on_aws` runs them on AWS.

Each engine runs one task of `preparation.spark` and returns its result. A failed job raises
dg.Failure with the job's own reason, if it gave one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.config.project import PreparationSettings
from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.spark.task import SparkTask, SparkTaskResult
from batchrec_dagster.steps.interactions import SparkResult
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.extras import require


class OutcomeReader:
    """Mixin for Pipes message readers that keeps the outcome of the job.

    Dagster's clients return it only if the job succeeded.
    """

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

    def result(self) -> SparkTaskResult:
        """The result that the job reported. Raises dg.Failure if it reported none."""
        if "done" not in self.outcome:
            raise dg.Failure("the Spark job ended without reporting a result")
        return SparkTaskResult(**self.outcome["done"])


class LocalOutcomeReader(OutcomeReader, dg.PipesTempFileMessageReader):
    """Reads messages from a file on this machine."""


@contextmanager
def explain_failures(reader: OutcomeReader, describe: Callable[[], str]) -> Iterator[None]:
    """A block in which the errors of a Spark job become dg.Failure with a reason.

    reader: has the reason that the job reported.
    describe: gives another reason if the job reported none.
    """
    try:
        yield
    except (dg.Failure, UserError):
        raise
    except (ClientError, BotoCoreError) as error:
        raise dg.Failure(f"the Spark job did not run: {error}", allow_retries=False) from error
    except Exception as error:
        reason = reader.outcome.get("error") or f"the Spark job failed: {describe()}"
        raise dg.Failure(reason, allow_retries=False) from error


class SparkEngine(Protocol):
    """Where a task runs."""

    def run(
        self, context: dg.AssetExecutionContext, storage: Storage, task: SparkTask
    ) -> SparkResult:
        """Run the task. Raises UserError, dg.Failure."""


@dataclass(frozen=True)
class LocalSpark:
    """Spark in a separate process on this machine."""

    memory: str = "2g"

    def run(
        self, context: dg.AssetExecutionContext, storage: Storage, task: SparkTask
    ) -> SparkResult:
        require("spark", "preparation.engine spark")
        if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
            raise dg.Failure(
                "preparation.engine spark needs a Java runtime, 17 or 21: apt-get install"
                " default-jre-headless",
                allow_retries=False,
            )
        reader = LocalOutcomeReader()
        client = dg.PipesSubprocessClient(message_reader=reader)
        environment = {
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            # Next to the work folder, so that they go with it if this process is killed.
            "SPARK_LOCAL_DIRS": str(Path(task.work.removeprefix("file://")).with_name("spark")),
        }
        with explain_failures(reader, lambda: "see its output in the run's compute logs"):
            client.run(
                context=context,
                command=[sys.executable, "-m", "batchrec_dagster.preparation.spark.job"],
                env=environment,
                extras={"task": asdict(task), "local": {"memory": self.memory}},
            )
        return reader.result(), {}


def choose_spark_engine(declared: PreparationSettings) -> SparkEngine | None:
    """The Spark that prepares the interactions; None for the local engine."""
    match declared.engine:
        case "spark":
            return LocalSpark(declared.memory or LocalSpark.memory)
        case "glue":
            from batchrec_dagster.pipeline.spark_on_aws import GlueSpark

            return GlueSpark(declared)
    return None
