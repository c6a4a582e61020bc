"""What Spark knows of the interactions that it wrote, for those who need not read them then: their
version, and in a small file each user's last time and how many interactions they have.

The file lies in a folder named by the ETag of the interactions that it was written with, and has
their version for a name. Who finds one for the interactions as they are knows these, whatever was
killed or published meanwhile; who finds none reads the interactions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

import polars as pl

from batchrec_dagster.storage.object_store import ObjectNotFoundError, ObjectStore


@dataclass(frozen=True)
class UsersOfInteractions:
    """Those of the interactions at `uri`: Parquet with USER_ID, TIMESTAMP and INTERACTIONS."""

    store: ObjectStore
    uri: str

    @property
    def folder(self) -> str:
        """Where the files lie, with its final slash: not among what Personalize may import."""
        return f"{self.uri.rpartition('/')[0]}_users/"

    def table(self) -> pl.DataFrame | None:
        """The file of the interactions as they are now; None where there is none."""
        uri = self._found()
        if uri is None:
            return None
        try:
            with self.store.opened(uri) as file:
                return pl.read_parquet(file)
        except ObjectNotFoundError:
            return None

    def version(self) -> str | None:
        """StorageResource.version of the interactions as they are now; None where there is no file
        to tell it."""
        uri = self._found()
        return None if uri is None else PurePosixPath(uri).stem

    def place(self, etag: str, version: str) -> str:
        """The URI of the file of the interactions that have this ETag, and this version."""
        return f"{self._of(etag)}{version}.parquet"

    def keep_only(self, etag: str) -> None:
        """Remove the files of other interactions than have this ETag."""
        for found in self.store.list(self.folder):
            if not found.uri.startswith(self._of(etag)):
                self.store.delete(found.uri)

    def _found(self) -> str | None:
        interactions = self.store.head(self.uri)
        if interactions is None or not interactions.etag:
            return None
        return next((found.uri for found in self.store.list(self._of(interactions.etag))), None)

    def _of(self, etag: str) -> str:
        # It may have any characters.
        return f"{self.folder}{hashlib.sha256(etag.encode()).hexdigest()[:16]}/"
