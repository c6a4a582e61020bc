"""The declared pipelines: whether Dagster can load them, and whether their sinks can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batchrec_dagster import BatchRecommendations
from batchrec_dagster.deployment import Deployment, DeploymentError
from batchrec_dagster.doctor.findings import Finding, failed, ok
from batchrec_dagster.doctor.sinks import sinks_findings
from batchrec_dagster.pipeline.loading import DeclarationError, load_pipelines


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
