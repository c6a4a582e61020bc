"""The first rows of a file as text, and what they show of its columns.

Runs infer the types of columns from it. `batchrec new` also looks for columns in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from batchrec_dagster.preparation.csv_form import read_separator_line
from batchrec_dagster.preparation.layout import (
    QUOTES_FIX,
    Column,
    Decimal,
    Format,
    Header,
    PreparationError,
)
from batchrec_dagster.preparation.polars.cells import swap_comma_and_point
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.row_conditions import parse_as
from batchrec_dagster.preparation.polars.tables import ParquetTable, is_without_text

SAMPLED_ROWS = 1_000
_BLANKS = " \t"
# A whole number, perhaps with points between thousands, and perhaps with a comma and a fraction.
_NUMBER_WITH_COMMA = r"^[+-]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+)(?:,[0-9]+)?$"


@dataclass(frozen=True)
class FileSample:
    """The first rows of a file. Its properties and methods raise PreparationError where the file
    cannot be read.

    table: the file.
    quotes_fix: what to do about broken quotes in CSV.
    """

    table: CsvTable | JsonTable | ParquetTable
    quotes_fix: str = QUOTES_FIX

    @property
    def name(self) -> str:
        """What messages call the file."""
        return self.table.opened.name

    @property
    def format(self) -> Format:
        """The format that the file is read in."""
        if isinstance(self.table, ParquetTable):
            return "parquet"
        return "json" if isinstance(self.table, JsonTable) else "csv"

    @property
    def delimiter(self) -> str | None:
        """What separates the fields; None in files that are not CSV."""
        return self.table.delimiter if isinstance(self.table, CsvTable) else None

    @property
    def has_header(self) -> bool:
        """Whether the file itself names its columns."""
        return not isinstance(self.table, CsvTable) or self.table.has_header

    @property
    def header(self) -> Header | None:
        """The line that a run has to be told, from 1; None if it sees where the rows begin."""
        table = self.table
        if not isinstance(table, CsvTable) or not table.skipped:
            return None
        if table.skipped == 1 and read_separator_line(table.opened):
            return None
        return table.skipped + table.opened.shift + (1 if table.has_header else 0)

    @cached_property
    def columns(self) -> Sequence[str]:
        """The columns' names, without those of Parquet whose cells cannot be read as text."""
        if isinstance(self.table, ParquetTable):
            schema = self.table.schema
            return [name for name, kind in schema.items() if not is_without_text(kind)]
        return self.table.columns

    @property
    def temporal_columns(self) -> Sequence[str]:
        """The columns whose type is a date or a time, which only Parquet has."""
        if not isinstance(self.table, ParquetTable):
            return []
        return [name for name in self.columns if self.table.schema[name].is_temporal()]

    def read_cells(self, column: Column) -> pl.Series:
        """The cells of a column that are not empty, without the blanks around them.

        Of columns with the same name it is the first.
        """
        cells = (
            self._rows.get_column(str(self._find_position(column)))
            .drop_nulls()
            .str.strip_chars(_BLANKS)
        )
        return cells.filter(cells != "")

    def is_same_for_each(self, id_column: Column, column: Column) -> bool:
        """Whether the column has one value for each id, of which some have several rows."""
        names = [str(self._find_position(name)) for name in (id_column, column)]
        rows = self._rows.select(pl.col(names[0]).alias("id"), pl.col(names[1]).alias("value"))
        values = rows.group_by("id").agg(pl.len(), pl.col("value").n_unique())
        return bool((values["len"] > 1).any() and (values["value"] == 1).all())

    def _find_position(self, column: Column) -> int:
        """The position from 0. Of columns with the same name it is that of the first."""
        return self.columns.index(column) if isinstance(column, str) else column - 1

    def find_decimal(self, columns: Iterable[Column]) -> Decimal:
        """The decimal separator of CSV.

        It is a comma if one of the columns has whole numbers and numbers with a comma, and nothing
        else. They may have points between thousands.
        """
        for cells in map(self.read_cells, columns if self.format == "csv" else ()):
            are_numbers = cells.str.contains(_NUMBER_WITH_COMMA).all()
            if are_numbers and cells.str.contains(",", literal=True).any():
                return ","
        return "."

    def is_numeric(self, column: Column, decimal: Decimal) -> bool:
        """Whether all cells of the column are numbers, and there are any."""
        cells = self.read_cells(column)
        return len(cells) > 0 and _are_all(cells, "double", decimal)

    def infer_types(self, decimal: Decimal) -> dict[str, str]:
        """The type of each column by its name: in Parquet its own, else what its cells look like.

        If the rows cannot be read, all types are string. The error is reported when a run reads
        them.
        """
        if isinstance(self.table, ParquetTable):
            return {name: str(kind).lower() for name, kind in self.table.schema.items()}
        try:
            return {name: _infer_type(self.read_cells(name), decimal) for name in self.columns}
        except PreparationError:
            return dict.fromkeys(self.columns, "string")

    def find_decimal_id(self, column: Column, types: Mapping[str, str]) -> str | None:
        """An id such as 913.0 in a column of numbers, which pandas writes for a column of whole
        numbers with missing values.

        In Parquet they are decimals or texts: ids of floating-point numbers are refused.

        types: the type of each column by its name, as from `infer_types`.
        """
        name = column if isinstance(column, str) else dict(enumerate(self.columns, 1)).get(column)
        # A column that the file lacks is refused where the rows are read.
        if name is None or name not in self.columns:
            return None
        kind = types.get(name, "")
        if isinstance(self.table, ParquetTable):
            if not kind.startswith(("decimal", "string")):
                return None
            # Runs look at nothing else in such a file, so the other columns are not read.
            cells = (
                self.table.read_cells({"id": name})
                .head(SAMPLED_ROWS)
                .select(pl.col("id").drop_nulls())
                .collect()
                .to_series()
            )
        elif kind == "double":
            cells = self.read_cells(column)
        else:
            return None
        decimals = cells.filter(cells.str.contains(r"^[0-9]+\.0+$"))
        return str(decimals.item(0)) if len(decimals) else None

    @cached_property
    def _rows(self) -> pl.DataFrame:
        """The first rows. The columns are named after their positions, so that none has the name of
        a column that a table adds."""
        columns: Sequence[Column] = self.columns
        if isinstance(self.table, CsvTable):
            # Several columns may have the same name.
            columns = range(1, len(columns) + 1)
        columns_by_role = {str(place): column for place, column in enumerate(columns)}
        table = self.table
        if not isinstance(table, ParquetTable):
            table = replace(table, most=SAMPLED_ROWS)
        try:
            return (
                table.read_cells(columns_by_role)
                .head(SAMPLED_ROWS)
                .select(*columns_by_role)
                .collect()
            )
        except pl.exceptions.PolarsError as error:
            quotes = (
                table.find_broken_quotes(self.quotes_fix) if isinstance(table, CsvTable) else None
            )
            reason = str(error).partition("\n")[0]
            message = quotes or f"{self.name} cannot be read: {reason}"
            raise PreparationError(message) from error


def _infer_type(cells: pl.Series, decimal: Decimal) -> str:
    """The type of cells that are not empty. Numbers with a leading zero are text."""
    if not len(cells) or cells.str.contains("^[+-]?0[0-9]").any():
        return "string"
    for kind in ("long", "double", "boolean"):
        if _are_all(cells, kind, decimal):
            return kind
    return "string"


def _are_all(cells: pl.Series, kind: str, decimal: Decimal) -> bool:
    """Whether all cells are of this type of `Columns.types`."""
    text = pl.lit(cells)
    if kind == "double" and decimal == ",":
        text = swap_comma_and_point(text)
    return not pl.select(parse_as(text, kind).null_count()).item()
