"""What a step works with: the declaration, the pipeline's files, and Personalize."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.ensure import Ensure
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.layout import SIMILAR_ITEMS, PipelineFiles
from batchrec_dagster.storage.lock import Lease


@dataclass(frozen=True)
class Work:
    """A declared pipeline and the storage of its files."""

    pipeline: Pipeline
    storage: StorageResource

    def for_pipeline(self, pipeline: Pipeline) -> Self:
        """The same for the pipeline narrowed to one of its lists, or for the whole of it."""
        return replace(self, pipeline=pipeline)

    def narrow_to_lists(self) -> list[Self]:
        """The same for the pipeline narrowed to each of its lists that a model makes."""
        return [self.for_pipeline(list_pipeline) for list_pipeline in self.pipeline.list_pipelines]

    @cached_property
    def files(self) -> PipelineFiles:
        """The pipeline's files in the storage."""
        return PipelineFiles(self.storage, self.pipeline.storage_keys)


def list_removed_lists(work: Work) -> list[str]:
    """The names of lists whose files are in the storage, but which are no longer declared.

    Raises UserError.
    """
    names = work.storage.store.subfolders(work.files.uri(work.files.storage_keys.all_lists))
    return sorted(set(names).difference(work.pipeline.lists, [SIMILAR_ITEMS]))


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

    def step_lease(self, asset: str, run: str) -> AbstractContextManager[None]:
        """Exclusive use of the asset's step for the run of this id. Raises UserError."""
        return Lease(
            store=self.storage.store,
            folder=self.files.uri(self.pipeline.storage_keys.lease(asset)),
            owner=run,
            log=self.ensure.log,
            deadline_seconds=self.ensure.deadline_seconds,
        ).hold()
