"""The small file that Spark writes with the interactions: each user's last time and count.

Its folder is named after the ETag of its interactions, the file after their version. So a file
found for the current interactions always belongs to them, even after a kill; without one, the
interactions themselves are read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import polars as pl

from batchrec_dagster.storage.object_store import ObjectNotFoundError, ObjectStore

if TYPE_CHECKING:
    from batchrec_dagster.storage.resource import StorageResource


@dataclass(frozen=True)
class UsersOfInteractions:
    """The users of the interactions at `uri`: Parquet with USER_ID, TIMESTAMP, INTERACTIONS."""

    store: ObjectStore
    uri: str

    @property
    def folder(self) -> str:
        """The folder of the files, with its final slash; outside what Personalize imports."""
        return f"{self.uri.rpartition('/')[0]}_users/"

    def table(self) -> pl.DataFrame | None:
        """The users of the current interactions; None without a file."""
        uri = self._found()
        if uri is None:
            return None
        try:
            with self.store.opened(uri) as file:
                return pl.read_parquet(file)
        except ObjectNotFoundError:
            return None

    def version(self) -> str | None:
        """StorageResource.version of the current interactions; None without a file."""
        uri = self._found()
        return None if uri is None else PurePosixPath(uri).stem

    def place(self, etag: str, version: str) -> str:
        """The URI of the file for interactions with this ETag and version."""
        return f"{self._of(etag)}{version}.parquet"

    def keep_only(self, etag: str) -> None:
        """Delete the files of interactions with any other ETag."""
        for found in self.store.list(self.folder):
            if not found.uri.startswith(self._of(etag)):
                self.store.delete(found.uri)

    def _found(self) -> str | None:
        interactions = self.store.head(self.uri)
        if interactions is None or not interactions.etag:
            return None
        return next((found.uri for found in self.store.list(self._of(interactions.etag))), None)

    def _of(self, etag: str) -> str:
        # An ETag may contain any character.
        return f"{self.folder}{hashlib.sha256(etag.encode()).hexdigest()[:16]}/"


def interactions_version(storage: StorageResource, uri: str) -> str:
    """The version of the stored interactions, which are read for it unless Spark recorded it.
    Raises StorageError."""
    return UsersOfInteractions(storage.store, uri).version() or storage.version(uri)
