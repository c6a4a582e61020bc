"""Checks of a project: its settings, its pipelines, and the deployment."""

from __future__ import annotations

import os
from collections.abc import Iterator

from batchrec_dagster.cli.pipelines import find_definitions_errors, load_pipelines
from batchrec_dagster.cli.project import Project
from batchrec_dagster.cli.readiness.dagster_home import check_dagster_home
from batchrec_dagster.cli.readiness.folders import check_free_space, check_writable
from batchrec_dagster.cli.readiness.personalize import check_personalize
from batchrec_dagster.cli.readiness.pipelines import (
    check_connections,
    check_filters,
    check_upstream,
)
from batchrec_dagster.cli.readiness.storage import check_storage
from batchrec_dagster.config.environment import Environment, find_misspelt_variables
from batchrec_dagster.pipeline.deployment import Deployment, DeploymentError
from batchrec_dagster.pipeline.loading import list_asset_keys
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok
from batchrec_dagster.reporting.views.plain import shorten_path
from batchrec_dagster.storage.connection import Storage


def check_project(project: Project, *, offline: bool) -> Iterator[Readiness]:
    """Yield findings about everything that a run of the project needs.

    offline: whether to check only the settings and the YAML.
    """
    try:
        deployment = Deployment.from_environment()
    except DeploymentError as error:
        yield failed("settings", str(error), "correct it in the environment or in .env")
        return
    yield from _check_settings(deployment)
    loaded = load_pipelines(project)
    errors = loaded.errors or find_definitions_errors(project)
    for line in errors:
        yield failed("pipelines", line, "fix it; for details, run: dg check defs")
    pipelines = [*loaded.pipelines.values()]
    if not errors:
        names = ", ".join(sorted(loaded.pipelines))
        folder = shorten_path(project.defs)
        yield ok("pipelines", f"All pipelines in {folder} load: {names or 'there are none yet'}")
    assets = set() if loaded.definitions is None else list_asset_keys(loaded.definitions)
    for pipeline in pipelines:
        yield from check_filters(pipeline)
        yield from check_upstream(pipeline, assets)
    if offline:
        return
    storage = deployment.open_storage()
    yield from _check_deployment(deployment, storage)
    for pipeline in pipelines:
        yield from check_connections(pipeline, storage, project.root)


def _check_settings(environment: Environment) -> Iterator[Readiness]:
    """Yield findings about the environment variables that are batchrec's settings."""
    check = "settings"
    misspelt_settings = find_misspelt_variables(os.environ)
    for name, suggestion in misspelt_settings.items():
        yield failed(check, f"{name} is not a setting", f"rename it to {suggestion}")
    if not misspelt_settings:
        yield ok(check, f"storage {environment.storage}, Personalize {environment.personalize}")


def _check_deployment(environment: Environment, storage: Storage) -> Iterator[Readiness]:
    """Yield findings about folders, disks, storage and Personalize, the cheapest check first."""
    yield from check_dagster_home(environment.dagster_home, environment.home / "dagster")
    yield check_writable("home", environment.home, "BATCHREC_HOME")
    yield from check_free_space(environment)
    yield from check_storage(environment, storage)
    yield from check_personalize(environment, storage)
