"""This project's code location: the pipelines under defs/, the resources, the executor."""

import os
from functools import cache
from pathlib import Path

import dagster as dg

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.pipeline.automation.runs import console_logger
from batchrec_dagster.pipeline.loading import load_pipelines, load_valid_pipelines


# One `dagster` command calls this five times. A reload starts a new process.
@dg.definitions
@cache
def defs() -> dg.Definitions:
    deployment = Deployment.from_environment(os.environ)
    deployment.make_home()
    # `dagster definitions validate` and `dg check defs` fail if any pipeline is broken.
    validating = "DAGSTER_IS_DEFS_VALIDATION_CLI" in os.environ
    load = load_pipelines if validating else load_valid_pipelines
    return dg.Definitions.merge(
        load(Path(__file__).parent),
        dg.Definitions(
            resources=deployment.resources(),
            executor=deployment.executor(),
            loggers={"console": console_logger},
        ),
    )
