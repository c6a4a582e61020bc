"""The copies of a source's files in the folder raw/, and the record of the copies.

The record passes from one run to the next, so that unchanged files are neither copied nor read
again. It has the SHA-256 of each copy. A copy with another SHA-256 is damaged, and is not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    name_errors,
    require_unchanged,
)
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.stored_files import StoredFile, put_stream
from batchrec_dagster.steps.records import Result, StepRecord, once
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.durable import compute_sha256, read_pieces
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectStore
from batchrec_dagster.storage.records import load, save


class CopiedFile(BaseModel, frozen=True):
    """A file of a source, and its copy."""

    source: str
    """The name of the file, without the secrets of a signed URL."""
    fingerprint: str
    """A text that changes when the source's file changes."""
    stored: StoredFile
    """The copy; or the file itself if it is read in place."""
    in_place: bool = False
    """Whether the file was not copied, because Spark reads it in S3. Such a file is never deleted,
    and its ETag shows whether it has changed."""


Seen = TypeVar("Seen", bound=BaseModel)


class RawRecord(StepRecord, Generic[Seen], frozen=True):
    """The record of a source's files, as the last run wrote it.

    Its version changes with the content of the files.
    """

    source: str
    """The source as it is declared, without the secrets of URLs."""
    files: tuple[CopiedFile, ...]
    """The files in order."""
    seen: Seen
    """The results of the inspection of the files."""
    copies_deleted: bool = False
    """Whether the copies were deleted after they had been prepared, because they had rows of erased
    users."""


@dataclass(frozen=True)
class CopyResult:
    """The files of a source, and the copying that this run did."""

    files: tuple[CopiedFile, ...]
    copied: int
    """The number of files that this run copied."""
    damaged: tuple[str, ...] = ()
    """The paths of copies whose content differed from the record. This run copied them again."""

    @property
    def version(self) -> str:
        """A version of 16 hexadecimal digits that changes when the content of any file changes."""
        versions = [file.stored.sha256 or file.stored.etag for file in self.files]
        if len(versions) == 1 and self.files[0].stored.sha256:
            return versions[0][:16]
        return _digest_lines(versions)[:16]

    @property
    def outcome(self) -> str:
        """A description of the copying that this run did, in words."""
        if all(file.in_place for file in self.files):
            return "not copied: Spark reads the files in S3"
        if not self.copied:
            return "unchanged: not copied again"
        is_all = self.copied == len(self.files)
        outcome = "copied" if is_all else f"copied {self.copied} of {len(self.files)}"
        if self.damaged:
            more = f" and {len(self.damaged) - 1} more" if len(self.damaged) > 1 else ""
            outcome += f"; {self.damaged[0]}{more} had another content than recorded"
        return outcome


@dataclass(frozen=True)
class RawSource:
    """A source that an asset copies."""

    asset: str
    source: RowSource
    make_key: Callable[[str], str]
    """A function that makes the storage key of a copy from the file's name."""
    in_place: bool = False
    """Whether files in S3 are read in place instead of copied."""


Inspect = Callable[[Sequence[CopiedFile]], tuple[Finding, Seen]]
"""A function that inspects copies.

It returns a finding on whether the copies can be used, and the results of the inspection.
"""


def copy_raw(
    step: StepContext,
    raw: RawSource,
    model: type[RawRecord[Seen]],
    inspected_with: Mapping[str, str],
    inspect: Inspect[Seen],
) -> tuple[Result[RawRecord[Seen]], CopyResult]:
    """Copy the new and changed files of a source, and return the record of all its files.

    Also return the copying that this run did. A file is copied if it is new or changed since the
    last run, or if its copy has changed. All files are inspected if the content of any file or a
    version in `inspected_with` differs from the last run. At the end, copies of files that are no
    longer in the source are deleted. If an error is raised, these copies stay, because the last
    run's record still names them.

    inspected_with: the versions of everything that an inspection depends on besides the files, by
        name.
    inspect: the function that inspects the files.

    Raises UserError, and Refused if the inspection's finding blocks.
    """
    store, uri = step.storage.store, step.files.record_uri(raw.asset)
    store.tidy(step.files.uri(f"{step.pipeline.name}/"))
    last = load(store, uri, model)
    last_files = last.files if last is not None else ()
    copy_result = _copy_changed(step, raw, last_files)
    made_of = {"files": copy_result.version, **inspected_with}

    def make() -> RawRecord[Seen]:
        finding, seen = inspect(copy_result.files)
        return model(
            made_of=made_of,
            version=copy_result.version,
            findings=(finding,),
            source=raw.source.display_name,
            files=copy_result.files,
            seen=seen,
        )

    result = once(step, uri, model, made_of, make)
    record = result.record.model_copy(update={"files": copy_result.files, "copies_deleted": False})
    if record != result.record:
        # A file has a new time but the same content, or a copy was made again.
        save(store, uri, record)
    uris_to_keep = {file.stored.uri for file in copy_result.files}
    for file in last_files:
        if file.stored.uri not in uris_to_keep and not file.in_place:
            store.delete(file.stored.uri)
    return replace(result, record=record), copy_result


