"""The users of a batch inference job as JSON Lines, in one file or in as many as they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import polars as pl
from annotated_types import Len

from batchrec_dagster.storage.durable import compute_version, read_pieces, temporary_folder
from batchrec_dagster.storage.json_records import parse_record
from batchrec_dagster.storage.object_store import (
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectStore,
)

# How many rows are encoded as JSON at once.
PIECE_ROWS = 1_000_000


@dataclass(frozen=True)
class PublishedUsers:
    """The users of a batch inference job as they were when their files were read."""

    input: str
    """The job's input: the URI of the one file, or of a folder, with its final slash."""
    version: str
    """The version of the content, however it is split."""


@dataclass(frozen=True)
class _Manifest:
    """The file that names several files."""

    files: Annotated[tuple[str, ...], Len(min_length=1)]


@dataclass(frozen=True)
class UsersFiles:
    """The users of a batch inference job: the one file `uri`, or several files in its folder.

    Where Personalize's limit of records in a file requires several, they are
    `FOLDER/VERSION/users_0001.json` and so on. Then `FOLDER/files.json` names them, and replaces
    the one file. A kill at any point leaves one whole list.
    """

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
            manifest = parse_record(self.store.get(self.manifest), _Manifest)
        except ObjectNotFoundError:
            return [self.uri]
        except ValueError as error:
            where = str(self.store.local_path(self.manifest) or self.manifest)
            fix = "delete it, and run the refresh, which makes it again"
            raise DamagedObjectError(where, error, fix) from error
        return [self.folder + name for name in manifest["files"]]

    def input(self) -> str:
        """The job's input: the URI of the one file, or of a folder, with its final slash."""
        return _locate_input(self.files())

    def version(self) -> str:
        """The version of the content, which is the same however it is split."""
        return self._compute_version(self.files())

    def read_published(self) -> PublishedUsers:
        """Where the published users are, and their version."""
        files = self.files()
        return PublishedUsers(_locate_input(files), self._compute_version(files))

    def publish(self, users: pl.DataFrame, max_records: int) -> None:
        """Write the users, a line each, and remove the files of an earlier list.

        max_records: how many lines Personalize reads from one file. If there are more users, they
        go into several files.
        """
        with temporary_folder() as folder:
            files = [
                _write_lines(part, folder / f"users_{number:04}.json")
                for number, part in enumerate(users.iter_slices(max_records), start=1)
            ]
            if len(files) == 1:
                self.store.put(self.uri, files[0])
                self.store.delete(self.manifest)
                uris_to_keep = {self.uri}
            else:
                version = compute_version(chunk for file in files for chunk in read_pieces(file))
                names = [f"{version}/{file.name}" for file in files]
                uris_to_keep = {self.folder + name for name in names} | {self.manifest}
                for name, file in zip(names, files, strict=True):
                    self.store.put(self.folder + name, file)
                self.store.put(self.manifest, json.dumps({"files": names}, indent=2).encode())
        for info in self.store.list(self.folder):
            if info.uri not in uris_to_keep:
                self.store.delete(info.uri)

    def _compute_version(self, files: list[str]) -> str:
        return compute_version(chain.from_iterable(map(self.store.chunks, files)))


def _locate_input(files: list[str]) -> str:
    """The URI of the one file, or of the folder of several files, with its final slash."""
    first, *others = files
    return first.rpartition("/")[0] + "/" if others else first


def measure_users(users: pl.DataFrame) -> tuple[str, int]:
    """The users' version, as UsersFiles.version, and the size of their lines in bytes."""
    size = 0

    def count_bytes() -> Iterator[bytes]:
        nonlocal size
        for piece in _encode_lines(users):
            size += len(piece)
            yield piece

    return compute_version(count_bytes()), size


def _encode_lines(users: pl.DataFrame) -> Iterator[bytes]:
    for piece in users.iter_slices(PIECE_ROWS):
        yield piece.write_ndjson().encode()


def _write_lines(users: pl.DataFrame, path: Path) -> Path:
    with path.open("wb") as file:
        file.writelines(_encode_lines(users))
    return path
