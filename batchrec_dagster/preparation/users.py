"""The users of the interactions or of files, each once, for a batch inference."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.personalize.file_formats import MAX_INPUT_BYTES, USER_FIELD
from batchrec_dagster.personalize.schemas import (
    MAX_ID_LENGTH,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.preparation.column_names import recognise_columns
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.counting import PIECE_ROWS, ValueCounter
from batchrec_dagster.preparation.layout import NULL_VALUES, Column, PreparationError
from batchrec_dagster.preparation.polars.cells import FLAW, ROW
from batchrec_dagster.preparation.polars.decoding import RawFile, open_file
from batchrec_dagster.preparation.polars.rows import CellConditions
from batchrec_dagster.preparation.polars.tables import RowTable
from batchrec_dagster.preparation.recognition import ReadSettings, recognise_table
from batchrec_dagster.storage.durable import temporary_folder

# Up to this many rows, Polars' streaming unique takes a few hundred megabytes.
MAX_ROWS_AT_ONCE = 10_000_000
# A row of interactions has at least two ids, a time of ten digits (as all since 2001), two commas
# and a line end.
LEAST_ROW_BYTES = 15


def list_distinct_users(
    interactions: pl.LazyFrame, since: int | None = None, file_bytes: int | None = None
) -> pl.DataFrame:
    """The users of the interactions, each once, ordered by the bytes of their id.

    The one column is userId.

    since: only users with an interaction at that time, in epoch seconds, or later.
    file_bytes: the size of the file of the interactions, if they are in one. It saves counting the
    rows of a small file.
    """
    if since is not None:
        interactions = interactions.filter(pl.col(TIMESTAMP) >= since)
    users = interactions.select(pl.col(USER_ID).alias(USER_FIELD))
    if file_bytes is not None and file_bytes // LEAST_ROW_BYTES <= MAX_ROWS_AT_ONCE:
        return _sort_distinct(users)
    return _sort_distinct_of_any_size(users)


def read_users(
    files: Sequence[RawFile], column: Column | None, null_values: Sequence[str] = NULL_VALUES
) -> pl.DataFrame:
    """The users in the files, which may be in any format of ratings.

    The result is as that of `list_distinct_users`.

    column: where the ids are, by its name, or by its position from 1. With None it is the column
    whose name is known, or the only one.
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
    if row_count.collect(engine="streaming").item() <= MAX_ROWS_AT_ONCE:
        return _sort_distinct(users)
    counter = ValueCounter(USER_FIELD)
    users.sink_batches(counter.add, chunk_size=PIECE_ROWS)
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
