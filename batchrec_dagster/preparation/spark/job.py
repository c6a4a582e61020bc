"""The Spark job's script, as Glue, EMR Serverless or a Python on this machine start it.

By Dagster Pipes it is told its task, by its kind, and tells what it does, what came out, or why
nothing did.
"""

from __future__ import annotations

import boto3
from dagster_pipes import (
    PipesCliArgsParamsLoader,
    PipesContext,
    PipesEnvVarParamsLoader,
    PipesParamsLoader,
    PipesS3ContextLoader,
    PipesS3MessageWriter,
    open_dagster_pipes,
)
from pyspark.sql import SparkSession

from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.spark.prepare import prepare
from batchrec_dagster.preparation.spark.session import local_session
from batchrec_dagster.preparation.spark.task import Task
from batchrec_dagster.preparation.spark.way_back import write_lists
from batchrec_dagster.preparation.spark.way_back_task import WayBack

# Seconds between two messages' files in S3.
INTERVAL = 3


def main() -> None:
    with _opened() as pipes:
        kind, fields = pipes.get_extra("kind"), pipes.get_extra("task")
        local = pipes.extras.get("local")
        spark = local_session(**local) if local else SparkSession.builder.getOrCreate()
        try:
            told = (
                write_lists(spark, WayBack.from_json(fields), pipes.log).to_json()
                if kind == WayBack.kind
                else prepare(spark, Task.from_json(fields), pipes.log).to_json()
            )
        except PreparationError as error:
            pipes.report_custom_message({"error": str(error)})
            raise
        pipes.report_custom_message({"done": told})
        if local:
            spark.stop()


def _opened() -> PipesContext:
    """Glue passes arguments, the others environment variables; they name objects in S3, or files of
    this machine."""
    loader: PipesParamsLoader = PipesCliArgsParamsLoader()  # type: ignore[no-untyped-call]
    if not loader.is_dagster_pipes_process():
        loader = PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call]
    if "bucket" not in loader.load_context_params():
        return open_dagster_pipes(params_loader=loader)
    s3 = boto3.client("s3")
    return open_dagster_pipes(
        params_loader=loader,
        context_loader=PipesS3ContextLoader(s3),
        message_writer=PipesS3MessageWriter(s3, interval=INTERVAL),
    )


if __name__ == "__main__":
    main()
