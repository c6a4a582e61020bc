"""What a pipeline published, read from the storage as far as a question needs it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec_dagster.formats.interactions import TIMESTAMP
from batchrec_dagster.object_store import StorageError
from batchrec_dagster.pipeline.places import Places
from batchrec_dagster.resources import StorageResource


def published_pipelines(storage: StorageResource) -> list[str]:
    """The names of the pipelines that have published a table. Raises StorageError."""
    root = storage.uri("")
    path = storage.store.local_path(root)
    if path is not None and not path.exists():
        return []  # Looking for its folders would make it.
    names = storage.store.subfolders(root)
    return [name for name in names if Published(storage, name).made]


@dataclass(frozen=True)
class Published:
    """What lies in the storage of a pipeline. All of it raises StorageError."""

    storage: StorageResource
    pipeline: str

    @property
    def places(self) -> Places:
        return Places(self.pipeline)

    @property
    def made(self) -> float | None:
        """When the table was written, in epoch seconds; None where there is none."""
        found = self.storage.store.head(self.storage.uri(self.places.recommendations))
        return None if found is None else found.last_modified.timestamp()

    def size(self) -> tuple[int, int, list[str]]:
        """Rows and users of the table, and the user of its first row, if any."""
        with self._parquet(self.places.recommendations) as table:
            groups = range(table.num_row_groups)
            ranks = (table.read_row_group(group, ["rank"]).column(0) for group in groups)
            users = sum(pc.sum(pc.equal(column, 1)).as_py() or 0 for column in ranks)
            first = next(table.iter_batches(1, columns=["user_id"]), None)
            return table.metadata.num_rows, users, first.column(0).to_pylist() if first else []

    def rows(self, column: str, value: str) -> pl.DataFrame:
        """The rows of the table where the column, user_id or item_id, is that."""
        with self._parquet(self.places.recommendations) as table:
            return _rows(table, column, value)

    def titles(self, items: Sequence[str]) -> dict[str, str | None]:
        """The items' titles, of those that have a line in the file of titles."""
        key = self.places.item_titles
        if not items or self.storage.store.head(self.storage.uri(key)) is None:
            return {}
        with self._parquet(key) as table:
            wanted = pc.is_in(
                pc.field("item_id"), pa.array(items, table.schema_arrow.field(0).type)
            )
            return dict(pl.DataFrame(table.read().filter(wanted)).select("item_id", "title").rows())

    @contextmanager
    def interactions(self) -> Iterator[tuple[pl.LazyFrame, int]]:
        """The interactions, and how many bytes they have; text but for the time, epoch seconds."""
        with self.storage.local_file(self.storage.uri(self.places.interactions)) as path:
            if not path.exists():
                raise StorageError(f"{path} is not there: the pipeline's interactions are gone")
            frame = pl.scan_csv(
                path,
                schema_overrides={TIMESTAMP: pl.Int64()},
                infer_schema=False,  # Ids are text, whatever they look like.
                glob=False,
            )
            yield frame, path.stat().st_size

    @contextmanager
    def _parquet(self, key: str) -> Iterator[pq.ParquetFile]:
        uri = self.storage.uri(key)
        path = self.storage.store.local_path(uri)
        try:
            with (
                path.open("rb") if path is not None else _Ranges(self.storage, uri) as file,
                pq.ParquetFile(file) as table,
            ):
                yield table
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"cannot read {self.storage.where(uri)}: {error}") from error


def _rows(table: pq.ParquetFile, column: str, value: str) -> pl.DataFrame:
    """Row group by row group: those whose statistics rule the value out are not read, and of the
    others the whole only where the column has it."""
    place = table.schema_arrow.get_field_index(column)
    found = []
    for group in range(table.num_row_groups):
        known = table.metadata.row_group(group).column(place).statistics
        if known is not None and known.has_min_max and not known.min <= value <= known.max:
            continue
        same = pc.equal(table.read_row_group(group, [column]).column(0), value)
        if pc.any(same).as_py():
            found.append(table.read_row_group(group).filter(same))
    return pl.DataFrame(pa.concat_tables(found) if found else table.schema_arrow.empty_table())


class _Ranges(io.RawIOBase):
    """An object of which only what is asked for is fetched."""

    def __init__(self, storage: StorageResource, uri: str) -> None:
        super().__init__()
        found = storage.store.head(uri)
        if found is None:
            raise StorageError(f"there is no {uri}")
        self._store, self._uri, self._size, self._at = storage.store, uri, found.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        buffer[:length] = self._store.read_range(self._uri, self._at, length)
        self._at += length
        return length
