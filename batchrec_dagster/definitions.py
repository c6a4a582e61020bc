"""This project's code location: the pipelines under defs/, the resources, the executor."""

import os
from pathlib import Path

import dagster as dg

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.pipeline.automation.runs import console_logger
from batchrec_dagster.pipeline.loading import load_pipelines


@dg.definitions
def defs() -> dg.Definitions:
    deployment = Deployment.from_environment(os.environ)
    return dg.Definitions.merge(
        load_pipelines(Path(__file__).parent),
        dg.Definitions(
            resources=deployment.resources(),
            executor=deployment.executor(),
            loggers={"console": console_logger},
        ),
    )
