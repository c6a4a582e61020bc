"""The files of a source, as runs keep them: copied to raw/, or read in place.

A record of them goes from one run to the next, so that unchanged files are not copied again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RatingsSource,
    SourceContext,
)
from batchrec_dagster.storage.object_store import DamagedObjectError
from batchrec_dagster.storage.paths import read_record
from batchrec_dagster.storage.resource import StorageResource


@dataclass(frozen=True)
class FileRecord:
    """A file of the source, without the secrets of a signed URL, and its copy.

    `uri`: of the copy, None when the file is read in place. `size` in bytes, SHA-256 in
    hexadecimal, both of the copy.
    """

    source: str
    uri: str | None
    fingerprint: str
    size: int | None = None
    sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        values = vars(self).items()
        return {key: value for key, value in values if key == "uri" or value is not None}


@dataclass(frozen=True)
class RawRecord:
    """The files of a source, as the last run recorded them."""

    source: str
    files: tuple[FileRecord, ...]
    """The files in order."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The name of the column of each role, where the files could be read."""
    inspected_with: str | None = None
    """A fingerprint of the settings that the files were inspected with, besides their own. Earlier
    versions recorded none."""

    @property
    def version(self) -> str:
        """16 hexadecimal digits that change when any file does: of copies by their content."""
        versions = [file.sha256 or f"{file.source} {file.fingerprint}" for file in self.files]
        if len(versions) == 1 and self.files[0].sha256:
            return versions[0][:16]
        return _digest_lines(versions)[:16]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """From what an earlier run wrote; without files where none did."""
        files = tuple(FileRecord(**file) for file in record.get("files", []))
        columns = record.get("columns", {})
        return cls(record.get("source", ""), files, columns, record.get("inspected_with"))

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "source": self.source,
            "version": self.version,
            "files": [file.to_json() for file in self.files],
        }
        if self.columns:
            record["columns"] = dict(self.columns)
        if self.inspected_with is not None:
            record["inspected_with"] = self.inspected_with
        return record


@dataclass(frozen=True)
class RawFiles:
    """The record, how many of its files this run copied, and which of these changed afterwards."""

    record: RawRecord
    copied: int
    changed: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        files = self.record.files
        if any(file.uri is None for file in files):
            return "read in place"
        if not self.copied:
            return "unchanged: not copied again"
        done = "copied" if self.copied == len(files) else f"copied {self.copied} of {len(files)}"
        if self.changed:
            more = f" and {len(self.changed) - 1} more" if len(self.changed) > 1 else ""
            done += f", as they were at the start: {self.changed[0]}{more} changed since"
        return done


@contextmanager
def bring_raw_files(
    source: RatingsSource,
    storage: StorageResource,
    project: Path,
    *,
    record: str,
    place: Callable[[str], str] | None,
) -> Iterator[RawFiles]:
    """Copy the files that are new or changed since the last run; a relative path starts at the
    project's folder.

    `record` is the storage key of the last run's record, `place` makes one of a filename; None
    leaves the files where they are. On leaving the block, copies of files that are no longer in the
    source are deleted; not when it raises, as the last run's record then stays in force. Raises
    SourceError, StorageError.
    """
    storage.store.tidy(storage.uri(f"{record.partition('/')[0]}/"))
    before = RawRecord.from_json(read_record(storage, record))
    raw = _copy_changed(source, storage, project, before, place)
    yield raw
    kept = {file.uri for file in raw.record.files}
    for file in before.files:
        if file.uri is not None and file.uri not in kept:
            storage.store.delete(file.uri)


def _copy_changed(
    source: RatingsSource,
    storage: StorageResource,
    project: Path,
    before: RawRecord,
    place: Callable[[str], str] | None,
) -> RawFiles:
    context = make_source_context(storage, project)
    found = source.files(context)
    known = {file.source: file for file in before.files}
    files, changed, copied = [], [], 0
    for file in found:
        uri = storage.uri(place(file.filename)) if place else None
        new = FileRecord(file.file.shown, uri, file.fingerprint)
        old = known.get(new.source)
        if uri is not None:
            if old is not None and _is_copied(old, new, storage):
                new = old
            else:
                done = file.file.copy(context, uri, may_be_empty=len(found) > 1)
                new = replace(new, size=done.size, sha256=done.sha256)
                copied += 1
                if file.file.changed(context):
                    changed.append(file.file.shown)
        files.append(new)
    record = RawRecord(source.shown, tuple(files))
    if record.files == before.files:
        record = replace(record, columns=before.columns, inspected_with=before.inspected_with)
    return RawFiles(record, copied, tuple(changed))


