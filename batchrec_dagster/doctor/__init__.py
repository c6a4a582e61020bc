"""`batchrec doctor`: checks a deployment before the first nightly run, and says what to fix."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.deployment import Deployment, DeploymentError, find_misspelt_settings
from batchrec_dagster.doctor.aws import check_aws
from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.doctor.machine import check_machine
from batchrec_dagster.doctor.retention import check_retention
from batchrec_dagster.doctor.sources import check_sources
from batchrec_dagster.doctor.storage import check_storage
from batchrec_dagster.doctor.variables import check_alert_variable
from batchrec_dagster.pipeline.built_pipelines import get_built_pipelines
from batchrec_dagster.pipeline.loading import load_pipelines
from batchrec_dagster.sinks import Sink, SinkContext, SinkError, SinkUnavailableError
from batchrec_dagster.sinks.sink import SinkDescription
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.secrets import redact

__all__ = ["Finding", "check_deployment", "check_pipelines"]

FIX = "fix what the message names, then run doctor again"


def check_deployment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Findings about the settings, this machine, the storage and AWS, the cheapest check first."""
    try:
        deployment = Deployment.from_environment(environment)
    except DeploymentError as error:
        yield failed("settings", str(error), FIX)
        return
    unknown_settings = find_misspelt_settings(environment)
    for name, suggestion in unknown_settings.items():
        yield failed("settings", f"{name} is not a setting", f"rename it to {suggestion}")
    if not unknown_settings:
        yield ok("settings", f"storage {deployment.storage}, Personalize {deployment.personalize}")
    yield from check_machine(deployment)
    yield from check_storage(deployment)
    yield from check_aws(deployment)


def check_pipelines(package: Path) -> Iterator[Finding]:
    """Findings about whether Dagster can load the package's defs/, and open sources and sinks."""
    check = "pipelines"
    try:
        definitions = load_pipelines(package)
    except DeclarationError as error:
        for line in str(error).splitlines():
            yield failed(check, line, "fix this line")
    # A Python file in defs/ can raise anything.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        yield failed(
            check,
            f"Dagster cannot load {package / 'defs'}: {type(error).__name__}: {reason}",
            "for details, run: dg check defs",
        )
    else:
        yield ok(check, f"Dagster can load {package / 'defs'}")
        try:
            deployment = Deployment.from_environment(os.environ)
        except DeploymentError:
            # check_deployment() reports it.
            return
        tree = definitions.component_tree
        if tree is None:  # There are no pipelines.
            return
        pipelines = [*get_built_pipelines(tree)]
        for pipeline in pipelines:
            yield check_retention(pipeline, deployment)
            for list_pipeline in pipeline.published_pipelines:
                yield from _check_filter(list_pipeline)
            yield from check_sources(pipeline, deployment.storage_resource, tree.project_root)
            yield from check_alert_variable(pipeline, os.environ)
        yield from _check_sinks(pipelines, deployment.storage_resource, tree.project_root)


def _check_filter(pipeline: Pipeline) -> Iterator[Finding]:
    """A warning about a filter that lets items through which the items file does not have."""
    problem = pipeline.recommendations.open_filter
    if problem is not None:
        message, _, fix = problem.partition(": ")
        setting = f"{pipeline.list_setting}.filter"
        yield warning("filter", f"{pipeline.name}: {setting}: {message}", fix)


def _check_sinks(
    pipelines: Iterable[Pipeline], storage: StorageResource, project: Path
) -> Iterator[Finding]:
    """A finding for each sink that writes outside the pipeline's storage."""
    for list_pipeline in chain.from_iterable(
        pipeline.published_pipelines for pipeline in pipelines
    ):
        context = SinkContext(list_pipeline.address, storage, project, os.environ)
        for key, sink in list_pipeline.sinks.declared.items():
            description = sink.describe(project)
            if description.place:
                yield _check_sink(f"{list_pipeline.address} {key}", sink, description, context)


def _check_sink(
    check: str, sink: Sink, description: SinkDescription, context: SinkContext
) -> Finding:
    try:
        result = sink.check(context)
    except SinkError as error:
        # `redact` knows secrets by the variable's name. The sink's own variable can have any
        # name, so its value is given under a name that counts as a secret.
        secret = {"DATABASE_URL": os.environ.get(description.secret or "", "")}
        message, _, fix = redact(str(error), {**os.environ, **secret}).partition("; ")
        if not fix:
            unavailable = isinstance(error, SinkUnavailableError)
            fix = "check that it runs and can be reached from here" if unavailable else FIX
        return failed(check, message, fix)
    if result.fix:
        return warning(check, result.message, result.fix)
    return ok(check, result.message)
