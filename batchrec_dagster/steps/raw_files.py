"""The files of a source, as runs keep them: copied to raw/.

A record of them goes from one run to the next, so that unchanged files are neither copied nor read
again. It has the SHA-256 of each copy, and a copy with any other content is not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    name_errors,
    require_unchanged,
)
from batchrec_dagster.steps.stored_files import StoredFile, put_stream
from batchrec_dagster.steps.work import Result, StepRecord, Work, once
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.durable import compute_sha256, read_pieces
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectStore
from batchrec_dagster.storage.records import load, save


class CopiedFile(BaseModel, frozen=True):
    """A file of a source, and its copy."""

    source: str
    """The file, without the secrets of a signed URL."""
    fingerprint: str
    """It changes when the file of the source does."""
    stored: StoredFile
    """The copy, or the file itself if that is in place."""
    in_place: bool = False
    """Whether the file was not copied, because Spark reads it in S3. Then it is not ours to delete,
    and its ETag says whether it is the same."""


Seen = TypeVar("Seen", bound=BaseModel)


class RawRecord(StepRecord, Generic[Seen], frozen=True):
    """The files of a source, as the last run recorded them, whose content has its version."""

    source: str
    """The source as it is declared, without the secrets of URLs."""
    files: tuple[CopiedFile, ...]
    """The files in order."""
    seen: Seen
    """What is in them."""
    copies_deleted: bool = False
    """Whether the copies were deleted after the interactions were made, because they had rows of
    users who were erased."""


@dataclass(frozen=True)
class CopyResult:
    """What a run did to have the files of a source."""

    files: tuple[CopiedFile, ...]
    copied: int
    """How many files this run copied."""
    damaged: tuple[str, ...] = ()
    """The paths of copies that had another content than recorded. This run copied them again."""

    @property
    def version(self) -> str:
        """16 hexadecimal digits that change when the content of any copy does."""
        versions = [file.stored.sha256 or file.stored.etag for file in self.files]
        if len(versions) == 1 and self.files[0].stored.sha256:
            return versions[0][:16]
        return _digest_lines(versions)[:16]

    @property
    def outcome(self) -> str:
        """What this run did, in words."""
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
    """Makes a storage key of a filename."""
    in_place: bool = False
    """Whether files in S3 are read there, and not copied."""


Inspect = Callable[[Sequence[CopiedFile]], tuple[Finding, Seen]]
"""Reads copies: whether they can be used, and what is in them."""


def copy_raw(
    work: Work,
    raw: RawSource,
    model: type[RawRecord[Seen]],
    inspected_with: Mapping[str, str],
    inspect: Inspect[Seen],
) -> tuple[Result[RawRecord[Seen]], CopyResult]:
    """The record of the source's files, and what this run did to have them.

    Files that are new or changed since the last run are copied, and so are those whose copies have
    changed. If any has another content than in the last run, all are inspected. Copies of files
    that are no longer in the source are deleted in the end. If this raises, they stay, because the
    last run's record stays in force.

    inspected_with: the versions of what an inspection depends on besides the files, by name.
    Raises UserError, Refused.
    """
    store, uri = work.storage.store, work.files.record_uri(raw.asset)
    store.tidy(work.files.uri(f"{work.pipeline.name}/"))
    last = load(store, uri, model)
    last_files = last.files if last is not None else ()
    copy_result = _copy_changed(work, raw, last_files)
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

    result = once(work, uri, model, made_of, make)
    record = result.record.model_copy(update={"files": copy_result.files, "copies_deleted": False})
    if record != result.record:
        # The time of a file differs, or its copy was made again.
        save(store, uri, record)
    uris_to_keep = {file.stored.uri for file in copy_result.files}
    for file in last_files:
        if file.stored.uri not in uris_to_keep and not file.in_place:
            store.delete(file.stored.uri)
    return replace(result, record=record), copy_result


def _copy_changed(work: Work, raw: RawSource, last_files: Sequence[CopiedFile]) -> CopyResult:
    """Have the files of the source: copied before and intact, copied now, or in place.

    last_files: those of the last run.
    Raises UserError.
    """
    storage = work.storage
    context = make_source_context(storage, work.pipeline.project)
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
        # Whether the last run copied this version of the file, to the same place.
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


def delete_copies(work: Work, asset: str, source: RowSource, record: RawRecord[Seen]) -> None:
    """Delete the copies of the files, which have rows of users who were erased, and record that.

    What was downloaded of the source is removed, too. The next run copies the files again.

    asset: the one that copies them.
    """
    source.remove_downloads(make_source_context(work.storage, work.pipeline.project))
    for file in record.files:
        if not file.in_place:
            work.storage.store.delete(file.stored.uri)
        work.storage.remove_copies(file.stored.uri)
    if all(file.in_place for file in record.files):
        return
    deleted = record.model_copy(update={"copies_deleted": True})
    save(work.storage.store, work.files.record_uri(asset), deleted)


def require_copies(record: RawRecord[Seen], asset: str) -> None:
    """Raise UserError if the copies of the files were deleted by `delete_copies`.

    asset: the one that copies them.
    """
    if record.copies_deleted:
        raise UserError(
            f"the copies of {record.source} were deleted after the last run, because they had rows"
            f" of people who were erased: materialize {asset} too, which copies them again"
        )


def require_same_objects(files: Sequence[CopiedFile], store: ObjectStore) -> None:
    """Raise UserError if a file that is read in place is not the one that was listed."""
    for file in files:
        if file.in_place:
            info = store.head(file.stored.uri)
            if info is None or info.etag != file.stored.etag:
                raise UserError(f"{file.source} has changed since this run listed it: run again")


@contextmanager
def open_copies(files: Sequence[CopiedFile], storage: Storage) -> Iterator[list[RawFile]]:
    """The copies on this machine, in order.

    Raises UserError, and DamagedObjectError if a copy has another content than recorded.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_open_copy(file, storage)) for file in files]


