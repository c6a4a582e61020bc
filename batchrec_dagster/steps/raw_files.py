"""The files of a source, as runs keep them: copied to raw/.

A record of them goes from one run to the next, so that unchanged files are not copied again. It has
the SHA-256 of each copy, and a copy with any other content is not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.source import (
    RatingsSource,
    SourceContext,
)
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.durable import compute_sha256, read_pieces
from batchrec_dagster.storage.layout import read_record, write_record
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectInfo


@dataclass(frozen=True)
class FileRecord:
    """A file of the source, and its copy."""

    source: str
    """The file, without the secrets of a signed URL."""
    uri: str
    """The URI of the copy."""
    fingerprint: str
    """It changes when the file of the source does."""
    size: int
    """The bytes of the copy."""
    sha256: str
    """The SHA-256 of the copy, in hexadecimal."""
    etag: str | None = field(default=None, compare=False)
    """The ETag in S3 of the copy with this SHA-256; None of a copy on this machine."""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class RawRecord:
    """The files of a source, as the last run recorded them."""

    source: str
    files: tuple[FileRecord, ...]
    """The files in order."""
    inspected_with: str | None = None
    """A fingerprint of the settings that the files were inspected with, besides their own; None
    before they were."""
    copies_deleted: bool = False
    """Whether the copies were deleted after the interactions were made, because they had rows of
    users who were erased."""

    @property
    def version(self) -> str:
        """16 hexadecimal digits that change when the content of any copy does."""
        versions = [file.sha256 for file in self.files]
        if len(versions) == 1:
            return versions[0][:16]
        return _digest_lines(versions)[:16]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The record that an earlier run wrote; without files for an empty one."""
        files = tuple(FileRecord(**file) for file in record.get("files", []))
        return cls(
            record.get("source", ""),
            files,
            record.get("inspected_with"),
            record.get("copies_deleted", False),
        )

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "source": self.source,
            "version": self.version,
            "files": [file.to_json() for file in self.files],
        }
        if self.inspected_with is not None:
            record["inspected_with"] = self.inspected_with
        if self.copies_deleted:
            record["copies_deleted"] = True
        return record


@dataclass(frozen=True)
class RawFiles:
    """The files of a source as a run has brought them."""

    record: RawRecord
    copied: int
    """How many files this run copied."""
    changed: tuple[str, ...] = ()
    """Which of the copied files changed in their source afterwards."""
    damaged: tuple[str, ...] = ()
    """The paths of copies that had another content than recorded. This run copied them again."""

    @property
    def outcome(self) -> str:
        """What this run did, in words."""
        files = self.record.files
        if not self.copied:
            return "unchanged: not copied again"
        outcome = "copied" if self.copied == len(files) else f"copied {self.copied} of {len(files)}"
        if self.changed:
            outcome += f", as they were at the start: {_name_first(self.changed)} changed since"
        if self.damaged:
            outcome += f"; {_name_first(self.damaged)} had another content than recorded"
        return outcome

    @property
    def unchanged_version(self) -> str | None:
        """The record's version, if the copies of an earlier run still have the recorded content.

        None if this run copied any file.
        """
        return None if self.copied else self.record.version


