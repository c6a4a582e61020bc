"""The first rows of a file as text, and the types that the columns seem to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from batchrec_dagster.preparation.file_form import (
    BLANKS,
    DOUBLE_QUOTES,
    Column,
    Decimal,
    PreparationError,
)
from batchrec_dagster.preparation.polars.csv_table import CsvTable, swap_comma_and_point
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.row_conditions import parse_as
from batchrec_dagster.preparation.polars.row_table import ParquetTable, is_without_text
from batchrec_dagster.preparation.polars.rows import describe_read_error

SAMPLED_ROWS = 1_000


@dataclass(frozen=True)
class FileSample:
    """The first rows of a file.

    Its properties and methods raise PreparationError if the file cannot be read.
    """

    table: CsvTable | JsonTable | ParquetTable

    @property
    def name(self) -> str:
        """The file's name in messages."""
        return self.table.opened.name

    @cached_property
    def columns(self) -> Sequence[str]:
        """The names of the columns, without Parquet columns that cannot be read as text."""
        if isinstance(self.table, ParquetTable):
            schema = self.table.schema
            return [name for name, kind in schema.items() if not is_without_text(kind)]
        return self.table.columns

    def is_temporal(self, column: Column | None) -> bool:
        """Return whether the column has a date or time type. Only Parquet has such types."""
        if not isinstance(self.table, ParquetTable) or column not in self.columns:
            return False
        return self.table.schema[str(column)].is_temporal()

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The first rows as text.

        Each column is named by its position from 0, so that no name clashes with a column that a
        table adds.
        """
        columns: Sequence[Column] = self.columns
        table = self.table
        if isinstance(table, CsvTable):
            # Positions are unique, but several columns may have the same name.
            columns = range(1, len(columns) + 1)
        if not isinstance(table, ParquetTable):
            table = replace(table, most=SAMPLED_ROWS)
        columns_by_role = {str(index): column for index, column in enumerate(columns)}
        rows = table.read_cells(columns_by_role).head(SAMPLED_ROWS).select(*columns_by_role)
        try:
            return rows.collect()
        except pl.exceptions.PolarsError as error:
            quotes = (
                table.find_broken_quotes(DOUBLE_QUOTES) if isinstance(table, CsvTable) else None
            )
            raise PreparationError(quotes or describe_read_error(self.name, error)) from error

    def read_cells(self, column: Column) -> pl.Series:
        """Return the cells of a column that are not empty, without the blanks around them.

        If several columns have the same name, the first one is read.
        """
        position = self.columns.index(column) if isinstance(column, str) else column - 1
        cells = self.rows.get_column(str(position)).drop_nulls().str.strip_chars(BLANKS)
        return cells.filter(cells != "")

    def infer_types(self, decimal: Decimal) -> dict[str, str]:
        """Return the type of each column by its name.

        For Parquet, the column's own type is returned. For other formats, the type is inferred from
        the first rows. If the rows cannot be read, all types are string. A run reports the error
        when it reads the rows.
        """
        if isinstance(self.table, ParquetTable):
            return {name: str(kind).lower() for name, kind in self.table.schema.items()}
        try:
            return {name: infer_type(self.read_cells(name), decimal) for name in self.columns}
        except PreparationError:
            return dict.fromkeys(self.columns, "string")

    def find_decimal_id(self, column: Column, types: Mapping[str, str]) -> str | None:
        """Return an id such as 913.0 from a column of numbers; None if there is none.

        pandas writes such ids for a column of whole numbers with missing values. In Parquet, only
        columns of decimals or text are searched, because runs refuse floating-point ids. In other
        formats, only columns of the type double are searched.

        types: the type of each column by its name, from `infer_types`.
        """
        name = column if isinstance(column, str) else dict(enumerate(self.columns, 1)).get(column)
        # A column that the file lacks is refused when the rows are read.
        if name is None or name not in self.columns:
            return None
        if isinstance(self.table, ParquetTable):
            if not types[name].startswith(("decimal", "string")):
                return None
            # Only this column is read, because runs sample no other column of a Parquet file.
            rows = self.table.read_cells({"id": name}).head(SAMPLED_ROWS)
            cells = rows.select(pl.col("id").drop_nulls()).collect().to_series()
        elif types[name] == "double":
            cells = self.read_cells(column)
        else:
            return None
        decimals = cells.filter(cells.str.contains(r"^[0-9]+\.0+$"))
        return str(decimals.item(0)) if len(decimals) else None


def infer_type(cells: pl.Series, decimal: Decimal) -> str:
    """Return the type, as in `Columns.types`, of cells that are not empty.

    The type is string if there are no cells, or if any cell begins with 0 and another digit, as in
    007.
    """
    if not len(cells) or cells.str.contains("^[+-]?0[0-9]").any():
        return "string"
    for kind in ("long", "double", "boolean"):
        if are_all(cells, kind, decimal):
            return kind
    return "string"


def are_all(cells: pl.Series, kind: str, decimal: Decimal = ".") -> bool:
    """Return whether there are cells, and all cells fit this type of `Columns.types`."""
    text = pl.lit(cells)
    if kind == "double" and decimal == ",":
        text = swap_comma_and_point(text)
    return len(cells) > 0 and not pl.select(parse_as(text, kind).null_count()).item()
