"""The files of one list in the storage, with its editions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.storage.layout import ListKeys, PipelineFiles


@dataclass(frozen=True)
class ListFiles(PipelineFiles):
    """A list's files in the storage, and the files of its pipeline. The methods raise UserError."""

    keys: ListKeys

    @cached_property
    def editions(self) -> Editions:
        """The published editions of the list, live and kept."""
        return Editions(
            self.storage.store,
            self.uri(self.keys.table),
            self.uri(self.keys.list_record("editions")),
            companions=self.uri(self.keys.users_without_lists()),
        )