def _is_copied(old: FileRecord, new: FileRecord, storage: StorageResource) -> bool:
    return (
        (old.fingerprint, old.uri) == (new.fingerprint, new.uri)
        and old.uri is not None
        and (info := storage.store.head(old.uri)) is not None
        and info.size == old.size
    )


def find_unchanged_version(raw: RawFiles, storage: StorageResource) -> str | None:
    """The record's version if the copies of an earlier run still have its content; None if not, or
    if this run copied some, or left them in place. Reads them. Raises StorageError."""
    same = not raw.copied and all(
        file.uri is not None
        and file.sha256 is not None
        and file.sha256.startswith(storage.version(file.uri))
        for file in raw.record.files
    )
    return raw.record.version if same else None


@contextmanager
def open_raw_files(
    record: RawRecord, source: RatingsSource, storage: StorageResource, project: Path
) -> Iterator[list[RawFile]]:
    """The files on this machine, in order. Raises SourceError, StorageError."""
    if any(file.uri is None for file in record.files):
        yield from _open_in_place(record, source, storage, project)
        return
    with ExitStack() as stack:
        files = []
        for file in record.files:
            assert file.uri is not None
            path = stack.enter_context(storage.local_file(file.uri))
            if (size := path.stat().st_size) != file.size:
                raise DamagedObjectError(
                    storage.where(file.uri),
                    f"{size} bytes instead of {file.size}",
                    "run the refresh, which copies it again",
                )
            files.append(RawFile(path, storage.where(file.uri)))
        yield files


def _open_in_place(
    record: RawRecord, source: RatingsSource, storage: StorageResource, project: Path
) -> Iterator[list[RawFile]]:
    """Refuses files that are not the record's, or that change until the block is left."""
    context = make_source_context(storage, project)
    # The record is without the secrets of a signed URL.
    found = source.files(context)
    recorded = {file.source: file.fingerprint for file in record.files}
    listed = {file.file.shown: file.fingerprint for file in found}
    _refuse_changed(dict(recorded.items() ^ listed.items()))
    with ExitStack() as stack:
        yield [_open_file(file, context, stack) for file in found]
    _refuse_changed([file.file.shown for file in found if file.file.changed(context)])


def _refuse_changed(changed: Iterable[str]) -> None:
    for shown in sorted(changed):
        raise SourceError(
            f"{shown} is read in place, and changed after raw_ratings had listed it: materialize"
            " raw_ratings again, or set ratings.copy: true"
        )


def _open_file(found: ListedFile, context: SourceContext, stack: ExitStack) -> RawFile:
    return RawFile(stack.enter_context(found.file.open_locally(context)), found.file.shown)


@contextmanager
def open_source(
    source: RatingsSource, storage: StorageResource, project: Path
) -> Iterator[list[RawFile]]:
    """The files of a source on this machine, in order. Raises SourceError."""
    context = make_source_context(storage, project)
    with ExitStack() as stack:
        yield [_open_file(found, context, stack) for found in source.files(context)]


def digest_source(source: RatingsSource, storage: StorageResource, project: Path) -> str:
    """`digest_files` of the source's files as they are now. Raises SourceError."""
    found = source.files(make_source_context(storage, project))
    return digest_files([FileRecord(file.file.shown, None, file.fingerprint) for file in found])


def digest_files(files: Sequence[FileRecord]) -> str:
    """A digest that changes when a file comes, goes or changes; empty for no files."""
    lines = [f"{file.source} {file.fingerprint}" for file in files]
    return _digest_lines(lines)[:32] if lines else ""


def make_source_context(storage: StorageResource, project: Path) -> SourceContext:
    from batchrec_dagster.samples import generator

    return SourceContext(storage.store, project, Path(storage.cache), generator)


def _digest_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
