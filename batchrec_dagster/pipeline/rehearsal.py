"""A run of a declared pipeline in a home of its own: what a team's tests run of its defs.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.pipeline.component import BatchRecommendations
from batchrec_dagster.pipeline.loading import load_components
from batchrec_dagster.reporting.failure_reasons import find_failure_reason
from batchrec_dagster.storage.published_table import PublishedTable

# How often a run asks whether a job has ended. The embedded Personalize takes milliseconds.
POLL_SECONDS = "0.02"
# They say where a deployment's files and resources are, which a rehearsal must not reach.
DEPLOYMENT_VARIABLES = (
    "BATCHREC_STORAGE",
    "BATCHREC_PERSONALIZE",
    "BATCHREC_ROLE_ARN",
    "BATCHREC_TAGS",
)


class RehearsalFailedError(AssertionError):
    """The run failed. The message says which step, and why."""


class Rehearsal:
    """A finished run of a pipeline, and what it left."""

    def __init__(
        self,
        pipeline: BatchRecommendations,
        deployment: Deployment,
        result: dg.ExecuteInProcessResult,
    ) -> None:
        self._pipeline, self._deployment, self._result = pipeline, deployment, result

    @property
    def success(self) -> bool:
        """Whether the run succeeded."""
        return self._result.success

    @property
    def reason(self) -> str:
        """Which steps failed, and why; empty if none did."""
        events = [event for event in self._result.all_events if event.is_step_failure]
        return "\n".join(f"{event.step_key}: {find_failure_reason(event)}" for event in events)

    @property
    def home(self) -> Path:
        """The folder with all that it left: storage, models, report."""
        return self._deployment.home

    @property
    def lists(self) -> pl.DataFrame:
        """The published lists: user_id, rank, item_id and further columns."""
        (only_list,) = self._pipeline.list_pipelines
        return self._read(only_list)

    def lists_of(self, name: str) -> pl.DataFrame:
        """The published lists of one of the pipeline's `lists`. Raises KeyError if it has none."""
        for list_pipeline in self._pipeline.user_list_pipelines:
            if list_pipeline.list_name == name:
                return self._read(list_pipeline)
        raise KeyError(f"{self._pipeline.name} has no list {name}")

    def _read(self, list_pipeline: BatchRecommendations) -> pl.DataFrame:
        storage = self._deployment.storage_resource
        uri = storage.uri(list_pipeline.storage_keys.recommendations)
        _, frame = PublishedTable(storage.store, uri).read()
        return frame.collect()

    def metadata(self, asset: str) -> dict[str, Any]:
        """What the asset of this name, such as interactions, reported about itself."""
        key = self._pipeline.asset_key(asset)
        for event in self._result.get_asset_materialization_events():
            if event.asset_key == key:
                metadata = event.materialization.metadata
                return {name: value.value for name, value in metadata.items()}
        raise KeyError(f"{key.to_user_string()} was not made")

    @property
    def failed_checks(self) -> list[str]:
        """The names of the checks that did not pass, those that only warn too."""
        evaluations = self._result.get_asset_check_evaluations()
        return [evaluation.check_name for evaluation in evaluations if not evaluation.passed]


def rehearse(
    defs: Path, file: Path, settings: Mapping[str, Any], home: Path, *, report: bool
) -> Rehearsal:
    """Run the only pipeline that a file declares, on the embedded Personalize.

    defs: the project's folder of pipelines.
    settings: what is changed for this run, by path such as ratings.source.
    home: where all files go.
    report: whether the report is made, which takes a third of a small run.
    Raises DeclarationError or TrialError if the pipeline or a changed setting is not valid.
    """
    with _environment_of(home) as environment:
        (declared,) = load_components(defs, file.parent, BatchRecommendations)
        pipeline = declared.make_rehearsal(settings)
        deployment = Deployment.from_environment(environment)
        deployment.make_home()
        job = pipeline.build_rehearsal_defs(deployment, report=report).resolve_job_def(
            f"{pipeline.name}_refresh"
        )
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(instance=instance, raise_on_error=False)
    return Rehearsal(pipeline, deployment, result)


@contextmanager
def _environment_of(home: Path) -> Iterator[Mapping[str, str]]:
    """The environment without a deployment's settings, and with this home, within the block."""
    variables = {
        name: value for name, value in os.environ.items() if name not in DEPLOYMENT_VARIABLES
    }
    variables |= {"BATCHREC_HOME": str(home), "BATCHREC_POLL_SECONDS": POLL_SECONDS}
    outer_variables = dict(os.environ)
    _replace_environment(variables)
    try:
        yield os.environ
    finally:
        _replace_environment(outer_variables)


def _replace_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
