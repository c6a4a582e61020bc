"""Checks of a project's pipelines: their filters, sources, alerts and sinks."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from batchrec_dagster.cli.readiness.sources import check_sources
from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok, warning
from batchrec_dagster.sinks import Sink, SinkContext
from batchrec_dagster.sinks.sink import SinkDescription
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.extras import require
from batchrec_dagster.storage.secrets import redact


def check_filters(pipeline: Pipeline) -> Iterator[Readiness]:
    """Yield a warning for each filter that lets through items missing from the items file."""
    for published in pipeline.user_lists:
        problem = published.settings.open_filter
        if problem is not None:
            message, _, fix = problem.partition(": ")
            setting = f"{published.setting}.filter"
            yield warning("filter", f"{pipeline.name}: {setting}: {message}", fix)


def check_upstream(pipeline: Pipeline, assets: Collection[str]) -> Iterator[Readiness]:
    """Yield a finding for each asset that a source names, but that the project does not have.

    assets: the keys of the project's assets, such as sales/orders.
    """
    for source in pipeline.sources:
        for path in source.upstream:
            key = "/".join(path)
            if key in assets:
                continue
            name = f"{pipeline.name} {source.block}"
            message = f"this project has no asset {key}"
            similar_keys = difflib.get_close_matches(key, assets, n=1, cutoff=0.8)
            if similar_keys:
                yield failed(name, message, f"write {similar_keys[0]}, or add {key} to the project")
            else:
                fix = "if another code location has it, add it here as an AssetSpec"
                yield warning(name, message, fix)


def check_connections(pipeline: Pipeline, storage: Storage, project: Path) -> Iterator[Readiness]:
    """Yield findings about the pipeline's sources, alerts and sinks.

    project: the folder from which relative paths start.
    """
    yield from check_sources(pipeline, storage, project)
    yield from _check_alerts(pipeline)
    yield from _check_sinks(pipeline, storage, project)


def _check_alerts(pipeline: Pipeline) -> Iterator[Readiness]:
    """Yield a failure if alerts cannot be sent, because Apprise or their variable is missing."""
    variable = pipeline.alerts.urls_env
    if variable is None:
        return
    try:
        require("alerts", "alerts.urls_env")
    except UserError as error:
        message, _, fix = str(error).partition(": ")
        yield failed(f"{pipeline.name} alerts", message, fix)
    if not os.environ.get(variable, "").strip():
        message = f"the environment variable {variable} is not set"
        yield failed(f"{pipeline.name} alerts", message, "set it, or write it into .env")


def _check_sinks(pipeline: Pipeline, storage: Storage, project: Path) -> Iterator[Readiness]:
    """Yield a finding for each sink that writes outside the pipeline's storage."""
    for published in pipeline.published_lists():
        context = SinkContext(published.address, storage, project, subject=published.subject)
        for key, sink in published.sinks.declared.items():
            description = sink.describe(project)
            if description.place:
                yield _check_sink(f"{published.address} {key}", sink, description, context)


def _check_sink(
    check: str, sink: Sink, description: SinkDescription, context: SinkContext
) -> Readiness:
    try:
        result = sink.check(context)
    except UserError as error:
        # `redact` recognises a secret by the name of its variable. The sink's own variable can have
        # any name, so its value is given under a name that counts as a secret.
        secret = {"DATABASE_URL": os.environ.get(description.secret or "", "")}
        message, _, fix = redact(str(error), {**os.environ, **secret}).partition("; ")
        if not fix and isinstance(error, Retry):
            fix = "check that it runs and can be reached from here"
        return failed(check, message, fix or "fix what the message names, then check again")
    if result.fix:
        return warning(check, result.message, result.fix)
    return ok(check, result.message)
