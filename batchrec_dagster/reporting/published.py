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

    def look_up(self, items: pl.Series, column: str) -> list[str | None]:
        """The title, image or link of each of the items, None for an item without one."""
        if self.titles is None or column not in self.titles.columns:
            return [None] * len(items)
        ids = items.to_frame("item_id")
        values = ids.join(self.titles, on="item_id", how="left", maintain_order="left")
        return values.get_column(column).to_list()


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
        with _convert_read_errors(self.storage, table.uri):
            return table.current()

    @property
    def publication_time(self) -> datetime:
        """When the table was made; an old table without that date: when it was written."""
        assert self.edition is not None
        if "made_at" in self.edition.about:
            return datetime.fromisoformat(self.edition.about["made_at"])
        object_info = self.storage.store.head(self.edition.uri)
        return datetime.fromtimestamp(0, UTC) if object_info is None else object_info.last_modified

    @property
    def report(self) -> ObjectInfo | None:
        return self.storage.store.head(self.storage.uri(self.files.places.report))

    def count_rows_and_users(self) -> tuple[int, int]:
        """The numbers of rows and users in the table."""
        with self._open_table() as table:
            groups = range(table.num_row_groups)
            ranks = (table.read_row_group(group, ["rank"], use_threads=False) for group in groups)
            users = sum(pl.DataFrame(group).filter(pl.col("rank") == 1).height for group in ranks)
            return table.metadata.num_rows, users

    def find_example_user(self) -> str | None:
        """The user of the first row, if any."""
        with self._open_table() as table:
            for rows in table.iter_batches(1, columns=["user_id"], use_threads=False):
                return str(rows.column(0)[0])
        return None

    def read_rows(self, column: str, value: str) -> pl.DataFrame:
        """The rows of the table with this value; column: user_id or item_id."""
        with self._open_table() as table:
            return _read_matching_rows(table, column, value)

    def read_titles(self, items: Sequence[str]) -> dict[str, str | None]:
        """The title of each item in the file of titles."""
        uri = self.storage.uri(self.files.places.item_titles)
        if not items or self.storage.store.head(uri) is None:
            return {}
        with self._open_parquet(uri) as table:
            found = pl.DataFrame(table.read(["item_id", "title"], use_threads=False))
            return dict(found.filter(pl.col("item_id").is_in(items)).rows())

    @contextmanager
    def open_interactions(self) -> Iterator[tuple[pl.LazyFrame, int]]:
        """The interactions (see scan_interactions), and the size of their file in bytes."""
        with self.storage.local_file(self.files.interactions) as path:
            if not path.exists():
                raise StorageError(f"{path} does not exist; run the pipeline's refresh job again")
            yield scan_interactions(path), path.stat().st_size

    def _open_table(self) -> AbstractContextManager[pq.ParquetFile]:
        assert self.edition is not None
        return self._open_parquet(self.edition.uri)

    @contextmanager
    def _open_parquet(self, uri: str) -> Iterator[pq.ParquetFile]:
        # Neither a Python file for a local path nor threads: a thread of pyarrow that still holds a
        # Python file when the interpreter exits may abort the command (apache/arrow issue 50482).
        path = self.storage.store.local_path(uri)
        with (
            _convert_read_errors(self.storage, uri),
            pa.OSFile(str(path)) if path is not None else _RemoteFile(self.storage, uri) as file,
            pq.ParquetFile(file) as table,
        ):
            yield table


@contextmanager
def _convert_read_errors(storage: StorageResource, uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(f"cannot read {storage.where(uri)}: {error}") from error


def _read_matching_rows(table: pq.ParquetFile, column: str, value: str) -> pl.DataFrame:
    """Read a row group only if its statistics allow the value, and all its columns only if the
    column has it."""
    column_index = table.schema_arrow.get_field_index(column)
    tables = [pl.DataFrame(table.schema_arrow.empty_table())]
    for group in range(table.num_row_groups):
        statistics = table.metadata.row_group(group).column(column_index).statistics
        if (
            statistics is not None
            and statistics.has_min_max
            and not statistics.min <= value <= statistics.max
        ):
            continue
        ids = pl.DataFrame(table.read_row_group(group, [column], use_threads=False))
        if value in ids.get_column(column):
            rows = pl.DataFrame(table.read_row_group(group, use_threads=False))
            tables.append(rows.filter(pl.col(column) == value))
    return pl.concat(tables)


class _RemoteFile(io.RawIOBase):
    """An S3 object as a file that fetches only the bytes read, all of one version of the object.

    Not obstore.open_reader: it has no ETag guard, and pyarrow rejects it (it has no `closed`).
    """

    def __init__(self, storage: StorageResource, uri: str) -> None:
        super().__init__()
        object_info = storage.store.head(uri)
        if object_info is None:
            raise StorageError(f"{uri} does not exist")
        self._store, self._object_info, self._position = storage.store, object_info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._object_info.size}[
            whence
        ]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        uri, size, etag, _ = self._object_info
        length = min(len(buffer), size - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._store.read_range(uri, self._position, length, etag)
        self._position += length
        return length
