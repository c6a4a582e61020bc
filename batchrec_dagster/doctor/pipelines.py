"""The declared pipelines: whether Dagster can load them, and whether their sinks can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batchrec_dagster import BatchRecommendations
from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment import Deployment, DeploymentError
from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.pipeline.loading import DeclarationError, load_pipelines
from batchrec_dagster.sinks import Sink, SinkContext, SinkError, SinkUnavailableError
from batchrec_dagster.sinks.sink import Description
from batchrec_dagster.storage.redaction import redacted
from batchrec_dagster.storage.resource import StorageResource

FIX = "fix what the message names, then run doctor again"


def sinks_findings(
    pipeline: Pipeline, project: Path, storage: StorageResource
) -> Iterator[Finding]:
    """A finding for each declared sink outside the storage; relative paths start at the project."""
    context = SinkContext(pipeline.name, storage, project, os.environ)
    for key, sink in pipeline.sinks.declared.items():
        described = sink.describe(project)
        if described.place:
            yield _check_sink(f"{pipeline.name} {key}", sink, described, context)


def _check_sink(check: str, sink: Sink, described: Description, context: SinkContext) -> Finding:
    try:
        checked = sink.check(context)
    except SinkError as error:
        # Whatever the variable is called, its value is a secret.
        secret = {"DATABASE_URL": os.environ.get(described.secret or "", "")}
        message, _, fix = redacted(str(error), {**os.environ, **secret}).partition("; ")
        unavailable = isinstance(error, SinkUnavailableError)
        advice = "check that it runs and can be reached from here" if unavailable else FIX
        return failed(check, message, fix or advice)
    if checked.fix:
        return warning(check, checked.message, checked.fix)
    return ok(check, checked.message)


def pipelines_findings(package: Path) -> Iterator[Finding]:
    """Of what is declared in the package's defs/."""
    check = "pipelines"
    try:
        loaded = load_pipelines(package)
    except DeclarationError as error:
        for line in str(error).splitlines():
            yield failed(check, line, "fix the declaration")
    except Exception as error:  # whatever a Python file there does
        reason = str(error).strip().partition("\n")[0]
        yield failed(
            check,
            f"Dagster cannot load {package / 'defs'}: {type(error).__name__}: {reason}",
            "dagster definitions validate -w workspace.yaml tells more",
        )
    else:
        yield ok(check, f"all that {package / 'defs'} declares can be loaded")
        yield from _sinks(loaded)


def _sinks(loaded: dg.Definitions) -> Iterator[Finding]:
    tree = loaded.component_tree
    try:
        storage = Deployment.from_environment(os.environ).resources()["storage"]
    except DeploymentError:  # which has been told
        return
    assert tree is not None, "load_pipelines makes one"
    for pipeline in tree.get_all_components(BatchRecommendations):
        yield from sinks_findings(pipeline, tree.project_root, storage)
