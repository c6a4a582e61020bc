"""IO managers of the files that Personalize reads: interactions, items, users of a batch.

The IO managers in `storage/io_managers.py` do not depend on Personalize's formats.
"""

from __future__ import annotations

import glob
import io
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.personalize import batch_files
from batchrec_dagster.personalize.schemas import ITEM_ID, scan_interactions
from batchrec_dagster.storage.io_managers import (
    CsvIOManager,
    TableIOManager,
    storage_errors,
    to_polars,
)
from batchrec_dagster.storage.paths import PreparedFiles, UsersOfInteractions
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.users_files import UsersFiles


class ItemsCsvIOManager(CsvIOManager):
    """Personalize's items CSV.

    Ids are text. Another column holds numbers if all of its cells are numbers.
    """

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        types = {ITEM_ID: pl.String}
        return pl.scan_csv(source, schema_overrides=types, infer_schema_length=None, glob=False)


class UsersIOManager(TableIOManager):
    """Users as JSON Lines, in one file or several."""

    suffix = ".json"
    storage: StorageResource

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_ndjson(buffer)

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        # Polars always reads brackets and stars in this path as a pattern.
        return pl.scan_ndjson(glob.escape(str(source)) if isinstance(source, Path) else source)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        users_files = UsersFiles(self.storage.store, self.storage.uri(self._key(context)))
        with storage_errors():
            users_files.publish(to_polars(obj), batch_files.MAX_INPUT_RECORDS)
            context.add_output_metadata({"dagster/uri": users_files.input()})

    def load(self, uri: str, target_type: object) -> Any:
        files = UsersFiles(self.storage.store, uri).files()
        if target_type is pl.LazyFrame:
            paths = [self.file(file) for file in files]
            return pl.concat([self.scan(path) for path in paths])
        return self.decode(b"".join(self.storage.store.get(file) for file in files), target_type)


class InteractionsIOManager(CsvIOManager):
    """Personalize's interactions CSV, in which ids are text, even if they look like numbers.

    A file of the users, if Spark wrote one, is stored next to it.
    """

    storage: StorageResource

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        return scan_interactions(source)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if not isinstance(obj, PreparedFiles):
            super().handle_output(context, obj)
            return
        uri = self.storage.uri(self._key(context))
        users = UsersOfInteractions(self.storage.store, uri)
        with storage_errors():
            etag = self._move(obj.interactions, uri)
            self._move(obj.users, users.place(etag, obj.version))
            users.keep_only(etag)
        context.add_output_metadata({"dagster/uri": uri})

    def _move(self, source: Path | str, uri: str) -> str:
        """Move the file or object to `uri`, and return its new ETag."""
        store = self.storage.store
        if isinstance(source, Path):
            return store.put(uri, source)
        etag = store.copy(source, uri)
        store.delete(source)
        return etag
