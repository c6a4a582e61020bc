"""The deployment and the storage of a project, or of a pipeline that has its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.component_files import DeclaredComponent, read_components
from batchrec_dagster.cli.declared_pipelines import COMPONENT_SUFFIX, read_pipeline_name
from batchrec_dagster.cli.project import (
    Project,
    ProjectError,
    find_project,
    importable_project,
    load_environment,
)

if TYPE_CHECKING:
    from batchrec_dagster.deployment import Deployment
    from batchrec_dagster.storage.resource import StorageResource


def load_storage(pipeline: str | None = None) -> StorageResource:
    """The storage of the project, or of a pipeline with a deployment of its own.

    pipeline: its name, or the address of one of its lists.

    Raises click.ClickException if a setting of the deployment is wrong.
    """
    return load_deployment(pipeline).storage_resource


def load_deployment(pipeline: str | None = None) -> Deployment:
    """The project's deployment, or a pipeline's own.

    Raises click.ClickException if a setting is wrong.
    """
    from batchrec_dagster.config.project import DeploymentSettings
    from batchrec_dagster.config.templates import fill_in, make_variables
    from batchrec_dagster.deployment import Deployment, DeploymentError

    variables = dict(load_environment())
    try:
        for declared, scope, root in _read_deployments(pipeline):
            values = make_variables(variables, scope, root)
            settings = {name: fill_in(str(value), values) for name, value in declared.items()}
            variables |= DeploymentSettings.model_validate(settings).variables
        with _importable_project_if_any():
            return Deployment.from_environment(variables)
    except (DeploymentError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _importable_project_if_any() -> Iterator[None]:
    """Lets a resource of the project be imported, if there is a project."""
    try:
        project = find_project()
    except ProjectError:
        yield
        return
    with importable_project(project):
        yield


def _read_deployments(
    pipeline: str | None,
) -> list[tuple[dict[str, Any], dict[str, Any], Path]]:
    """The settings of each BatchrecResources in the project, then those of the pipeline.

    With each are the template variables of its file, and the project's folder.
    """
    name = None if pipeline is None else read_pipeline_name(pipeline)
    try:
        project = find_project()
    except ProjectError:
        return []
    shared_deployments: list[tuple[dict[str, Any], dict[str, Any], Path]] = []
    pipeline_deployments: list[tuple[dict[str, Any], dict[str, Any], Path]] = []
    for component in read_components(project):
        if component.kind.endswith(".BatchrecResources"):
            settings, deployments = component.attributes, shared_deployments
        elif component.kind.endswith(COMPONENT_SUFFIX) and component.attributes.get("name") == name:
            settings = component.attributes.get("deployment") or {}
            deployments = pipeline_deployments
        else:
            continue
        if settings:
            scope = _load_template_variables(component, project)
            deployments.append((settings, scope, project.root))
    return [*shared_deployments, *pipeline_deployments]


def _load_template_variables(component: DeclaredComponent, project: Project) -> dict[str, Any]:
    """What the functions of the component's template_vars_module return, by their names.

    Those that need Dagster's context of a load are left out.
    """
    module_name = component.template_vars_module
    if module_name is None:
        return {}
    from importlib import import_module
    from inspect import signature

    from batchrec_dagster.dagster_internals.components import find_inline_template_vars_in_module

    if module_name.startswith("."):
        folder = component.file.parent.relative_to(project.code)
        module_name = ".".join(folder.parts) + module_name
    with importable_project(project):
        functions = find_inline_template_vars_in_module(import_module(module_name))
    return {
        name: function()
        for name, function in functions.items()
        if not signature(function).parameters
    }
