"""The declared pipelines: whether Dagster can load them, and whether their sinks can be written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dagster as dg

from batchrec_dagster import BatchRecommendations
from batchrec_dagster.config import Pipeline, sinks
from batchrec_dagster.deployment import Deployment, DeploymentError
from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.pipeline.assets.sinks import (
    dynamodb_lists,
    export_file,
    export_path,
    postgres_target,
)
from batchrec_dagster.pipeline.loading import DeclarationError, load_pipelines
from batchrec_dagster.sinks import SinkError, SinkUnavailableError, dynamodb, export, postgres
from batchrec_dagster.storage.redaction import redacted
from batchrec_dagster.storage.resource import StorageResource


def sinks_findings(
    pipeline: Pipeline, project: Path, storage: StorageResource
) -> Iterator[Finding]:
    """Of each sink that the pipeline declares; relative paths start at the project's folder."""
    name, declared = pipeline.name, pipeline.sinks
    if sink := declared.postgres:
        yield _found(f"{name} postgres", partial(_in_postgres, pipeline, sink), sink.url_env)
    if table := declared.dynamodb:
        yield _found(f"{name} dynamodb", partial(_in_dynamodb, pipeline, table, storage))
    if declared.export and (path := export_path(declared.export, project)):
        yield _found(f"{name} export", partial(_exported, path, storage))


def _found(check: str, look: Callable[[str], Finding], secret: str = "") -> Finding:
    """What the look finds; `secret` is the variable whose value no message may have."""
    try:
        return look(check)
    except SinkError as error:
        message, _, fix = redacted(str(error), _secrets(secret)).partition("; ")
        again = "see that it runs, and that it is reached from here: the network, its address"
        lasting = "fix it as it says, then ask again"
        passing = isinstance(error, SinkUnavailableError)
        return failed(check, message, fix or (again if passing else lasting))


def _secrets(variable: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": os.environ.get(variable, "")}


def _in_postgres(pipeline: Pipeline, sink: sinks.Postgres, check: str) -> Finding:
    return ok(check, f"{postgres.look(postgres_target(pipeline, sink))} can be written")


def _in_dynamodb(
    pipeline: Pipeline, sink: sinks.DynamoDb, storage: StorageResource, check: str
) -> Finding:
    with dynamodb.explained(sink.table):
        lists = dynamodb_lists(pipeline, sink, storage)
        arn, expires = lists.check()
        lists.owned_by(arn)
    if not expires:
        fix = dynamodb.switch_on(sink.table)
        return warning(check, f"the time to live of {sink.table} is off", fix)
    return ok(check, f"the table {sink.table} is there")


def _exported(path: str, storage: StorageResource, check: str) -> Finding:
    store, uri = export_file(_nearest(path), storage)
    export.look(store, uri)
    return ok(check, f"{path} can be written")


def _nearest(path: str) -> str:
    """The file, but in the innermost of its folders that is there: no folder is made."""
    if path.startswith("s3://"):
        return path
    folder = Path(path).parent
    while not folder.exists():
        folder = folder.parent
    return str(folder / Path(path).name)


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
