"""The environment variables that a pipeline's sinks and alerts need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from batchrec_dagster.config import Pipeline
from batchrec_dagster.doctor.findings import Finding, failed


def check_variables(
    pipeline: Pipeline, project: Path, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """A failure for each variable of the pipeline's sinks and alerts that is not set.

    The variables of sources are not among them: opening the source shows whether they are set.
    """
    for list_pipeline in pipeline.published_pipelines:
        for key, sink in list_pipeline.sinks.declared.items():
            secret = sink.describe(project).secret
            yield from _check_variable(f"{list_pipeline.address} {key}", secret, environment)
    yield from check_alert_variable(pipeline, environment)


def check_alert_variable(pipeline: Pipeline, environment: Mapping[str, str]) -> Iterator[Finding]:
    """A failure if the alerts go to Slack, and its variable is not set."""
    name = f"{pipeline.name} alerts"
    yield from _check_variable(name, pipeline.alerts.slack_webhook_env, environment)


def _check_variable(
    check: str, variable: str | None, environment: Mapping[str, str]
) -> Iterator[Finding]:
    if variable is not None and not environment.get(variable, "").strip():
        message = f"the environment variable {variable} is not set"
        yield failed(check, message, "set it, or write it into .env")
