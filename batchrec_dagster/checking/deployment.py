"""Whether a deployment is ready for a run: its settings, folders, storage and Personalize."""

from __future__ import annotations

import os
from collections.abc import Iterator

from batchrec_dagster.checking.dagster_home import check_dagster_home
from batchrec_dagster.checking.folders import check_free_space, check_writable
from batchrec_dagster.checking.personalize import check_personalize
from batchrec_dagster.checking.storage import check_storage
from batchrec_dagster.config.environment import find_misspelt_variables
from batchrec_dagster.pipeline.deployment import Deployment, DeploymentError
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok


def check_settings() -> Iterator[Readiness]:
    """Findings about the environment variables that are settings of batchrec."""
    check = "settings"
    try:
        deployment = Deployment.from_environment()
    except DeploymentError as error:
        yield failed(check, str(error), "correct it in the environment or in .env")
        return
    misspelt_settings = find_misspelt_variables(os.environ)
    for name, suggestion in misspelt_settings.items():
        yield failed(check, f"{name} is not a setting", f"rename it to {suggestion}")
    if not misspelt_settings:
        yield ok(check, f"storage {deployment.storage}, Personalize {deployment.personalize}")


def check_deployment(deployment: Deployment) -> Iterator[Readiness]:
    """Findings about folders, disks, the storage and Personalize, the cheapest check first."""
    yield from check_dagster_home(deployment.dagster_home, deployment.home / "dagster")
    yield check_writable("home", deployment.home, "BATCHREC_HOME")
    yield from check_free_space(deployment)
    yield from check_storage(deployment)
    yield from check_personalize(deployment)
