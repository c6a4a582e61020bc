"""Reads what a pipeline published; of a large table, only the parts that a question needs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa  # not pyarrow.compute: for a plain value it imports pandas
import pyarrow.parquet as pq

from batchrec_dagster.personalize.schemas import scan_interactions
from batchrec_dagster.storage.object_store import ObjectInfo, StorageError
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.published_table import Edition
from batchrec_dagster.storage.resource import StorageResource


@dataclass(frozen=True)
class RunTables:
    """The tables of a run. Ids are text everywhere.

    interactions: USER_ID, ITEM_ID, TIMESTAMP (epoch seconds); recommendations: user_id, rank,
    item_id; users, the requested ones: userId; titles: item_id, title (may be null), and where they
    are declared image and link (addresses, may be null); items:
    ITEM_ID, and the `categories`, whose cells separate values by |; segments: segment, rank,
    user_id, and title where there are titles.
    """

    interactions: pl.LazyFrame
    recommendations: pl.LazyFrame
    users: pl.LazyFrame
    titles: pl.DataFrame | None = None
    items: pl.DataFrame | None = None
    categories: Sequence[str] = ()
    segments: pl.DataFrame | None = None

    def of_items(self, items: pl.Series, column: str) -> list[str | None]:
        """The title, image or link of each of the items, None for an item without one."""
        if self.titles is None or column not in self.titles.columns:
            return [None] * len(items)
        ids = items.to_frame("item_id")
        found = ids.join(self.titles, on="item_id", how="left", maintain_order="left")
        return found.get_column(column).to_list()


def list_published_pipelines(storage: StorageResource) -> list[str]:
    """The names of the pipelines with a published table. Raises StorageError."""
    root = storage.uri("")
    path = storage.store.local_path(root)
    if path is not None and not path.exists():
        return []  # Listing its folders would create it.
    names = storage.store.subfolders(root)
    return [name for name in names if PublishedResults(storage, name).edition is not None]


@dataclass(frozen=True)
class PublishedResults:
    """The published results of a pipeline. Every method raises StorageError."""

    storage: StorageResource
    pipeline: str

    @property
    def files(self) -> PipelineFiles:
        return PipelineFiles(self.storage, StorageKeys(self.pipeline))

    @cached_property
    def edition(self) -> Edition | None:
        """The published table; None where there is none."""
        table = self.files.table
        with _readable(self.storage, table.uri):
            return table.current()

    @property
    def made(self) -> datetime:
        """When the table was made; an old table without that date: when it was written."""
        assert self.edition is not None
        if "made_at" in self.edition.about:
            return datetime.fromisoformat(self.edition.about["made_at"])
        found = self.storage.store.head(self.edition.uri)
        return datetime.fromtimestamp(0, UTC) if found is None else found.last_modified

    @property
    def report(self) -> ObjectInfo | None:
        return self.storage.store.head(self.storage.uri(self.files.places.report))

    def size(self) -> tuple[int, int]:
        """The numbers of rows and users in the table."""
        with self._table() as table:
            groups = range(table.num_row_groups)
            ranks = (table.read_row_group(one, ["rank"], use_threads=False) for one in groups)
            users = sum(pl.DataFrame(one).filter(pl.col("rank") == 1).height for one in ranks)
            return table.metadata.num_rows, users

    def example_user(self) -> str | None:
        """The user of the first row, if any."""
        with self._table() as table:
            for rows in table.iter_batches(1, columns=["user_id"], use_threads=False):
                return str(rows.column(0)[0])
        return None

    def rows(self, column: str, value: str) -> pl.DataFrame:
        """The rows of the table with this value; column: user_id or item_id."""
        with self._table() as table:
            return _rows(table, column, value)

    def titles(self, items: Sequence[str]) -> dict[str, str | None]:
        """The title of each item in the file of titles."""
        uri = self.storage.uri(self.files.places.item_titles)
        if not items or self.storage.store.head(uri) is None:
            return {}
        with self._parquet(uri) as table:
            found = pl.DataFrame(table.read(["item_id", "title"], use_threads=False))
            return dict(found.filter(pl.col("item_id").is_in(items)).rows())

    @contextmanager
    def interactions(self) -> Iterator[tuple[pl.LazyFrame, int]]:
        """The interactions (see scan_interactions), and the size of their file in bytes."""
        with self.storage.local_file(self.files.interactions) as path:
            if not path.exists():
                raise StorageError(f"{path} does not exist; run the pipeline's refresh job again")
            yield scan_interactions(path), path.stat().st_size

    def _table(self) -> AbstractContextManager[pq.ParquetFile]:
        assert self.edition is not None
        return self._parquet(self.edition.uri)

    @contextmanager
    def _parquet(self, uri: str) -> Iterator[pq.ParquetFile]:
        # Neither a Python file for a local path nor threads: a thread of pyarrow that still holds a
        # Python file when the interpreter exits may abort the command (apache/arrow issue 50482).
        path = self.storage.store.local_path(uri)
        with (
            _readable(self.storage, uri),
            pa.OSFile(str(path)) if path is not None else _Ranges(self.storage, uri) as file,
            pq.ParquetFile(file) as table,
        ):
            yield table


@contextmanager
def _readable(storage: StorageResource, uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(f"cannot read {storage.where(uri)}: {error}") from error


def _rows(table: pq.ParquetFile, column: str, value: str) -> pl.DataFrame:
    """Read a row group only if its statistics allow the value, and all its columns only if the
    column has it."""
    place = table.schema_arrow.get_field_index(column)
    found = [pl.DataFrame(table.schema_arrow.empty_table())]
    for group in range(table.num_row_groups):
        range_ = table.metadata.row_group(group).column(place).statistics
        if range_ is not None and range_.has_min_max and not range_.min <= value <= range_.max:
            continue
        ids = pl.DataFrame(table.read_row_group(group, [column], use_threads=False))
        if value in ids.get_column(column):
            rows = pl.DataFrame(table.read_row_group(group, use_threads=False))
            found.append(rows.filter(pl.col(column) == value))
    return pl.concat(found)


class _Ranges(io.RawIOBase):
    """An S3 object as a file that fetches only the bytes read, all of one version of the object.

    Not obstore.open_reader: it has no ETag guard, and pyarrow rejects it (it has no `closed`).
    """

    def __init__(self, storage: StorageResource, uri: str) -> None:
        super().__init__()
        found = storage.store.head(uri)
        if found is None:
            raise StorageError(f"{uri} does not exist")
        self._store, self._found, self._at = storage.store, found, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        uri, size, etag, _ = self._found
        length = min(len(buffer), size - self._at)
        if length <= 0:
            return 0
        buffer[:length] = self._store.read_range(uri, self._at, length, etag)
        self._at += length
        return length
