"""The IO manager of the interactions: what Spark prepared is published with its users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.io_managers import InteractionsCsvIOManager
from batchrec_dagster.object_store import StorageError
from batchrec_dagster.resources.storage import StorageResource
from batchrec_dagster.users_of_interactions import UsersOfInteractions


@dataclass(frozen=True)
class Prepared:
    """The interactions' CSV and the Parquet of their users, to be published: files of this machine,
    or the URIs of objects in the storage, which are moved. The version is that of the CSV, as
    StorageResource.version gives it."""

    interactions: Path | str
    users: Path | str
    version: str


class InteractionsIOManager(InteractionsCsvIOManager):
    """Personalize's interactions CSV, with the users beside it where they come with it."""

    storage: StorageResource

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if not isinstance(obj, Prepared):
            super().handle_output(context, obj)
            return
        uri = self.storage.uri(self._key(context))
        users = UsersOfInteractions(self.storage.store, uri)
        try:
            etag = self._move(obj.interactions, uri)
            self._move(obj.users, users.place(etag, obj.version))
            users.keep_only(etag)
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.add_output_metadata({"dagster/uri": uri})

    def _move(self, source: Path | str, uri: str) -> str:
        """The ETag of what lies at the URI then."""
        store = self.storage.store
        if isinstance(source, Path):
            return store.put(uri, source)
        etag = store.copy(source, uri)
        store.delete(source)
        return etag
