"""The context of a step: the declared pipeline, its storage, its run and Personalize."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol, Self

from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.personalize.resources import Resources
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, PipelineFiles
from batchrec_dagster.storage.lock import Lock, hold_lock


class RunHistory(Protocol):
    """The runs that the orchestrator remembers, by their ids."""

    def has_ended(self, run_id: str) -> bool:
        """Return whether the run is known and has ended, successfully or not."""

    def is_unfinished(self, run_id: str) -> bool:
        """Return whether the run is known, and neither the run nor a retry of it has succeeded."""


@dataclass(frozen=True)
class Run:
    """The run of Dagster, or the command, that a step belongs to."""

    id: str
    """The id of the run."""
    root_id: str
    """The id of the run, or of its first attempt if it is a retry.

    The costs of all attempts count towards the same limit, `budget.max_usd_per_run`.
    """
    start: datetime | None = None
    """The time at which the run started; None if it is not known."""
    publish_anyway: bool = False
    """Whether the run publishes even if a gate fails."""


def explain_publishing_anyway(pipeline: Pipeline) -> str:
    """Return the command that starts a run that no gate stops, for a message to the user."""
    return (
        f"`batchrec run {pipeline.name} --publish-anyway` (in Dagster's Launchpad:"
        " publish_anyway: true)"
    )


def measure_seconds(start: datetime | None) -> float | None:
    """Return the number of seconds since the start, rounded to 0.1.

    None if the start is not known, or if the clock was set back.
    """
    if start is None:
        return None
    seconds = (datetime.now(UTC) - start).total_seconds()
    return round(seconds, 1) if seconds >= 0 else None


@dataclass(frozen=True)
class StepContext:
    """The context of a step: the declared pipeline, its storage, its run and Personalize."""

    pipeline: Pipeline
    storage: Storage
    run: Run
    personalize: Resources | None = None
    """The pipeline's resources in Personalize; None for a step that does not use Personalize."""
    prices: Prices = field(default_factory=Prices)
    """The prices of jobs and trainings in Personalize."""

    @cached_property
    def files(self) -> PipelineFiles:
        """The pipeline's files in the storage."""
        return PipelineFiles(self.storage, self.pipeline.keys)

    def files_of(self, published: ListTable) -> ListFiles:
        """Return the list's files in the storage."""
        return ListFiles(self.storage, published.keys)

    @property
    def resources(self) -> Resources:
        """The pipeline's resources in Personalize.

        Raises RuntimeError for a step that does not use Personalize. The asset of a step that uses
        it is declared with `on_personalize=True`.
        """
        if self.personalize is None:
            raise RuntimeError("this step was started without Personalize")
        return self.personalize

    def for_data(self, version: str) -> Self:
        """Return a copy that creates resources for this version of the data."""
        return replace(self, personalize=self.resources.for_data(version))

    def lock(self, name: str) -> AbstractContextManager[Lock]:
        """Return a context that locks a step of the pipeline for this run.

        name: the name of the step, such as the name of its asset.

        Raises UserError.
        """
        return self._hold(self.pipeline.keys.lock(name))

    def list_lock(self, published: ListTable) -> AbstractContextManager[Lock]:
        """Return a context that locks the step that publishes the list for this run.

        Raises UserError.
        """
        return self._hold(published.keys.list_lock(published.asset))

    def _hold(self, key: str) -> AbstractContextManager[Lock]:
        resources = self.resources
        return hold_lock(
            self.storage.store,
            self.files.uri(key),
            self.run.id,
            resources.log,
            resources.deadline_seconds,
        )


def list_removed_lists(step: StepContext) -> list[str]:
    """Return the names of lists that have files in the storage, but are no longer declared.

    Raises UserError.
    """
    names = step.storage.store.subfolders(step.files.uri(step.files.keys.lists))
    return sorted(set(names).difference(step.pipeline.lists, [SIMILAR_ITEMS, SEGMENTS]))
