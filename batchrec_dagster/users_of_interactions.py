"""The users of the interactions, each with their last time and how many they have: a small file,
where Spark wrote both.

It is named by the ETag of the interactions that it was written with. Who finds one for the
interactions as they are has their users, whatever was killed or published meanwhile; who finds none
reads the interactions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

from batchrec_dagster.object_store import ObjectNotFoundError, ObjectStore


@dataclass(frozen=True)
class UsersOfInteractions:
    """Those of the interactions at `uri`: Parquet with USER_ID, TIMESTAMP and INTERACTIONS."""

    store: ObjectStore
    uri: str

    @property
    def folder(self) -> str:
        """Where the files lie, with its final slash: not among what Personalize may import."""
        return f"{self.uri.rpartition('/')[0]}_users/"

    def opened(self) -> BinaryIO | None:
        """The file of the interactions as they are now; None where there is none."""
        found = self.store.head(self.uri)
        if found is None or not found.etag:
            return None
        try:
            return self.store.opened(self.place(found.etag))
        except ObjectNotFoundError:
            return None

    def place(self, etag: str) -> str:
        """The URI of the file of the interactions that have this ETag."""
        # It may have any characters.
        return f"{self.folder}{hashlib.sha256(etag.encode()).hexdigest()[:16]}.parquet"

    def keep_only(self, etag: str) -> None:
        """Remove the files of other interactions than have this ETag."""
        for found in self.store.list(self.folder):
            if found.uri != self.place(etag):
                self.store.delete(found.uri)