def _name_first(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


@contextmanager
def bring_raw_files(
    source: RatingsSource,
    storage: StorageResource,
    project: Path,
    *,
    record: str,
    place: Callable[[str], str],
) -> Iterator[RawFiles]:
    """Copy the files that are new or changed since the last run, or whose copies have changed.

    When the block ends, copies of files that are no longer in the source are deleted. If it raises,
    they stay, because the last run's record stays in force.

    project: the folder where relative paths start.
    record: the storage key of the last run's record.
    place: makes a storage key of a filename.
    Raises UserError, UserError.
    """
    storage.store.tidy(storage.uri(f"{record.partition('/')[0]}/"))
    last_record = RawRecord.from_json(read_record(storage, storage.uri(record), RawRecord))
    raw = _copy_changed(source, storage, project, last_record, place)
    yield raw
    uris_to_keep = {file.uri for file in raw.record.files}
    for file in last_record.files:
        if file.uri not in uris_to_keep:
            storage.store.delete(file.uri)


def delete_copies(
    source: RatingsSource, record: RawRecord, storage: StorageResource, project: Path, key: str
) -> None:
    """Delete the copies of the files, which have rows of users who were erased, and record that.

    What was downloaded of the source is removed, too. The next run copies the files again.

    key: the storage key of the record.
    """
    source.remove_downloads(make_source_context(storage, project))
    for file in record.files:
        storage.store.delete(file.uri)
    write_record(storage, key, replace(record, copies_deleted=True).to_json())


def require_copies(record: RawRecord, asset: str = "raw_ratings") -> None:
    """Raise UserError if the copies of the files were deleted by `delete_copies`.

    asset: the one that copies them.
    """
    if record.copies_deleted:
        raise UserError(
            f"the copies of {record.source} were deleted after the last run, because they had rows"
            f" of people who were erased: materialize {asset} too, which copies them again"
        )


def _copy_changed(
    source: RatingsSource,
    storage: StorageResource,
    project: Path,
    last_record: RawRecord,
    place: Callable[[str], str],
) -> RawFiles:
    context = make_source_context(storage, project)
    listed_files = source.files(context)
    last_files = {file.source: file for file in last_record.files}
    files: list[FileRecord] = []
    changed, damaged, copied = [], [], 0
    for file in listed_files:
        name, uri = file.file.display_name, storage.uri(place(file.filename))
        last_file = last_files.get(name)
        # Whether the last run copied this version of the file, to the same place.
        if last_file and (last_file.fingerprint, last_file.uri) == (file.fingerprint, uri):
            info = storage.store.head(uri)
            verified_file = _verify_copy(last_file, info, storage) if info else None
            if verified_file is not None:
                files.append(verified_file)
                continue
            if info is not None:
                damaged.append(storage.where(uri))
        copy = file.file.copy(context, uri, may_be_empty=len(listed_files) > 1)
        etag = copy.etag if _has_etag(uri, storage) else None
        files.append(FileRecord(name, uri, file.fingerprint, copy.size, copy.sha256, etag))
        copied += 1
        if file.file.has_changed(context):
            changed.append(name)
    record = RawRecord(source.display_name, tuple(files))
    if record.files == last_record.files:
        record = replace(record, inspected_with=last_record.inspected_with)
    return RawFiles(record, copied, tuple(changed), tuple(damaged))


def _verify_copy(file: FileRecord, info: ObjectInfo, storage: StorageResource) -> FileRecord | None:
    """The record of the file, whose copy has the recorded content; None if it has another.

    S3 gives every content another ETag. A copy with the recorded one is not read. On this machine
    every copy is read, because a disk may change bytes of a file without changing its time.
    info: of the copy in the storage.
    """
    if info.size != file.size:
        return None
    has_etag = bool(info.etag) and _has_etag(info.uri, storage)
    if has_etag and info.etag == file.etag:
        return file
    chunks = storage.store.chunks(info.uri, info.etag if has_etag else None)
    if compute_sha256(chunks) != file.sha256:
        return None
    return replace(file, etag=info.etag) if has_etag else file


def _has_etag(uri: str, storage: StorageResource) -> bool:
    """Whether the object's ETag changes whenever its content does. That of a local file need
    not."""
    return storage.store.local_path(uri) is None


@contextmanager
def open_raw_files(record: RawRecord, storage: StorageResource) -> Iterator[list[RawFile]]:
    """The copies on this machine, in order. Raises UserError, UserError."""
    require_copies(record)
    with ExitStack() as stack:
        yield [stack.enter_context(open_copy(file, storage)) for file in record.files]


@contextmanager
def open_copy(file: FileRecord, storage: StorageResource) -> Iterator[RawFile]:
    """The file's copy on this machine.

    Raises UserError, and DamagedObjectError if the copy has another content than recorded.
    """
    with storage.local_file(file.uri) as path:
        size = path.stat().st_size
        damage = None
        if size != file.size:
            damage = f"{size} bytes instead of {file.size}"
        elif compute_sha256(read_pieces(path)) != file.sha256:
            damage = "its content differs from the one that was copied"
        if damage is not None:
            raise DamagedObjectError(
                storage.where(file.uri), damage, "run the refresh, which copies it again"
            )
        # Who reads a message about a row wants to open the source, not the copy.
        yield RawFile(path, file.source)


@contextmanager
def open_source(
    source: RatingsSource, storage: StorageResource, project: Path
) -> Iterator[list[RawFile]]:
    """The files of a source on this machine, in order. Raises UserError."""
    context = make_source_context(storage, project)
    with ExitStack() as stack:
        yield [
            RawFile(stack.enter_context(file.file.open_locally(context)), file.file.display_name)
            for file in source.files(context)
        ]


def digest_source(source: RatingsSource, storage: StorageResource, project: Path) -> str:
    """`digest_files` of the source's files as they are now. Raises UserError."""
    files = source.files(make_source_context(storage, project))
    return _digest_fingerprints([(file.file.display_name, file.fingerprint) for file in files])


def digest_files(files: Sequence[FileRecord]) -> str:
    """A digest that changes when a file comes, goes or changes; empty for no files."""
    return _digest_fingerprints([(file.source, file.fingerprint) for file in files])


def _digest_fingerprints(files: Sequence[tuple[str, str]]) -> str:
    """`digest_files` of the name and the fingerprint of each file."""
    lines = [f"{name} {fingerprint}" for name, fingerprint in files]
    return _digest_lines(lines)[:32] if lines else ""


def make_source_context(storage: StorageResource, project: Path) -> SourceContext:
    from batchrec_dagster.samples import generator

    return SourceContext(storage.store, project, Path(storage.cache), generator)


def _digest_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
