"""The context of a step: the declared pipeline, its files, and the client of Personalize."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Self, TypeVar

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.personalize.ensure import Ensure
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.steps.checks import require_passed
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, ListFiles, PipelineFiles
from batchrec_dagster.storage.lock import Lock, hold_lock
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.storage.records import Record, load, save


@dataclass(frozen=True)
class Work:
    """The context of a step: a declared pipeline, and the storage of its files."""

    pipeline: Pipeline
    storage: Storage

    @cached_property
    def files(self) -> PipelineFiles:
        """The pipeline's files in the storage."""
        return PipelineFiles(self.storage, self.pipeline.keys)

    def files_of(self, published: PublishedList) -> ListFiles:
        """Return the files of one of the pipeline's lists in the storage."""
        return ListFiles(self.storage, published.keys)


def list_removed_lists(work: Work) -> list[str]:
    """Return the names of lists that have files in the storage, but are no longer declared.

    Raises UserError.
    """
    names = work.storage.store.subfolders(work.files.uri(work.files.keys.lists))
    return sorted(set(names).difference(work.pipeline.lists, [SIMILAR_ITEMS, SEGMENTS]))


@dataclass(frozen=True)
class PersonalizeWork(Work):
    """The context of a step that works in Personalize."""

    ensure: Ensure
    """The client that finds, adopts or creates resources in Personalize."""
    prices: Prices
    """The prices of jobs and trainings in Personalize."""

    def for_data(self, version: str) -> Self:
        """Return a copy that creates resources for this version of the data."""
        return replace(self, ensure=self.ensure.for_data(version))

    def lock(self, step: str, run: str) -> AbstractContextManager[Lock]:
        """Return a context that locks a step of the pipeline for one run.

        step: the name of the step, such as the name of its asset.
        run: the id of the run.

        Raises UserError.
        """
        return self._hold(self.pipeline.keys.lock(step), run)

    def list_lock(self, published: PublishedList, run: str) -> AbstractContextManager[Lock]:
        """Return a context that locks the step that publishes the list for one run.

        run: the id of the run.

        Raises UserError.
        """
        return self._hold(published.keys.list_lock(published.asset), run)

    def _hold(self, key: str, run: str) -> AbstractContextManager[Lock]:
        ensure = self.ensure
        return hold_lock(
            self.storage.store, self.files.uri(key), run, ensure.log, ensure.deadline_seconds
        )


class StepRecord(Record, frozen=True):
    """The record of a step, with the findings of its checks."""

    findings: tuple[Finding, ...] = ()

    def is_stored(self, store: ObjectStore) -> bool:
        """Return whether the step's output is still in the storage, unchanged. Raises UserError.

        Here the result is always True. PreparedRecord, the record of a file, checks the file.
        """
        return True


R = TypeVar("R", bound=StepRecord)


@dataclass(frozen=True)
class Result(Generic[R]):
    """The result of a step, made in this run or in an earlier one."""

    record: R
    is_unchanged: bool
    """Whether an earlier run made the result."""
    findings: tuple[Finding, ...]
    """The findings of the record, and of checks that depend on more than the step's inputs."""

    def with_check(self, check: Finding) -> Self:
        """Return a copy with one more finding. Raises Refused if the finding blocks."""
        findings = (*self.findings, check)
        require_passed(findings)
        return replace(self, findings=findings)


def once(
    work: Work, uri: str, model: type[R], made_of: Mapping[str, str], make: Callable[[], R]
) -> Result[R]:
    """Run `make` and store its record, or return the stored record if the inputs are unchanged.

    `make` also runs if the step's output is no longer in the storage.

    uri: the URI of the record.
    model: the class of the record.
    made_of: the versions of each input, of the settings and of the code, by name.
    make: the function that does the work and returns its record.

    Raises UserError, and Refused if a finding of the new record blocks.
    """
    store = work.storage.store
    last = load(store, uri, model)
    if last is not None and last.made_of == made_of and last.is_stored(store):
        return Result(last, is_unchanged=True, findings=last.findings)
    record = make()
    require_passed(record.findings)
    save(store, uri, record)
    return Result(record, is_unchanged=False, findings=record.findings)
