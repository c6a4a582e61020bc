"""The common base of the readers of all formats, and the reader of Parquet.

A reader returns a LazyFrame with the columns ROW and FLAW, and one column of text for each wanted
role. A role is the use of a column, such as user or timestamp. The functions that read the cells of
CSV, JSON and Parquet are also called on the workers of Spark, for a part of a file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import polars as pl
from polars.datatypes import DataTypeClass

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH
from batchrec_dagster.preparation.column_names import format_setting_name, locate_columns
from batchrec_dagster.preparation.file_form import Column, PreparationError
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.sources.limits import CELLS_OF_A_LINE, KB, MAX_LINE_KB, Limits

# The row's number from 0, and the problem of the row as a whole (or null).
ROW, FLAW = "row", "flaw"
# A line of a file, before it is split into cells.
TEXT = "text"
# The roles of times, in files of ratings and of items.
TIME_ROLES = ("timestamp", "items.columns.created")
# The roles of ids in ratings, in items and users, and in lists of ids, such as batch_users.column.
_ID_ROLE = re.compile(r"(?:(?:items|users)\.columns\.)?(?:user|item)|[\w.]+\.column")


@dataclass(frozen=True)
class RowTable(ABC):
    """A table in an opened file.

    Methods raise PreparationError if the file cannot be used.
    """

    opened: OpenedFile

    most: int | None = field(default=None, kw_only=True)
    """The number of rows to read from the start; None for all rows."""

    has_header: bool = field(default=True, kw_only=True)
    """Whether the file itself names its columns. Only CSV may lack a line of names."""

    @property
    @abstractmethod
    def columns(self) -> Sequence[str]:
        """The names of the columns; without a header `column_1` and so on."""

    @abstractmethod
    def read_cells(self, columns_by_role: Mapping[str, Column]) -> pl.LazyFrame:
        """Return the rows with ROW, FLAW and the wanted columns as text.

        columns_by_role: the column of each role. The column has the role as its name in the result.
        """

    def read_typed(
        self, columns_by_role: Mapping[str, Column], types: Mapping[str, pl.DataType]
    ) -> pl.LazyFrame:
        """Return the wanted columns in the types of their roles. Roles without a type become text.

        The user of a row with a flaw is null. Collecting the result raises a PolarsError if a cell
        does not fit its type.
        """
        user = pl.when(pl.col(FLAW).is_null()).then(pl.col("user"))
        return (
            self.read_cells(columns_by_role)
            .with_columns(user.alias("user"))
            .select(pl.col(role).cast(types.get(role, pl.String())) for role in columns_by_role)
        )

    def name_row(self, row: int) -> str:
        """Return the place of a row for a reader of the file, such as `line 3`."""
        return self.opened.name_line(row + 1)

    def head(self, rows: int) -> Self:
        """Return a table of the first rows of the file, at most this many.

        The table does not read the other rows.
        """
        return replace(self, most=rows)

    def describe(self, row: int, problem: str) -> str:
        """Return a message with the file, the line of the row, and the problem."""
        return f"{self.opened.name}, {self.name_row(row)}: {problem}"


@dataclass(frozen=True)
class ParquetTable(RowTable):
    """A table in a Parquet file; see `RowTable`."""

    separator: str | None = None
    """The text that joins the values of a list to one text. With None, lists are refused."""

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        try:
            return pl.scan_parquet(self.opened.path, glob=False).collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise PreparationError(
                f"{self.opened.name} is damaged or not Parquet ({reason}): copy it again"
            ) from error

    @property
    def columns(self) -> Sequence[str]:
        return list(self.schema)

    def read_cells(self, columns_by_role: Mapping[str, Column]) -> pl.LazyFrame:
        names = self._locate(columns_by_role)
        rows = pl.scan_parquet(self.opened.path, n_rows=self.most, row_index_name=ROW, glob=False)
        schema = dict(self.schema)
        for name in {name for name in names.values() if self._is_joinable(schema[name])}:
            values = pl.col(name).cast(pl.List(pl.String))
            rows = rows.with_columns(values.list.join(self.separator or "", ignore_nulls=True))
            schema[name] = pl.String()
        most_bytes = Limits.from_environment().cell_bytes
        return read_parquet_cells(rows, schema, names, most_bytes)

    def read_typed(
        self, columns_by_role: Mapping[str, Column], types: Mapping[str, pl.DataType]
    ) -> pl.LazyFrame:
        names = self._locate(columns_by_role)
        most_bytes = Limits.from_environment().cell_bytes
        is_good = ~is_too_long(self.schema, names.values(), most_bytes)
        return pl.scan_parquet(self.opened.path, glob=False).select(
            # All cells of a row with a flaw become null, so the row has no user.
            pl.when(is_good).then(self._cast(role, name, types.get(role, pl.String()))).alias(role)
            for role, name in names.items()
        )

    def name_row(self, row: int) -> str:
        return f"row {row + 1}"

    def _locate(self, columns_by_role: Mapping[str, Column]) -> dict[str, str]:
        """Return the name of the column of each role.

        Raises PreparationError if a column is missing, or if its type cannot be used.
        """
        indexes = locate_columns(columns_by_role, self.columns, self.opened.name)
        names = {role: self.columns[index] for role, index in indexes.items()}
        for role, name in names.items():
            kind = self.schema[name]
            if is_without_text(kind) and not self._is_joinable(kind):
                raise self._build_type_error(role, name, "a column of text or numbers")
            if is_id_role(role) and kind.is_float():
                block = re.sub(r"(?:\.columns)?\.\w+$", "", role) if "." in role else "ratings"
                raise self._build_type_error(
                    role, name, f"ids as text or whole numbers, or convert them in {block}.query"
                )
        return names

    def _is_joinable(self, kind: pl.DataType) -> bool:
        """Return whether cells of this type are lists that are joined to one text."""
        is_list = isinstance(kind, pl.List) and not is_without_text(kind.inner)
        return is_list and self.separator is not None

    def _cast(self, role: str, name: str, target_type: pl.DataType) -> pl.Expr:
        kind = self.schema[name]
        # Only whole numbers, numbers of the target type, and times are cast directly. Other values
        # are cast from their text, so that they mean the same as in a text file.
        if target_type.is_numeric() and (kind.is_integer() or kind == target_type):
            return pl.col(name).cast(target_type)
        if role == "timestamp" and target_type.is_numeric() and kind in (pl.Datetime, pl.Date):
            return pl.col(name).dt.epoch("s").cast(target_type)
        return format_parquet_text(self.schema, name, role).cast(target_type)

    def _build_type_error(self, role: str, name: str, advice: str) -> PreparationError:
        return PreparationError(
            f"{self.opened.name}: {name!r} ({format_setting_name(role)}) is of type"
            f" {self.schema[name]}; write the file with {advice}"
        )


def is_without_text(kind: pl.DataType | DataTypeClass) -> bool:
    """Return whether the type is one that cannot be read as text: a list, a structure or bytes."""
    return kind.is_nested() or kind in (pl.Binary, pl.Object)


def read_parquet_cells(
    rows: pl.LazyFrame,
    schema: Mapping[str, pl.DataType],
    names: Mapping[str, str],
    most_bytes: int,
) -> pl.LazyFrame:
    """Return the cells of rows of Parquet as text.

    rows: ROW, and the columns of the file.
    names: the name of the column of each role. The column has a type that `format_parquet_text`
    takes.
    most_bytes: the largest number of bytes that a cell may have. A row with a larger cell has a
    flaw.
    """
    cells = {role: format_parquet_text(schema, name, role) for role, name in names.items()}
    for role in filter(is_id_role, names):
        # A long id keeps one character more than an id may have, so that it is still refused.
        cells[role] = cells[role].str.head(MAX_ID_LENGTH + 1)
    flaw = f"a cell of more than {most_bytes / KB:g} KB ({MAX_LINE_KB} / {CELLS_OF_A_LINE})"
    return rows.select(
        pl.col(ROW).cast(pl.Int64),
        pl.when(is_too_long(schema, names.values(), most_bytes)).then(pl.lit(flaw)).alias(FLAW),
        # A dictionary can repeat a huge cell in millions of rows, so no step may copy such cells.
        **{
            role: pl.when(~is_too_long(schema, [names[role]], most_bytes)).then(cell)
            for role, cell in cells.items()
        },
    )


def is_id_role(role: str) -> bool:
    """Return whether a role's cells are ids of users or items."""
    return _ID_ROLE.fullmatch(role) is not None


def format_parquet_text(schema: Mapping[str, pl.DataType], name: str, role: str) -> pl.Expr:
    """Return the column as text, with times in the form `datetime` of `Columns.time_form`."""
    kind, column = schema[name], pl.col(name)
    if role in TIME_ROLES and kind == pl.Date:
        return column.dt.strftime("%Y-%m-%d")
    if role in TIME_ROLES and isinstance(kind, pl.Datetime):
        if kind.time_zone is None:
            return column.dt.strftime("%Y-%m-%dT%H:%M:%S")
        return column.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return column.cast(pl.String)


def is_too_long(
    schema: Mapping[str, pl.DataType], names: Iterable[str], most_bytes: int
) -> pl.Expr:
    """Return whether any of the columns has a text of more than `most_bytes` bytes."""
    texts = [name for name in names if schema[name] == pl.String]
    return pl.any_horizontal(
        pl.lit(value=False),
        *(pl.col(name).str.len_bytes().fill_null(0) > most_bytes for name in texts),
    )