def _copy_changed(
    step: StepContext, raw: RawSource, last_files: Sequence[CopiedFile]
) -> CopyResult:
    """Copy the files of the source, except files in place and files with an intact copy.

    last_files: the files of the last run.

    Raises UserError.
    """
    storage = step.storage
    context = make_source_context(storage, step.pipeline.project)
    listed_files = raw.source.files(context)
    last_by_source = {file.source: file for file in last_files}
    files: list[CopiedFile] = []
    damaged, copied = [], 0
    for listed in listed_files:
        name, uri = listed.display_name, storage.uri(raw.make_key(listed.filename))
        if raw.in_place and listed.object is not None:
            info = listed.object
            stored = StoredFile(uri=info.uri, size=info.size, sha256="", etag=info.etag)
            file = CopiedFile(
                source=name, fingerprint=listed.fingerprint, stored=stored, in_place=True
            )
            files.append(file)
            continue
        last = last_by_source.get(name)
        # The last copy can serve if the file has not changed and the copy's key is the same.
        if last and (last.fingerprint, last.stored.uri) == (listed.fingerprint, uri):
            if last.stored.is_intact(storage.store):
                files.append(last)
                continue
            if storage.store.head(uri) is not None:
                damaged.append(storage.where(uri))
        chunks = listed.chunks(may_be_empty=len(listed_files) > 1)
        stored = put_stream(storage.store, uri, chunks)
        files.append(CopiedFile(source=name, fingerprint=listed.fingerprint, stored=stored))
        copied += 1
    return CopyResult(tuple(files), copied, tuple(damaged))


def delete_copies(
    step: StepContext, asset: str, source: RowSource, record: RawRecord[Seen]
) -> None:
    """Delete the copies of the files, because they have rows of erased users.

    The downloads of the source are removed too. The record notes the deletion, and the next run
    copies the files again. Files that are read in place stay. If all files are read in place, the
    record does not change.

    asset: the asset that copies the files.
    """
    source.remove_downloads(make_source_context(step.storage, step.pipeline.project))
    for file in record.files:
        if not file.in_place:
            step.storage.store.delete(file.stored.uri)
        step.storage.remove_copies(file.stored.uri)
    if all(file.in_place for file in record.files):
        return
    deleted = record.model_copy(update={"copies_deleted": True})
    save(step.storage.store, step.files.record_uri(asset), deleted)


def require_copies(record: RawRecord[Seen], asset: str) -> None:
    """Raise UserError if `delete_copies` deleted the copies of the files.

    asset: the asset that copies the files.
    """
    if record.copies_deleted:
        raise UserError(
            f"the copies of {record.source} were deleted after the last run, because they had rows"
            f" of people who were erased: materialize {asset} too, which copies them again"
        )


def require_same_objects(files: Sequence[CopiedFile], store: ObjectStore) -> None:
    """Raise UserError if a file that is read in place has changed since this run listed it."""
    for file in files:
        if file.in_place:
            info = store.head(file.stored.uri)
            if info is None or info.etag != file.stored.etag:
                raise UserError(f"{file.source} has changed since this run listed it: run again")


@contextmanager
def open_copies(files: Sequence[CopiedFile], storage: Storage) -> Iterator[list[RawFile]]:
    """Yield the copies as files on this machine, in order.

    Raises UserError, and DamagedObjectError if the content of a copy differs from the record.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_open_copy(file, storage)) for file in files]


@contextmanager
def _open_copy(file: CopiedFile, storage: Storage) -> Iterator[RawFile]:
    """Yield the copy as a file on this machine.

    Raises UserError, and DamagedObjectError if the copy has changed.
    """
    stored = file.stored
    with storage.local_file(stored.uri) as path:
        size = path.stat().st_size
        damage = None
        if size != stored.size:
            damage = f"{size} bytes instead of {stored.size}"
        elif compute_sha256(read_pieces(path)) != stored.sha256:
            damage = "its content differs from the one that was copied"
        if damage is not None:
            raise DamagedObjectError(
                storage.where(stored.uri), damage, "run the refresh, which copies it again"
            )
        # Messages about a row name the source, because that is the file a reader wants to open.
        yield RawFile(path, file.source)


@contextmanager
def open_source(source: RowSource, storage: Storage, project: Path) -> Iterator[list[RawFile]]:
    """Yield the files of a source as files on this machine, in order.

    Raises UserError, also at the end if a file changed while it was in use.
    """
    files = source.files(make_source_context(storage, project))
    with open_listed(files) as raw_files:
        yield raw_files
        with name_errors(source.display_name):
            require_unchanged(files, "this run")


@contextmanager
def open_listed(files: Sequence[ListedFile]) -> Iterator[list[RawFile]]:
    """Yield the listed files of a source as files on this machine, in order. Raises UserError."""
    with ExitStack() as stack:
        yield [
            RawFile(stack.enter_context(file.open_locally()), file.display_name) for file in files
        ]


def digest_source(source: RowSource, storage: Storage, project: Path) -> str:
    """Return the digest that `digest_files` would return if the source's files were copied now.

    Raises UserError.
    """
    files = source.files(make_source_context(storage, project))
    return _digest_fingerprints([(file.display_name, file.fingerprint) for file in files])


def digest_files(files: Sequence[CopiedFile]) -> str:
    """Return a digest that changes when a file is added, removed or changed; empty for no files."""
    return _digest_fingerprints([(file.source, file.fingerprint) for file in files])


def _digest_fingerprints(files: Sequence[tuple[str, str]]) -> str:
    """Return the digest of the files; empty for no files.

    files: the name and the fingerprint of each file.
    """
    lines = [f"{name} {fingerprint}" for name, fingerprint in files]
    return _digest_lines(lines)[:32] if lines else ""


def make_source_context(storage: Storage, project: Path) -> SourceContext:
    """Return the context that sources need to find their files.

    project: the folder that relative paths start from.
    """
    # Imported here, because it needs NumPy.
    from batchrec_dagster.samples import generator

    return SourceContext(storage.store, project, Path(storage.cache), generator)


def _digest_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
