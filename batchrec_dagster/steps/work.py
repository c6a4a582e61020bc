"""What a step works with: the declaration, the pipeline's files, and Personalize."""

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
    """A declared pipeline and the storage of its files."""

    pipeline: Pipeline
    storage: Storage

    @cached_property
    def files(self) -> PipelineFiles:
        """The pipeline's files in the storage."""
        return PipelineFiles(self.storage, self.pipeline.keys)

    def files_of(self, published: PublishedList) -> ListFiles:
        """The files of one of the pipeline's lists in the storage."""
        return ListFiles(self.storage, published.keys)


def list_removed_lists(work: Work) -> list[str]:
    """The names of lists whose files are in the storage, but which are no longer declared.

    Raises UserError.
    """
    names = work.storage.store.subfolders(work.files.uri(work.files.keys.lists))
    return sorted(set(names).difference(work.pipeline.lists, [SIMILAR_ITEMS, SEGMENTS]))


@dataclass(frozen=True)
class PersonalizeWork(Work):
    """The same, with the client side of Personalize."""

    ensure: Ensure
    """Finds, adopts or creates resources."""
    prices: Prices
    """What they cost."""

    def for_data(self, version: str) -> Self:
        """The same, for resources made of data of this version."""
        return replace(self, ensure=self.ensure.for_data(version))

    def lock(self, step: str, run: str) -> AbstractContextManager[Lock]:
        """Exclusive use of the step of a pipeline's asset for the run of this id.

        Raises UserError.
        """
        return self._hold(self.pipeline.keys.lock(step), run)

    def list_lock(self, published: PublishedList, run: str) -> AbstractContextManager[Lock]:
        """Exclusive use of the step that publishes the list for the run of this id.

        Raises UserError.
        """
        return self._hold(published.keys.list_lock(published.asset), run)

    def _hold(self, key: str, run: str) -> AbstractContextManager[Lock]:
        ensure = self.ensure
        return hold_lock(
            self.storage.store, self.files.uri(key), run, ensure.log, ensure.deadline_seconds
        )


class StepRecord(Record, frozen=True):
    """The record of a step, with what its checks have found."""

    findings: tuple[Finding, ...] = ()

    def is_stored(self, store: ObjectStore) -> bool:
        """Whether what was made is still there, as it was. Raises UserError."""
        return True


R = TypeVar("R", bound=StepRecord)


@dataclass(frozen=True)
class Result(Generic[R]):
    """What a step has made, in this run or in an earlier one."""

    record: R
    is_unchanged: bool
    """Whether an earlier run has made it."""
    findings: tuple[Finding, ...]
    """Those of the record, and those of checks that depend on more than its inputs."""

    def with_check(self, check: Finding) -> Self:
        """The same with one more check. Raises Refused if it blocks."""
        findings = (*self.findings, check)
        require_passed(findings)
        return replace(self, findings=findings)


def once(
    work: Work, uri: str, model: type[R], made_of: Mapping[str, str], make: Callable[[], R]
) -> Result[R]:
    """What `make` makes, or what the record says was made of the same before.

    uri: of the record.
    made_of: the version of each input, of the settings and of the code, by name.
    make: makes it, and returns its record, which is stored.
    Raises UserError, and Refused if one of the record's checks blocks.
    """
    store = work.storage.store
    last = load(store, uri, model)
    if last is not None and last.made_of == made_of and last.is_stored(store):
        return Result(last, is_unchanged=True, findings=last.findings)
    record = make()
    require_passed(record.findings)
    save(store, uri, record)
    return Result(record, is_unchanged=False, findings=record.findings)
