"""The script of the Spark job, which Glue or a local Python starts.

The job receives its task over Dagster Pipes, and reports its progress and its result or error
there.
"""

from __future__ import annotations

from dataclasses import asdict

import boto3
import dagster_pipes
from pyspark.sql import SparkSession

from batchrec_dagster.preparation.file_form import PreparationError
from batchrec_dagster.preparation.spark.prepare import run_task
from batchrec_dagster.preparation.spark.task import SparkTask

# The number of seconds between two files of messages in S3.
INTERVAL = 3


def main() -> None:
    """Run the task.

    If the files cannot be used, the job reports the refusal as its result and does not fail.
    """
    with _open_pipes() as pipes:
        task = SparkTask.from_json(pipes.get_extra("task"))
        local = pipes.extras.get("local")
        spark = open_local_session(**local) if local else SparkSession.builder.getOrCreate()
        try:
            pipes.report_custom_message(asdict(run_task(spark, task, pipes.log)))
        except PreparationError as error:
            pipes.report_custom_message({"refused": str(error)})
        if local:
            spark.stop()


def _open_pipes() -> dagster_pipes.PipesContext:
    """Return the connection to Dagster.

    Glue passes the parameters of Pipes as arguments that name objects in S3. A local run passes the
    parameters as environment variables that name files of this machine.
    """
    loader: dagster_pipes.PipesParamsLoader = dagster_pipes.PipesCliArgsParamsLoader()  # type: ignore[no-untyped-call]
    if not loader.is_dagster_pipes_process():
        loader = dagster_pipes.PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call]
    if "bucket" not in loader.load_context_params():
        return dagster_pipes.open_dagster_pipes(params_loader=loader)
    s3 = boto3.client("s3")
    return dagster_pipes.open_dagster_pipes(
        params_loader=loader,
        context_loader=dagster_pipes.PipesS3ContextLoader(s3),
        message_writer=dagster_pipes.PipesS3MessageWriter(s3, interval=INTERVAL),
    )


def open_local_session(cores: int | str = "*", memory: str = "2g", java: str = "") -> SparkSession:
    """Return a Spark session in one JVM that listens on this machine only.

    cores: the number of cores; `*` for all.
    memory: the memory of the JVM, such as 2g.
    java: more options for the JVM.
    """
    return (
        SparkSession.builder.master(f"local[{cores}]")
        .appName("batchrec preparation")
        .config("spark.driver.memory", memory)
        .config("spark.driver.extraJavaOptions", java)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "8")
        .getOrCreate()
    )


if __name__ == "__main__":
    main()
