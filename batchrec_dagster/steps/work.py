"""What a step works with: the declaration, the pipeline's files, and Personalize."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.personalize.ensure import Ensure
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, ListFiles, PipelineFiles
from batchrec_dagster.storage.lock import Lock, hold_lock


@dataclass(frozen=True)
class Work:
    """A declared pipeline and the storage of its files."""

    pipeline: Pipeline
    storage: StorageResource

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
