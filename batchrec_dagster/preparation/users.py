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
from batchrec_dagster.preparation.layout import NULL_VALUES, Column, PreparationError, recognise
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


def distinct_users(
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
    return _ordered(users)


def listed_users(
    files: Sequence[RawFile], column: Column | None, null_values: Sequence[str] = NULL_VALUES
) -> pl.DataFrame:
    """The users in the files: CSV, JSON Lines or Parquet, packed or not; as distinct_users.

    `column` is where they are, by name or from 1; None: the one that is known by its name, or the
    only one. Raises PreparationError, for a row without a proper id with its file and line.
    """
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            opened = [open_file(file, "auto", folder, reader) for file in files]
        reading = ReadSettings(columns={} if column is None else {"user": column})
        tables = [recognise_table(file, reading) for file in opened if file.size]
        if not tables:
            raise PreparationError(f"{opened[0].name} is empty")
        cells = [table.read_cells({"user": _column(table, column)}) for table in tables]
        for table, rows in zip(tables, cells, strict=True):
            _check(table, rows, null_values)
        return _ordered(pl.concat(rows.select(pl.col("user").alias(USER_FIELD)) for rows in cells))


def check_limits(users: int, size: int) -> None:
    """Raise PreparationError unless one batch inference job takes so many users, of so many bytes
    of input in all, in as many files as it takes."""
    if size > MAX_INPUT_BYTES:
        raise PreparationError(
            f"{users:,} users are {size / 1e9:.2f} GB of input; Personalize takes"
            f" {MAX_INPUT_BYTES / 1e9:g} GB in a batch inference job: ask for fewer, such as"
            " batch_users.active_since: 2026-01-01"
        )


def _ordered(users: pl.LazyFrame) -> pl.DataFrame:
    """Each once, in order; of many rows piece by piece, in half the memory and twice the time."""
    # Not pl.len(), which maps the whole file into memory.
    counted = users.select(pl.col(USER_FIELD).is_not_null().sum())
    if counted.collect(engine="streaming").item() <= FEW:
        return _sort_distinct(users)
    found = _Tally(USER_FIELD)
    users.sink_batches(found.add, chunk_size=PIECE)
    return found.table().select(USER_FIELD).sort(USER_FIELD)


def _sort_distinct(users: pl.LazyFrame) -> pl.DataFrame:
    return users.unique().sort(USER_FIELD).collect(engine="streaming")


def _column(table: RowTable, column: Column | None) -> Column:
    known = recognise(table.columns).get("user")
    if column is not None or known is not None:
        return column or known or ""
    if len(table.columns) == 1:
        return table.columns[0]
    raise PreparationError(
        f"{table.opened.name}: could not recognise the user column. Found:"
        f" {', '.join(filter(None, table.columns))}. Set batch_users.column"
    )


def _check(table: RowTable, rows: pl.LazyFrame, null_values: Sequence[str]) -> None:
    cells = CellConditions(null_values)
    wrong = pl.col(FLAW).is_not_null() | cells.missing("user") | cells.means_nothing("user")
    wrong |= cells.longer("user", MAX_ID_LENGTH) | cells.broken("user") | cells.not_utf8("user")
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
    """Polars' own streaming group_by, of as many users as there may be, takes three times the
    memory."""
    users, items, times = _Tally(USER_ID), _Tally(ITEM_ID), list[int]()
    columns = interactions.collect_schema().names()
    kinds = _Tally(EVENT_TYPE) if EVENT_TYPE in columns else None

    def take(part: pl.DataFrame) -> None:
        users.add(part)
        items.add(part)
        if kinds is not None:
            kinds.add(part)
        if part.height:
            time = pl.col(TIMESTAMP)
            times.extend(part.select(time.min().alias("first"), time.max().alias("last")).row(0))

    wanted = [USER_ID, ITEM_ID, TIMESTAMP, *([EVENT_TYPE] if kinds is not None else [])]
    interactions.select(wanted).sink_batches(take, chunk_size=PIECE)
    lengths = users.lengths()
    return InteractionCounts(
        users=len(lengths),
        users_with_two=int((lengths > 1).sum()),
        items=len(items.lengths()),
        earliest=min(times, default=None),
        latest=max(times, default=None),
        event_types=0 if kinds is None else len(kinds.lengths()),
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

    def table(self) -> pl.DataFrame:
        """The column, and `len`."""
        self._merge()
        return self._found

    def lengths(self) -> pl.Series:
        return self.table().get_column("len")

    def _merge(self) -> None:
        together = pl.concat([self._found, *self._waiting])
        self._found = together.group_by(self._column).agg(pl.col("len").sum())
        self._waiting.clear()
