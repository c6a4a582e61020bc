"""The users and items of the interactions: counted, and listed for Personalize."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.personalize.batch_files import MAX_INPUT_BYTES, USER_FIELD
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    ITEM_ID,
    MAX_ID_LENGTH,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.layout import (
    NULL_VALUES,
    Column,
    PreparationError,
    recognise_columns,
)
from batchrec_dagster.preparation.polars.cells import FLAW, ROW
from batchrec_dagster.preparation.polars.decoding import RawFile, open_file
from batchrec_dagster.preparation.polars.rows import CellConditions
from batchrec_dagster.preparation.polars.tables import RowTable
from batchrec_dagster.preparation.recognition import ReadSettings, recognise_table
from batchrec_dagster.preparation.rules import InteractionCounts
from batchrec_dagster.storage.durable import temporary_folder

# Rows of which Polars' streaming unique holds in a few hundred megabytes; rows of a piece.
FEW, PIECE = 10_000_000, 1_000_000
# A row of interactions has at least two ids, a time of ten digits (as all since 2001), two commas
# and a line end.
LEAST_ROW_BYTES = 15


def list_distinct_users(
    interactions: pl.LazyFrame, since: int | None = None, file_bytes: int | None = None
) -> pl.DataFrame:
    """The users of the interactions, each once, in order of their id (by its bytes): userId.

    since: only users with an interaction at that time, in epoch seconds, or later.
    file_bytes: the size of the file of the interactions, if they are in one. It saves counting the
    rows of a small file.
    """
    if since is not None:
        interactions = interactions.filter(pl.col(TIMESTAMP) >= since)
    users = interactions.select(pl.col(USER_ID).alias(USER_FIELD))
    if file_bytes is not None and file_bytes // LEAST_ROW_BYTES <= FEW:
        return _sort_distinct(users)
    return _sort_distinct_of_any_size(users)


def read_users(
    files: Sequence[RawFile], column: Column | None, null_values: Sequence[str] = NULL_VALUES
) -> pl.DataFrame:
    """The users in the files, which may be in any format of ratings; as `list_distinct_users`.

    column: where they are, by its name, or by its position from 1. None: the column whose name is
    known, or the only one.
    null_values: the ids that mean no value.

    Raises PreparationError, which names the file and the line of a row without a proper id.
    """
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            opened = [open_file(file, "auto", folder, reader) for file in files]
        reading = ReadSettings(columns={} if column is None else {"user": column})
        tables = [recognise_table(file, reading) for file in opened if file.size]
        if not tables:
            raise PreparationError(f"{opened[0].name} is empty")
        cells = [table.read_cells({"user": _choose_column(table, column)}) for table in tables]
        for table, rows in zip(tables, cells, strict=True):
            _require_ids(table, rows, null_values)
        return _sort_distinct_of_any_size(
            pl.concat(rows.select(pl.col("user").alias(USER_FIELD)) for rows in cells)
        )


def check_limits(users: int, size: int) -> None:
    """Raise PreparationError unless one batch inference job takes this many users.

    size: the bytes of all input files of the job.
    """
    if size > MAX_INPUT_BYTES:
        raise PreparationError(
            f"{users:,} users are {size / 1e9:.2f} GB of input; Personalize takes"
            f" {MAX_INPUT_BYTES / 1e9:g} GB in a batch inference job: ask for fewer, such as"
            " batch_users.active_since: 2026-01-01"
        )


def _sort_distinct_of_any_size(users: pl.LazyFrame) -> pl.DataFrame:
    """Each user once, in order.

    Many rows are read piece by piece, which takes half the memory and twice the time.
    """
    # pl.len() would map the whole file into memory.
    row_count = users.select(pl.col(USER_FIELD).is_not_null().sum())
    if row_count.collect(engine="streaming").item() <= FEW:
        return _sort_distinct(users)
    counter = _ValueCounter(USER_FIELD)
    users.sink_batches(counter.add, chunk_size=PIECE)
    return counter.read_counts().select(USER_FIELD).sort(USER_FIELD)


def _sort_distinct(users: pl.LazyFrame) -> pl.DataFrame:
    return users.unique().sort(USER_FIELD).collect(engine="streaming")


def _choose_column(table: RowTable, column: Column | None) -> Column:
    if column is not None:
        return column
    recognised = recognise_columns(table.columns).get("user")
    if recognised is not None:
        return recognised
    if len(table.columns) == 1:
        return table.columns[0]
    raise PreparationError(
        f"{table.opened.name}: could not recognise the user column. Found:"
        f" {', '.join(filter(None, table.columns))}. Set batch_users.column"
    )


def _require_ids(table: RowTable, rows: pl.LazyFrame, null_values: Sequence[str]) -> None:
    cells = CellConditions(null_values)
    wrong = pl.col(FLAW).is_not_null() | cells.is_missing("user") | cells.means_nothing("user")
    wrong |= (
        cells.is_longer("user", MAX_ID_LENGTH)
        | cells.has_line_break("user")
        | cells.is_not_utf8("user")
    )
    try:
        bad = rows.filter(wrong).select(ROW, "user").head(1).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise PreparationError(f"{table.opened.name} cannot be read: {reason}") from error
    if bad.height:
        row, text = bad.row(0)
        raise PreparationError(
            f"{table.opened.name}, {table.place(row)}: {text!r} is not a user id of 1 to"
            f" {MAX_ID_LENGTH} characters. Fix the file"
        )


def count_rows(interactions: pl.LazyFrame) -> InteractionCounts:
    """How many users, items and event types there are, and the span of the times."""
    # Polars' own streaming group_by takes three times the memory for many users.
    columns = [USER_ID, ITEM_ID]
    if EVENT_TYPE in interactions.collect_schema().names():
        columns.append(EVENT_TYPE)
    counters = {column: _ValueCounter(column) for column in columns}
    times: list[int] = []

    def count(part: pl.DataFrame) -> None:
        for counter in counters.values():
            counter.add(part)
        if part.height:
            time = pl.col(TIMESTAMP)
            times.extend(part.select(time.min().alias("first"), time.max().alias("last")).row(0))

    interactions.select(*columns, TIMESTAMP).sink_batches(count, chunk_size=PIECE)
    rows_of = {column: counter.read_counts()["len"] for column, counter in counters.items()}
    return InteractionCounts(
        users=len(rows_of[USER_ID]),
        users_with_two=int((rows_of[USER_ID] > 1).sum()),
        items=len(rows_of[ITEM_ID]),
        earliest=min(times, default=None),
        latest=max(times, default=None),
        event_types=len(rows_of.get(EVENT_TYPE, [])),
    )


class _ValueCounter:
    """How many rows there are of each value of a column."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._counts = pl.DataFrame(schema={column: pl.String, "len": pl.UInt32})
        self._parts: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Count these rows too."""
        self._parts.append(rows.group_by(self._column).len())
        # Merging seldom means that each value is counted again a few times only.
        if sum(map(len, self._parts)) > max(2 * len(self._counts), 2 * PIECE):
            self._merge()

    def read_counts(self) -> pl.DataFrame:
        """Each value in the column, and in `len` its number of rows."""
        self._merge()
        return self._counts

    def _merge(self) -> None:
        counts = pl.concat([self._counts, *self._parts])
        self._counts = counts.group_by(self._column).agg(pl.col("len").sum())
        self._parts.clear()
