"""The files of a source, as runs keep them: copied to raw/, or read where they are.

A record tells of them from one run to the next. Its `files`, in order, have `source` (of that one
file), `uri` of the copy (None when it is read in place), `fingerprint`, and of copies `size` in
bytes and `sha256`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batchrec_dagster.config.ratings import Ratings
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.backends import Surroundings
from batchrec_dagster.preparation.sources.source import (
    SourceFile,
    copy_one_of_many,
    copy_source,
    list_source,
    local_source,
)
from batchrec_dagster.samples import generator
from batchrec_dagster.storage.paths import read_record
from batchrec_dagster.storage.resource import StorageResource

Record = dict[str, Any]


@dataclass(frozen=True)
class RawFiles:
    """The record, and how many of its files this run copied."""

    record: Record
    copied: int

    @property
    def outcome(self) -> str:
        files = self.record["files"]
        if any(file["uri"] is None for file in files):
            return "read in place"
        if not self.copied:
            return "unchanged: not copied again"
        return "copied" if self.copied == len(files) else f"copied {self.copied} of {len(files)}"


def bring(
    source: str,
    storage: StorageResource,
    project: Path,
    *,
    record: str,
    place: Callable[[str], str] | None,
) -> RawFiles:
    """Copy the files that the last run did not, or that have changed since; a relative path starts
    at the project's folder. `record` is the storage key of the last run's record, `place` makes one
    of a file's name; None leaves the files where they are. Raises SourceError, StorageError."""
    around = _surroundings(storage, project)
    found = list_source(source, around)
    before = {file["source"]: file for file in read_record(storage, record).get("files", [])}
    files, copied = [], 0
    for file in found:
        uri = storage.uri(place(file.filename)) if place else None
        known = before.get(without_secrets(file.source))
        if uri is None or not (known and _is_there(known, file, uri, storage)):
            known = _described(file, uri)
            if uri is not None:
                copy = copy_source if len(found) == 1 else copy_one_of_many
                done = copy(file.source, uri, around)
                known |= {"size": done.size, "sha256": done.sha256}
                copied += 1
        files.append(known)
    return RawFiles(_record(source, files), copied)


def state_at(source: str, storage: StorageResource, project: Path) -> str:
    """What is there now, as state_of tells it. Raises SourceError."""
    found = list_source(source, _surroundings(storage, project))
    return state_of([_described(file, None) for file in found])


def state_of(files: Sequence[Record]) -> str:
    """A digest that changes when a file of a record comes, goes or changes; empty of none."""
    told = [f"{file['source']} {file['fingerprint']}" for file in files]
    return _digest(told)[:32] if told else ""


def clear_away(before: Record, now: Record, storage: StorageResource) -> None:
    """Delete the copies of files that are no longer in the source."""
    kept = {file["uri"] for file in now["files"]}
    for file in before.get("files", []):
        if file["uri"] is not None and file["uri"] not in kept:
            storage.store.delete(file["uri"])


@contextmanager
def at_hand(
    record: Record, ratings: Ratings, storage: StorageResource, project: Path
) -> Iterator[list[RawFile]]:
    """The files on this machine, in order. Raises SourceError, StorageError."""
    if any(file["uri"] is None for file in record["files"]):
        # What the record has is without the secrets of a signed URL.
        with in_place(ratings.source, storage, project) as files:
            yield files
        return
    with ExitStack() as stack:
        yield [
            RawFile(
                stack.enter_context(storage.local_file(file["uri"])), storage.where(file["uri"])
            )
            for file in record["files"]
        ]


@contextmanager
def in_place(source: str, storage: StorageResource, project: Path) -> Iterator[list[RawFile]]:
    """The files of a source on this machine, in order. Raises SourceError."""
    around = _surroundings(storage, project)
    with ExitStack() as stack:
        yield [
            RawFile(
                stack.enter_context(local_source(file.source, around)),
                without_secrets(file.source),
            )
            for file in list_source(source, around)
        ]


def without_secrets(source: str) -> str:
    """The source as logs and metadata may show it: a signed URL's signature, or a password in a
    URL, is a secret."""
    if not source.startswith(("http://", "https://")):
        return source
    url, separator, member = source.partition("!/")
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{separator}{member}"


def _surroundings(storage: StorageResource, project: Path) -> Surroundings:
    return Surroundings(storage.store, project, Path(storage.cache), generator)


def _is_there(known: Record, file: SourceFile, uri: str, storage: StorageResource) -> bool:
    return (
        known["fingerprint"] == file.fingerprint
        and known["uri"] == uri
        and (there := storage.store.head(uri)) is not None
        and there.size == known["size"]
    )


def _described(file: SourceFile, uri: str | None) -> Record:
    return {
        "source": without_secrets(file.source),
        "uri": uri,
        "fingerprint": file.fingerprint,
    }


def _record(source: str, files: list[Record]) -> Record:
    """With a version that changes when any file does: of copies by their content."""
    told = [file.get("sha256") or f"{file['source']} {file['fingerprint']}" for file in files]
    version = told[0] if len(told) == 1 and "sha256" in files[0] else _digest(told)
    return {"source": without_secrets(source), "version": version[:16], "files": files}


def _digest(told: list[str]) -> str:
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
