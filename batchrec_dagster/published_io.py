"""The IO manager of a published table: an asset hands over what to publish, and others read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.io_managers import ParquetIOManager, as_asked
from batchrec_dagster.object_store import StorageError
from batchrec_dagster.published_table import Edition, PublishedTable
from batchrec_dagster.resources.storage import StorageResource


@dataclass(frozen=True)
class NewEdition:
    """What to publish: the files of `TableFiles`; `keep` older editions stay."""

    files: Sequence[Path]
    keep: int


@dataclass(frozen=True)
class OlderEdition:
    """What to publish once more; `keep` other editions stay."""

    edition: Edition
    keep: int


class PublishedTableIOManager(ParquetIOManager):
    """Publishes a table, by an atomic put, last of all; whoever reads it gets one whole edition,
    also of a table in parts."""

    storage: StorageResource

    def handle_output(self, context: dg.OutputContext, obj: NewEdition | OlderEdition) -> None:
        table = PublishedTable(self.storage.store, self.storage.uri(self._key(context)))
        try:
            if isinstance(obj, NewEdition):
                edition = table.publish(obj.files, obj.keep)
            else:
                edition = obj.edition
                table.put_back(edition, obj.keep)
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.add_output_metadata(
            {
                "dagster/uri": table.manifest if edition.parts else table.uri,
                "edition": edition.number,
            }
        )

    def load(self, uri: str, wanted: object) -> Any:
        _, frame = PublishedTable(self.storage.store, uri).read()
        return frame if wanted is pl.LazyFrame else as_asked(frame.collect(), wanted)