@contextmanager
def _open_copy(file: CopiedFile, storage: Storage) -> Iterator[RawFile]:
    """The copy on this machine. Raises UserError, and DamagedObjectError if it has changed."""
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
        # Who reads a message about a row wants to open the source, not the copy.
        yield RawFile(path, file.source)


@contextmanager
def open_source(source: RowSource, storage: Storage, project: Path) -> Iterator[list[RawFile]]:
    """The files of a source on this machine, in order.

    Raises UserError, also in the end if a file has changed meanwhile.
    """
    files = source.files(make_source_context(storage, project))
    with open_listed(files) as raw_files:
        yield raw_files
        with name_errors(source.display_name):
            require_unchanged(files, "this run")


@contextmanager
def open_listed(files: Sequence[ListedFile]) -> Iterator[list[RawFile]]:
    """These files of a source on this machine, in order. Raises UserError."""
    with ExitStack() as stack:
        yield [
            RawFile(stack.enter_context(file.open_locally()), file.display_name) for file in files
        ]


def digest_source(source: RowSource, storage: Storage, project: Path) -> str:
    """`digest_files` of the source's files as they are now. Raises UserError."""
    files = source.files(make_source_context(storage, project))
    return _digest_fingerprints([(file.display_name, file.fingerprint) for file in files])


def digest_files(files: Sequence[CopiedFile]) -> str:
    """A digest that changes when a file comes, goes or changes; empty for no files."""
    return _digest_fingerprints([(file.source, file.fingerprint) for file in files])


def _digest_fingerprints(files: Sequence[tuple[str, str]]) -> str:
    """`digest_files` of the name and the fingerprint of each file."""
    lines = [f"{name} {fingerprint}" for name, fingerprint in files]
    return _digest_lines(lines)[:32] if lines else ""


def make_source_context(storage: Storage, project: Path) -> SourceContext:
    """What sources need to find their files.

    project: the folder where relative paths start.
    """
    # Imported here, because it needs NumPy.
    from batchrec_dagster.samples import generator

    return SourceContext(storage.store, project, Path(storage.cache), generator)


def _digest_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
