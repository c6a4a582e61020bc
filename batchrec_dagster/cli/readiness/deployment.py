"""Whether a deployment is ready for a run: its settings, folders, storage and Personalize."""

from __future__ import annotations

import os
from collections.abc import Iterator

from batchrec_dagster.cli.readiness.dagster_home import check_dagster_home
from batchrec_dagster.cli.readiness.folders import check_free_space, check_writable
from batchrec_dagster.cli.readiness.personalize import check_personalize
from batchrec_dagster.cli.readiness.storage import check_storage
from batchrec_dagster.config.environment import Environment, find_misspelt_variables
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok
from batchrec_dagster.storage.connection import Storage


def check_settings(environment: Environment) -> Iterator[Readiness]:
    """Findings about the environment variables that are settings of batchrec."""
    check = "settings"
    misspelt_settings = find_misspelt_variables(os.environ)
    for name, suggestion in misspelt_settings.items():
        yield failed(check, f"{name} is not a setting", f"rename it to {suggestion}")
    if not misspelt_settings:
        yield ok(check, f"storage {environment.storage}, Personalize {environment.personalize}")


def check_deployment(environment: Environment, storage: Storage) -> Iterator[Readiness]:
    """Findings about folders, disks, the storage and Personalize, the cheapest check first."""
    yield from check_dagster_home(environment.dagster_home, environment.home / "dagster")
    yield check_writable("home", environment.home, "BATCHREC_HOME")
    yield from check_free_space(environment)
    yield from check_storage(environment, storage)
    yield from check_personalize(environment, storage)
