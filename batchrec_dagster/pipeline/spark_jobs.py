"""Functions that run Spark jobs with Dagster Pipes in a process on this machine.

`spark_on_aws` runs them on AWS. Each engine runs one task of `preparation.spark`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import dagster as dg

# Dagster has no public name for the error of a failed process.
from dagster._core.errors import DagsterPipesExecutionError

from batchrec_dagster.config.running import PreparationSettings
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.spark_results import make_job_failure, read_result
from batchrec_dagster.preparation.spark.task import SparkTask
from batchrec_dagster.steps.data.interactions import Prepared
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.extras import require

RunOnEngine = Callable[[dg.AssetExecutionContext, Storage, SparkTask], Prepared]
"""A function that runs a task. Raises UserError, and dg.Failure if the job failed."""


def choose_spark(declared: PreparationSettings) -> RunOnEngine | None:
    """Return the function that prepares the interactions on Spark; None for the local engine."""
    match declared.engine:
        case "spark":
            return partial(run_here, declared.memory or "2g")
        case "glue":
            from batchrec_dagster.pipeline.spark_on_aws import run_on_glue

            return partial(run_on_glue, declared)
    return None


def run_here(
    memory: str, context: dg.AssetExecutionContext, storage: Storage, task: SparkTask
) -> Prepared:
    """Run the task in a Spark process on this machine.

    Raises UserError, and dg.Failure if the job failed.

    memory: the memory of Spark's JVM, such as 2g.
    """
    require("spark", "preparation.engine spark")
    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        raise UserError(
            "preparation.engine spark needs a Java runtime, 17 or 21: apt-get install"
            " default-jre-headless"
        )
    environment = {
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        # Spark's files lie in the work folder, so that they are deleted with it if this process is
        # killed.
        "SPARK_LOCAL_DIRS": f"{task.work.removeprefix('file://')}/spark",
    }
    try:
        completed = dg.PipesSubprocessClient().run(
            context=context,
            command=[sys.executable, "-m", "batchrec_dagster.preparation.spark.job"],
            env=environment,
            extras={"task": asdict(task), "local": {"memory": memory}},
        )
    except DagsterPipesExecutionError as error:
        raise make_job_failure("see its output in the run's compute logs") from error
    return read_result(completed), {}
