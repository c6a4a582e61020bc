"""Lists of distinct ids: users for a batch inference, and the users or items in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import polars as pl

from batchrec_dagster.personalize.formats import MAX_INPUT_BYTES, MAX_INPUT_RECORDS, USER_FIELD
from batchrec_dagster.personalize.schemas import (
    MAX_ID_LENGTH,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.preparation.column_names import list_names, recognise_columns
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.counting import list_distinct
from batchrec_dagster.preparation.csv_form import find_header
from batchrec_dagster.preparation.file_form import (
    NO_HEADER,
    Column,
    Columns,
    FileForm,
    Header,
    PreparationError,
)
from batchrec_dagster.preparation.file_sample import SAMPLED_ROWS
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.row_problems import list_id_problems
from batchrec_dagster.preparation.polars.row_table import FLAW, ROW, RowTable
from batchrec_dagster.preparation.polars.rows import describe_read_error
from batchrec_dagster.preparation.recognition import open_table
from batchrec_dagster.storage.durable import temporary_folder

_ARTICLES = {"user": "a user", "item": "an item"}


def list_distinct_users(interactions: pl.LazyFrame, since: int | None = None) -> pl.DataFrame:
    """Return the distinct users of the interactions, sorted by the bytes of their id.

    The only column is userId.

    since: if given, only users with an interaction at this time (in epoch seconds) or later are
    returned.
    """
    if since is not None:
        interactions = interactions.filter(pl.col(TIMESTAMP) >= since)
    return list_distinct(interactions, USER_ID).rename(USER_FIELD).to_frame()


def read_ids(
    files: Sequence[RawFile],
    role: Literal["user", "item"],
    column: Column | None,
    setting: str,
    null_values: Sequence[str],
    header: Header | None,
) -> pl.Series:
    """Return the distinct ids in a column of the files, sorted by their bytes.

    files: the files, in any format of ratings.
    role: the kind of the ids.
    column: the id column, by its name or by its position from 1. None means the column with a known
    name, or the only column.
    setting: the setting that names the column.
    null_values: the texts that mean that there is no id.
    header: the line that names the columns, as a value of `FileForm.header`. If `header` and
    `column` are both None, the first file shows whether line 1 names the columns. If only `header`
    is None, line 1 names the columns unless `column` is a position.

    Raises PreparationError if a row has no proper id. The message names the file and the line.
    """
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            opened = [open_file(file, "auto", folder, reader) for file in files]
        tables = open_id_tables(opened, role, column, setting, header)
        cells = [
            table.read_cells({setting: choose_id_column(table, role, column, setting)})
            for table in tables
        ]
        for table, rows in zip(tables, cells, strict=True):
            _require_ids(table, role, setting, rows, null_values)
        ids = pl.concat(rows.select(pl.col(setting).alias(role)) for rows in cells)
        return list_distinct(ids, role)


def require_within_limits(users: int, size: int) -> None:
    """Raise PreparationError unless one batch inference job takes this many users.

    size: the size of the job's input in bytes.
    """
    if size > MAX_INPUT_BYTES or users > MAX_INPUT_RECORDS:
        raise PreparationError(
            f"{users:,} users are {size / 1e9:.2f} GB of input; Personalize takes"
            f" {MAX_INPUT_BYTES / 1e9:g} GB and {MAX_INPUT_RECORDS:,} users in a batch inference"
            " job: ask for fewer, such as batch_users.active_since: 2026-01-01"
        )


def open_id_tables(
    files: Sequence[OpenedFile],
    role: Literal["user", "item"],
    column: Column | None,
    setting: str,
    header: Header | None,
) -> Sequence[RowTable]:
    """Return the tables in the files that are not empty, ready to be read row by row.

    The parameters are described in `read_ids`. Raises PreparationError.
    """
    form = FileForm(header=header)
    columns = Columns({} if column is None else {setting: column})
    tables = [open_table(file, form, columns) for file in files if file.size]
    if not tables:
        raise PreparationError(f"{files[0].name} is empty")
    if column is None and header is None and not _has_header(tables[0], role, setting):
        form = replace(form, header=NO_HEADER)
        tables = [open_table(table.opened, form, columns) for table in tables]
    return tables


def _has_header(table: RowTable, role: str, setting: str) -> bool:
    """Return whether line 1 of a file of ids names its columns.

    Raises PreparationError if line 1 has a single field that may be a name or an id, and the rows
    do not show which.
    """
    if not isinstance(table, CsvTable):
        return True
    if find_header(table, FileForm(), Columns()) == NO_HEADER:
        return False
    (name, *more_names) = table.columns
    if not more_names and role not in recognise_columns(table.columns):
        rows = table.read_cells({setting: name}).select(setting).head(SAMPLED_ROWS).collect()
        words = pl.concat([pl.Series([name]), rows.to_series().drop_nulls()])
        if words.str.contains("^[a-z]+$").all() and len(words) > 1:
            raise PreparationError(
                f"{table.opened.name}: line 1 may name the column or be {_ARTICLES[role]}: set"
                f" {setting} to the name if it is one, or to 1 if it is {_ARTICLES[role]}"
            )
    return True


def choose_id_column(
    table: RowTable, role: Literal["user", "item"], column: Column | None, setting: str
) -> Column:
    """Return the given id column, or else the column with a known name, or else the only column.

    setting: the setting that names the column.

    Raises PreparationError if there is no such column.
    """
    if column is not None:
        return column
    recognised = recognise_columns(table.columns).get(role)
    if recognised is not None:
        return recognised
    if len(table.columns) == 1:
        return table.columns[0] if table.has_header else 1
    raise PreparationError(
        f"{table.opened.name}: could not recognise the {role} column. Found:"
        f" {list_names(table.columns)}. Set {setting}"
    )


def _require_ids(
    table: RowTable, role: str, name: str, rows: pl.LazyFrame, null_values: Sequence[str]
) -> None:
    """Raise PreparationError unless every row has a proper id.

    name: the name of the id column in `rows`.
    """
    problems = list_id_problems({role: name}, null_values)
    is_wrong = pl.any_horizontal(pl.col(FLAW).is_not_null(), *(wrong for wrong, _ in problems))
    try:
        bad = rows.filter(is_wrong).select(ROW).head(1).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise PreparationError(describe_read_error(table.opened.name, error)) from error
    if bad.height:
        problem = f"there is no {role} id of 1 to {MAX_ID_LENGTH} characters. Fix the file"
        raise PreparationError(table.describe(bad.item(), problem))
