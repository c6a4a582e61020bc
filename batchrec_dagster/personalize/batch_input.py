"""The users of a batch inference job: one file, or several if Personalize's limit of records in a
file requires it.

The one file is `FOLDER/users.json`. Several are `FOLDER/VERSION/users_0001.json` and so on; then
`FOLDER/files.json` names them and replaces the one file. A kill at any moment leaves one
whole list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.batch_files import MAX_INPUT_RECORDS
from batchrec_dagster.storage.durable import pieces, temporary_folder
from batchrec_dagster.storage.object_store import ObjectNotFoundError, ObjectStore

# Rows to encode as JSON at once.
PIECE = 1_000_000


@dataclass(frozen=True)
class UsersFiles:
    """The list of users whose one file is, or would be, at `uri`."""

    store: ObjectStore
    uri: str

    @property
    def folder(self) -> str:
        """The URI of the list's folder, with its final slash."""
        return self.uri.rpartition("/")[0] + "/"

    @property
    def manifest(self) -> str:
        """The URI of the file with the names of several files."""
        return f"{self.folder}files.json"

    def files(self) -> list[str]:
        """The URIs of the files, in order."""
        try:
            names = json.loads(self.store.get(self.manifest))["files"]
        except ObjectNotFoundError:
            return [self.uri]
        return [self.folder + name for name in names]

    def input(self) -> str:
        """The job's input: the URI of the one file, or of a folder, with its final slash."""
        first, *others = self.files()
        return first.rpartition("/")[0] + "/" if others else first

    def version(self) -> str:
        """16 hex digits of the SHA-256 of the content, however it is split."""
        return _version(chunk for uri in self.files() for chunk in self.store.chunks(uri))

    def publish(self, users: pl.DataFrame) -> None:
        """Write the users, a line each, and remove the files of an earlier list."""
        with temporary_folder() as folder:
            files = [
                _written(part, folder / f"users_{number:04}.json")
                for number, part in enumerate(users.iter_slices(MAX_INPUT_RECORDS), start=1)
            ]
            if len(files) == 1:
                self.store.put(self.uri, files[0])
                self.store.delete(self.manifest)
                kept = {self.uri}
            else:
                version = _version(chunk for file in files for chunk in pieces(file))
                names = [f"{version}/{file.name}" for file in files]
                kept = {self.folder + name for name in names} | {self.manifest}
                for name, file in zip(names, files, strict=True):
                    self.store.put(self.folder + name, file)
                self.store.put(self.manifest, json.dumps({"files": names}, indent=2).encode())
        for found in self.store.list(self.folder):
            if found.uri not in kept:
                self.store.delete(found.uri)


def measured(users: pl.DataFrame) -> tuple[str, int]:
    """The users' version, see UsersFiles.version, and their size in bytes."""
    size = 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for piece in _lines(users):
            size += len(piece)
            yield piece

    return _version(counted()), size


def _lines(users: pl.DataFrame) -> Iterator[bytes]:
    """The users as JSON Lines, in pieces."""
    for piece in users.iter_slices(PIECE):
        yield piece.write_ndjson().encode()


def _written(users: pl.DataFrame, path: Path) -> Path:
    with path.open("wb") as file:
        file.writelines(_lines(users))
    return path


def _version(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()[:16]
