"""A first look at a file: its format, delimiter and columns, and what its first rows hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.column_aliases import recognise
from batchrec_dagster.preparation.layout import Column, Format, PreparationError
from batchrec_dagster.preparation.polars.csv_table import DELIMITERS, CsvTable, split_line
from batchrec_dagster.preparation.polars.decoding import Opened
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.parquet_table import ParquetTable

ROWS, LINES = 1_000, 20


@dataclass(frozen=True)
class FirstLook:
    """`cells`: the first rows as text, by the columns' names; `temporal`: the columns that are of
    dates or times by their type; `delimiter` is of csv only."""

    name: str
    format: Format
    delimiter: str | None
    has_header: bool
    cells: pl.DataFrame
    temporal: Sequence[str]

    @property
    def columns(self) -> list[str]:
        return self.cells.columns

    def column(self, column: Column) -> pl.Series:
        """Its cells that are not missing, without the spaces around."""
        name = column if isinstance(column, str) else self.columns[column - 1]
        cells = self.cells.get_column(name).drop_nulls().str.strip_chars()
        return cells.filter(cells != "")


def first_look(opened: Opened, *, delimiter: str | None, positions: bool) -> FirstLook:
    """`positions`: whether the columns are told by position, as in a file without a header.

    Raises PreparationError.
    """
    if opened.is_parquet:
        table = ParquetTable(opened)
        temporal = [name for name, kind in table.schema.items() if kind.is_temporal()]
        usable = [name for name, kind in table.schema.items() if not kind.is_nested()]
        cells = _cells(table, {name: name for name in usable})
        return FirstLook(opened.name, "parquet", None, True, cells, temporal)
    with opened.path.open(encoding="utf-8-sig") as file:
        lines = [line for line in islice(file, LINES) if line.strip()]
    if not lines:
        raise PreparationError(f"{opened.name} is empty")
    if lines[0].lstrip().startswith("{"):
        objects = JsonTable(opened, most=ROWS)
        cells = _cells(objects, {name: name for name in objects.columns})
        return FirstLook(opened.name, "json", None, True, cells, [])
    delimiter = delimiter or _delimiter(lines)
    first = split_line(lines[0], delimiter)
    has_header = not positions and not all(re.fullmatch(r"[0-9.]+", cell) for cell in first)
    rows = CsvTable(opened, delimiter, has_header, most=ROWS)
    if len(set(rows.columns)) < len(rows.columns):
        raise PreparationError(f"{opened.name}: two columns have the same name: rename one")
    places: dict[str, Column] = {name: place for place, name in enumerate(rows.columns, start=1)}
    cells = _cells(rows, {name: name for name in rows.columns} if has_header else places)
    return FirstLook(opened.name, "csv", delimiter, has_header, cells, [])


def _cells(
    table: CsvTable | JsonTable | ParquetTable, wanted: Mapping[str, Column]
) -> pl.DataFrame:
    # By a key of their own, so that no column has the name of what a table tells of each row.
    keys = {f" {name}": column for name, column in wanted.items()}
    try:
        rows = table.cells(keys).head(ROWS).select(*keys).collect()
    except pl.exceptions.PolarsError as error:
        told = table.misquoted() if isinstance(table, CsvTable) else None
        reason = str(error).partition("\n")[0]
        raise PreparationError(told or f"{table.opened.name} cannot be read: {reason}") from error
    return rows.rename({key: key[1:] for key in keys})


def _delimiter(lines: Sequence[str]) -> str:
    """The one that makes most known names of the first line; else columns, as many in each line."""

    def fits(delimiter: str) -> tuple[int, bool, int]:
        rows = [split_line(line, delimiter) for line in lines]
        many = len(rows[0])
        return len(recognise(rows[0])), many > 1 and {len(row) for row in rows} == {many}, many

    return max(DELIMITERS, key=fits)
