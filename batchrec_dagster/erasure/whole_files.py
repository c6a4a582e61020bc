"""Places whose files are deleted as a whole: the next refresh makes or copies them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.storage.objects import ObjectStore


@dataclass(frozen=True)
class WholeFiles:
    """Files that are deleted, whoever is in them."""

    name: str
    consequence: str
    store: ObjectStore
    prefixes: Sequence[str]
    """The URIs of the files, or of folders, which end in a slash."""
    exceptions: Sequence[str] = ()
    """What the URIs of files among them start with that are of another place."""

    def count(self, people: People) -> Amount:
        return Amount(sum(1 for _ in self._find()), "files", is_of_people=False)

    def erase(self, people: People) -> int:
        uris = list(self._find())
        for uri in uris:
            self.store.delete(uri)
        return len(uris)

    def _find(self) -> Iterator[str]:
        for prefix in self.prefixes:
            for info in self.store.list(prefix):
                is_meant = prefix.endswith("/") or info.uri == prefix
                if is_meant and not info.uri.startswith(tuple(self.exceptions)):
                    yield info.uri


def make_folder_place(name: str, consequence: str, folder: Path) -> WholeFiles:
    """The place of the files in a folder of this machine outside the storage."""
    store = ObjectStore({"local": folder.absolute()})
    return WholeFiles(name, consequence, store, ["s3://local/"])
