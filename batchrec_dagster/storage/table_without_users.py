"""Removes users from an edition's file: from the published one, or from one in the history.

The edition stays what it is: its number, version, columns and metadata are those that it was
published with. Its metadata get the number of users who were dropped. The file changes by one
atomic put, so that a kill leaves the old one or the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import polars as pl

from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.editions import (
    FOOTER_KEY,
    Edition,
    PublishedTable,
    TableWriter,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# This many rows are in memory at a time.
ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class ReducedTable:
    """An edition's file without some of its users, on this machine."""

    edition: Edition
    """The edition as this file's metadata have it. Its URI is that of the file that was read."""
    path: Path
    """The file, as `TableWriter` writes it."""
    users_dropped: int
    """How many of the users to drop had rows. The edition's own number counts earlier ones too."""
    rows_dropped: int


def drop_users(table: PublishedTable, edition: Edition, users: pl.Series) -> int:
    """Remove these users' rows from the edition's file, and return how many users had some.

    If none of them has any, the file stays as it is.

    edition: the published one or one of the history. A copy of it elsewhere does not change.
    users: the ids. Those without rows do not matter.
    Only who holds the lock on the step `recommendations` may call it, because the table could be
    replaced meanwhile. Raises UserError, and DamagedObjectError if the edition's file is.
    """
    with open_reduced_table(table, edition, users) as reduced:
        if reduced is None:
            return 0
        table.store.put(edition.uri, reduced.path)
        return reduced.users_dropped


def list_users(rows: pl.LazyFrame) -> pl.Series:
    """The ids of the users who have a list, each once.

    rows: an edition's, as `PublishedTable.read_edition` returns them.
    """
    users = rows.select(pl.col("user_id").unique())
    return users.collect(engine="streaming").get_column("user_id")


@contextmanager
def open_reduced_table(
    table: PublishedTable, edition: Edition, users: pl.Series
) -> Iterator[ReducedTable | None]:
    """The edition's file without these users; None if none of them has rows.

    The file is deleted at the end. Raises the same errors as `drop_users`.
    """
    if not len(users):
        yield None
        return
    opened_edition, file = table.open_edition(edition)
    with file, temporary_folder() as folder:
        dropped, is_kept = _find_rows_to_keep(file, users)
        if not dropped:
            yield None
            return
        path = folder / "table.parquet"
        users_dropped = opened_edition.users_dropped + dropped
        reduced = opened_edition.model_copy(update={"users_dropped": users_dropped})
        file.seek(0)
        _write_rows(file, is_kept, path, reduced)
        rows_dropped = len(is_kept) - int(is_kept.sum())
        yield ReducedTable(reduced, path, dropped, rows_dropped)


def _write_rows(file: BinaryIO, is_kept: pl.Series, path: Path, edition: Edition) -> None:
    import pyarrow.parquet as pq

    source = pq.ParquetFile(file)
    metadata = {
        key: value
        for key, value in (source.schema_arrow.metadata or {}).items()
        if key != FOOTER_KEY.encode()
    }
    with TableWriter(path) as writer:
        for rows in _filter_rows(source, is_kept):
            writer.write(rows.replace_schema_metadata(metadata))
        writer.finish(edition)


def _find_rows_to_keep(file: BinaryIO, users: pl.Series) -> tuple[int, pl.Series]:
    """How many of these users have rows, and for each row whether it is of none of them.

    It takes a bit for each row.
    """
    ids = pl.scan_parquet(file).select(pl.col("user_id").cast(pl.String))
    is_dropped = pl.col("user_id").is_in(users.cast(pl.String).implode())
    # One after the other: together they would keep all ids in memory.
    dropped = ids.filter(is_dropped).select(pl.col("user_id").n_unique())
    count = int(dropped.collect(engine="streaming").item())
    is_kept = ids.select(~is_dropped).collect(engine="streaming").to_series()
    # Rows without an id, in a table of somebody else's, are of none of them.
    return count, is_kept.fill_null(value=True)


def _filter_rows(source: pq.ParquetFile, is_kept: pl.Series) -> Iterator[pa.Table]:
    """The rows to keep, in order. At least one table comes, so that the columns are known."""
    import pyarrow as pa

    yield pa.Table.from_batches([], source.schema_arrow)
    start = 0
    for group in range(source.num_row_groups):
        # An iterator over all groups would keep what it read of each of them until its end.
        for batch in source.iter_batches(ROWS_AT_ONCE, row_groups=[group]):
            keep = is_kept.slice(start, batch.num_rows)
            start += batch.num_rows
            rows = pa.Table.from_batches([batch])
            yield rows if keep.all() else rows.filter(keep.to_arrow())
