"""The IO manager of a published table: others read what an asset has published."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.io_managers import ParquetIOManager, as_asked
from batchrec_dagster.published_table import Edition, PublishedTable
from batchrec_dagster.resources.storage import StorageResource


class PublishedTableIOManager(ParquetIOManager):
    """Whoever reads the table gets one whole edition, also of a table in parts. The asset publishes
    it itself, while no other run is at work on it, and hands over the edition."""

    storage: StorageResource

    def handle_output(self, context: dg.OutputContext, obj: Edition) -> None:
        table = PublishedTable(self.storage.store, self.storage.uri(self._key(context)))
        context.add_output_metadata(
            {"dagster/uri": table.manifest if obj.parts else table.uri, "edition": obj.number}
        )

    def load(self, uri: str, wanted: object) -> Any:
        _, frame = PublishedTable(self.storage.store, uri).read()
        return frame if wanted is pl.LazyFrame else as_asked(frame.collect(), wanted)
