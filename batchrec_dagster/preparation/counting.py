"""How many users, items and event types the interactions have, counted piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.preparation.rules import MOST_EVENT_TYPES, InteractionCounts

# How many rows are read at once.
PIECE_ROWS = 1_000_000


def count_rows(interactions: pl.LazyFrame) -> InteractionCounts:
    """How many users, items and event types there are, and the span of the times."""
    # Polars' own streaming group_by takes three times the memory for many users.
    columns = [USER_ID, ITEM_ID]
    existing_columns = interactions.collect_schema().names()
    if EVENT_TYPE in existing_columns:
        columns.append(EVENT_TYPE)
    counters = {column: ValueCounter(column) for column in columns}
    times: list[int] = []
    hashes: list[int] = []
    event_values: list[int] = []

    def count(part: pl.DataFrame) -> None:
        for counter in counters.values():
            counter.add(part)
        hashes.append(part.select(pl.struct(pl.all()).hash().sum()).item())
        if part.height:
            time = pl.col(TIMESTAMP)
            times.extend(part.select(time.min().alias("first"), time.max().alias("last")).row(0))
        if EVENT_VALUE in part.columns:
            event_values.append(part.get_column(EVENT_VALUE).count())

    columns_read = [*columns, TIMESTAMP]
    if EVENT_VALUE in existing_columns:
        columns_read.append(EVENT_VALUE)
    interactions.select(columns_read).sink_batches(count, chunk_size=PIECE_ROWS)
    counts = {column: counter.read_counts() for column, counter in counters.items()}
    rows_of_values = {column: values["len"] for column, values in counts.items()}
    events: dict[str, int] = {}
    if EVENT_TYPE in counts:
        frequent = counts[EVENT_TYPE].drop_nulls().sort("len", EVENT_TYPE, descending=[True, False])
        events = dict(frequent.head(MOST_EVENT_TYPES).iter_rows())
    return InteractionCounts(
        users=len(rows_of_values[USER_ID]),
        users_with_two=int((rows_of_values[USER_ID] > 1).sum()),
        items=len(rows_of_values[ITEM_ID]),
        earliest=min(times, default=None),
        latest=max(times, default=None),
        event_types=len(rows_of_values.get(EVENT_TYPE, [])),
        events=events,
        event_values=sum(event_values) if EVENT_VALUE in existing_columns else None,
        digest=f"{sum(hashes) % 2**64:016x}",
    )


def list_distinct(rows: pl.LazyFrame, column: str) -> pl.Series:
    """The values in the column of text, each once, in the order of their bytes.

    They are read piece by piece, which takes no more time and less memory than at once.
    """
    # A series takes two thirds of the time of a table of one column.
    values = _MergedPieces(
        lambda pieces: pieces.to_series().unique().to_frame(), {column: pl.String()}
    )
    rows.select(pl.col(column).drop_nulls()).sink_batches(values.add, chunk_size=PIECE_ROWS)
    return values.read().get_column(column).sort()


class ValueCounter:
    """How many rows there are of each value of a column of text."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._counts = _MergedPieces(
            lambda pieces: pieces.group_by(column).agg(pl.col("len").sum()),
            {column: pl.String(), "len": pl.UInt32()},
        )

    def add(self, rows: pl.DataFrame) -> None:
        """Count these rows too."""
        self._counts.add(rows.select(self._column, pl.lit(1, pl.UInt32).alias("len")))

    def read_counts(self) -> pl.DataFrame:
        """Each value in the column, and in `len` its number of rows."""
        return self._counts.read()


class _MergedPieces:
    """Pieces of a table that are merged as they come, so that few rows are in memory.

    merge: makes few rows of many. Of pieces that were merged before, it makes what it would have
    made of all their rows.
    schema: of the merged rows.
    """

    def __init__(
        self,
        merge: Callable[[pl.DataFrame], pl.DataFrame],
        schema: Mapping[str, pl.DataType],
    ) -> None:
        self._merge = merge
        self._pieces = [pl.DataFrame(schema=schema)]

    def add(self, piece: pl.DataFrame) -> None:
        self._pieces.append(self._merge(piece))
        merged, *others = map(len, self._pieces)
        # Merging seldom means that each row is merged again a few times only.
        if sum(others) > max(merged, PIECE_ROWS) * 2:
            self.read()

    def read(self) -> pl.DataFrame:
        """The rows of all pieces, merged."""
        self._pieces = [self._merge(pl.concat(self._pieces))]
        return self._pieces[0]
