"""The files that steps write to the storage, with records to detect whether a file has changed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.errors import UserError
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.records import StepRecord
from batchrec_dagster.storage.durable import compute_sha256, read_pieces
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.storage.records import load


class StoredFile(BaseModel, frozen=True):
    """A description of an object at the time it was put into the storage."""

    uri: str
    size: int
    """The size in bytes."""
    sha256: str
    """The SHA-256 of the content in hexadecimal."""
    etag: str = ""
    """The ETag in S3, which differs for every content. Empty for a file on this machine."""

    @property
    def version(self) -> str:
        """A version of 16 hexadecimal digits that changes with the content."""
        return self.sha256[:16]

    def is_intact(self, store: ObjectStore) -> bool:
        """Return whether the object is still there with the same content. Raises UserError.

        In S3 an equal ETag is enough. Otherwise, and on this machine, the whole object is read:
        a disk may change bytes of a file without changing the file's time.
        """
        info = store.head(self.uri)
        if info is None or info.size != self.size:
            return False
        if store.local_path(self.uri) is None and info.etag == self.etag:
            return True
        return compute_sha256(store.chunks(self.uri)) == self.sha256


class PreparedRecord(StepRecord, frozen=True):
    """The record of a step that makes one file. Its version changes with the file's content."""

    file: StoredFile

    def is_stored(self, store: ObjectStore) -> bool:
        return self.file.is_intact(store)


class TableRecord(PreparedRecord, frozen=True):
    """The record of a prepared table."""

    rows: int
    missing: dict[str, int]
    """The number of rows without a value, by column. The first column, with the ids, is left
    out."""
    columns: tuple[str, ...]
    sample: tuple[dict[str, Any], ...] = ()
    """The first rows; empty for a table of users."""


def put_file(store: ObjectStore, uri: str, content: Path | bytes) -> StoredFile:
    """Write a file or bytes to the storage, atomically. Raises UserError."""
    if isinstance(content, Path):
        size, sha256 = content.stat().st_size, compute_sha256(read_pieces(content))
    else:
        size, sha256 = len(content), compute_sha256([content])
    return _describe_put(store, uri, size, sha256, store.put(uri, content))


def put_stream(store: ObjectStore, uri: str, chunks: Iterator[bytes]) -> StoredFile:
    """Write the chunks to the storage, atomically.

    If the chunks raise an error, the storage does not change. Raises UserError, and the errors that
    the chunks raise.
    """
    digest, size = hashlib.sha256(), 0

    def count() -> Generator[bytes, None, None]:
        nonlocal size
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    with closing(count()) as counted:
        etag = store.put(uri, _produce_in_thread(counted))
    return _describe_put(store, uri, size, digest.hexdigest(), etag)


def _produce_in_thread(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks unchanged, but read them in another thread.

    obstore cannot read an object in the thread that puts another object.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        while (chunk := thread.submit(next, chunks, None).result()) is not None:
            yield chunk


def _describe_put(store: ObjectStore, uri: str, size: int, sha256: str, etag: str) -> StoredFile:
    is_local = store.local_path(uri) is not None
    return StoredFile(uri=uri, size=size, sha256=sha256, etag="" if is_local else etag)


def put_table(
    step: StepContext, key: str, table: pl.DataFrame, made_of: Mapping[str, str]
) -> TableRecord:
    """Write the table to the storage, and return its record. Raises UserError.

    key: the storage key. The table is written as CSV if the key ends with .csv, and otherwise as
        Parquet.
    made_of: the versions of the inputs, by name.
    """
    content = io.BytesIO()
    if key.endswith(".csv"):
        table.write_csv(content)
    else:
        table.write_parquet(content)
    file = put_file(step.storage.store, step.files.uri(key), content.getvalue())
    return TableRecord(
        made_of=dict(made_of),
        version=file.version,
        file=file,
        rows=table.height,
        missing={name: table.get_column(name).null_count() for name in table.columns[1:]},
        columns=tuple(table.columns),
    )


def require_prepared(step: StepContext, asset: str) -> PreparedRecord:
    """Return the record of the file that the asset prepared.

    Raises UserError, for example if the file is missing or has changed since it was prepared.
    """
    store, uri = step.storage.store, step.files.record_uri(asset)
    record = load(store, uri, PreparedRecord)
    if record is None or not record.is_stored(store):
        where = step.storage.where(uri if record is None else record.file.uri)
        problem = "there is no" if record is None else "it is not what was prepared:"
        raise UserError(f"{problem} {where}: materialize {asset}, which makes it again")
    return record
