"""Places whose files are deleted as a whole: the next refresh makes or copies them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.erasure.text_search import may_mention
from batchrec_dagster.storage.object_store import ObjectStore


@dataclass(frozen=True)
class WholeFiles:
    """Files that are deleted if they mention one of the people, or cannot be searched."""

    name: str
    consequence: str
    store: ObjectStore
    prefixes: Sequence[str]
    """The URIs of the files, or of folders, which end in a slash."""
    exceptions: Sequence[str] = ()
    """What the URIs of files among them start with that are of another place."""

    def count(self, people: People) -> Amount:
        return Amount(sum(1 for _ in self._find(people)), "files")

    def erase(self, people: People) -> int:
        uris = list(self._find(people))
        for uri in uris:
            self.store.delete(uri)
        return len(uris)

    def _find(self, people: People) -> Iterator[str]:
        for prefix in self.prefixes:
            for info in self.store.list(prefix):
                is_meant = prefix.endswith("/") or info.uri == prefix
                if not is_meant or info.uri.startswith(tuple(self.exceptions)):
                    continue
                if may_mention(self.store, info.uri, people):
                    yield info.uri


def make_folder_place(name: str, consequence: str, folder: Path) -> WholeFiles:
    """The place of the files in a folder of this machine outside the storage."""
    store = ObjectStore({"local": folder.absolute()})
    return WholeFiles(name, consequence, store, ["s3://local/"])
