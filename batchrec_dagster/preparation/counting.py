"""What is to be known of all interactions, counted a piece at a time."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.personalize.datasets import ITEM_ID, TIMESTAMP, USER_ID

# Rows of a piece.
PIECE = 1_000_000


@dataclass(frozen=True)
class Counts:
    """Rows; users, those of them with two interactions or more, and items; the first and the last
    time, in epoch seconds, None where there are no rows."""

    rows: int
    users: int
    users_with_two: int
    items: int
    earliest: int | None
    latest: int | None


def count_rows(interactions: pl.LazyFrame) -> Counts:
    """Polars' own streaming group_by, of as many users as there may be, takes three times the
    memory."""
    users, items, times = _Tally(USER_ID), _Tally(ITEM_ID), list[int]()

    def take(part: pl.DataFrame) -> None:
        users.add(part)
        items.add(part)
        if part.height:
            time = pl.col(TIMESTAMP)
            times.extend(part.select(time.min().alias("first"), time.max().alias("last")).row(0))

    interactions.select(USER_ID, ITEM_ID, TIMESTAMP).sink_batches(take, chunk_size=PIECE)
    lengths = users.lengths()
    return Counts(
        rows=int(lengths.sum()),
        users=len(lengths),
        users_with_two=int((lengths > 1).sum()),
        items=len(items.lengths()),
        earliest=min(times, default=None),
        latest=max(times, default=None),
    )


class _Tally:
    """How many rows there are of each value of a column."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._found = pl.DataFrame(schema={column: pl.String, "len": pl.UInt32})
        self._waiting: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        self._waiting.append(rows.group_by(self._column).len())
        # Seldom enough that each value is looked at a few times only.
        if sum(map(len, self._waiting)) > max(2 * len(self._found), 2 * PIECE):
            self._merge()

    def lengths(self) -> pl.Series:
        self._merge()
        return self._found.get_column("len")

    def _merge(self) -> None:
        together = pl.concat([self._found, *self._waiting])
        self._found = together.group_by(self._column).agg(pl.col("len").sum())
        self._waiting.clear()
