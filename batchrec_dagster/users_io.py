"""The IO manager of the users of batch inference: whoever reads them gets one whole list."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.io_managers import JsonLinesIOManager
from batchrec_dagster.object_store import StorageError
from batchrec_dagster.resources.storage import StorageResource
from batchrec_dagster.users_files import UsersFiles


class UsersIOManager(JsonLinesIOManager):
    """The users as JSON Lines, in one file or in several."""

    storage: StorageResource

    def handle_output(self, context: dg.OutputContext, obj: pl.DataFrame) -> None:
        users = UsersFiles(self.storage.store, self.storage.uri(self._key(context)))
        try:
            users.publish(obj)
            context.add_output_metadata({"dagster/uri": users.input()})
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def load(self, uri: str, wanted: object) -> Any:
        files = UsersFiles(self.storage.store, uri).files()
        if wanted is pl.LazyFrame:
            return pl.concat(self.scan(self.file(file)) for file in files)
        return self.decode(b"".join(self.storage.store.get(file) for file in files), wanted)
