"""The table of recommendations as sinks read it: in batches of rows, or a row for each user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from batchrec_dagster.sinks.errors import SinkUnavailableError

BATCH_ROWS = 100_000


class Counts(NamedTuple):
    """Rows, users, and the length of the longest list."""

    rows: int
    users: int
    longest: int


def counts(frame: pl.LazyFrame) -> Counts:
    """Of the whole table; each user has one item of rank 1."""
    rank = pl.col("rank")
    found = frame.select(pl.len(), first=(rank == 1).sum(), longest=rank.max().fill_null(0))
    return Counts(*found.collect(engine="streaming").row(0))


def compare(wanted: Counts, *, rows: int | None = None, users: int, where: str) -> None:
    """Raises SinkUnavailableError with the numbers when what was written is not what was given:
    most likely the lists were published anew meanwhile."""
    if users != wanted.users or (rows is not None and rows != wanted.rows):
        written = f"{users:,} users" + ("" if rows is None else f" and {rows:,} rows")
        raise SinkUnavailableError(
            f"{written} were written to {where}, but there are {wanted.users:,} users and"
            f" {wanted.rows:,} rows: run it again"
        )


def batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in order, so many at once."""
    for batch in frame.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
        if batch.height:
            yield batch


def lists(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """A row for each user: user_id, items (a list of structs of the other columns, best first).

    Frames of the same columns, one at least.
    """
    begun: pl.DataFrame | None = None  # The last user's rows may go on in the next batch.
    for batch in batches(frame):
        rows = batch if begun is None else pl.concat([begun, batch])
        last = pl.col("user_id") == rows.get_column("user_id")[-1]
        begun = rows.filter(last)
        yield _gathered(rows.filter(~last))
    yield _gathered(frame.head(0).collect() if begun is None else begun)


def _gathered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("user_id", maintain_order=True).agg(
        items=pl.struct(pl.all().exclude("user_id"))
    )
