"""Reads what a pipeline published. Of a large table, it reads only the parts that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

# pyarrow.compute is not used, because it imports pandas for a plain value.
from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import SIMILAR_ITEMS, ListFiles, ListKeys
from batchrec_dagster.storage.nights import Night


@dataclass(frozen=True)
class PublishedResults:
    """The published results of a pipeline or of one of its lists. Every method raises
    UserError."""

    storage: Storage
    address: str
    """The pipeline's name, such as `shop`, or that of a list, such as `shop/newsletter`."""
    chosen_edition: Edition | None = None
    """The edition to read instead of the published one."""

    @property
    def files(self) -> ListFiles:
        return ListFiles(self.storage, ListKeys(self.address))

    @cached_property
    def edition(self) -> Edition | None:
        """The published table, or the chosen edition; None if there is none."""
        if self.chosen_edition is not None:
            return self.chosen_edition
        table = self.files.editions
        return table.live()

    def require_edition(self) -> Edition:
        """The same. Raises UserError if there is none."""
        if self.edition is None:
            name = self.address.partition("/")[0]
            raise UserError(f"{self.address} has published nothing yet: `batchrec run {name}`")
        return self.edition

    @cached_property
    def similar_items(self) -> PublishedResults | None:
        """The published lists of similar items of the same pipeline; None if there are none."""
        pipeline = self.files.keys.pipeline
        similar_items = PublishedResults(self.storage, f"{pipeline}/{SIMILAR_ITEMS}")
        return similar_items if similar_items.edition is not None else None

    @property
    def publication_time(self) -> datetime:
        """When the table was made."""
        return self.require_edition().made_at

    def read_publication(self) -> Night | None:
        """Since when the live edition is live, and why; None if nothing is."""
        return self.files.editions.record().live
