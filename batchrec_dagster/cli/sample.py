"""The first rows of a file as text, and what they show: numbers, decimal commas, times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import click
import polars as pl

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.layout import (
    EPOCH_UNITS,
    ISO8601,
    Column,
    Decimal,
    Format,
    PreparationError,
    recognise,
    split_line,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import DELIMITERS, CsvTable, check_width, pointed
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.rows import typed
from batchrec_dagster.preparation.polars.tables import ParquetTable
from batchrec_dagster.steps.checks import timestamps_plausible
from batchrec_dagster.storage.durable import temporary_folder

ROWS, LINES = 1_000, 20
# Common formats that `times.form` does not know. One counts if it alone reads all the first rows.
TIME_FORMATS = [
    day + time
    for day in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d")
    for time in ("", " %H:%M", " %H:%M:%S")
]


class UnknownColumnsError(click.UsageError):
    """Columns were not recognised, or do not exist; the message says which options to use."""


@dataclass(frozen=True)
class FileSample:
    """The first rows of a file. `cells`: text, under the columns' names; `temporal`: columns of
    dates or times by type; `delimiter`: of CSV only."""

    name: str
    format: Format
    delimiter: str | None
    has_header: bool
    cells: pl.DataFrame
    temporal: Sequence[str]

    @property
    def columns(self) -> list[str]:
        return self.cells.columns

    @property
    def listed(self) -> str:
        """The columns' names, without the empty one after a delimiter that ends the header."""
        return ", ".join(filter(None, self.columns))

    def column(self, column: Column) -> pl.Series:
        """Its non-empty cells, stripped."""
        name = column if isinstance(column, str) else self.columns[column - 1]
        cells = self.cells.get_column(name).drop_nulls().str.strip_chars()
        return cells.filter(cells != "")

    @property
    def kinds(self) -> str:
        """What is in each column, in words."""

        def kind(name: str) -> str:
            if self.is_time(name) or self.time_formats(name):
                return "times"
            return "numbers" if self.is_numeric(name, ".") else "text"

        return ", ".join(
            f"{at} {kind(name)}, such as {''.join(self.column(name).head(1))}"
            for at, name in enumerate(self.columns, 1)
        )

    def check_columns(self, columns: Mapping[str, Column]) -> None:
        """Raise UnknownColumnsError unless the file has these columns, given by role."""
        for role, column in columns.items():
            if isinstance(column, str) and column not in self.columns:
                raise UnknownColumnsError(
                    f"{self.name} has no column {column!r} ({role}). Found: {self.listed}"
                )
            if isinstance(column, int) and not 1 <= column <= len(self.columns):
                raise UnknownColumnsError(
                    f"{self.name} has {len(self.columns)} columns, so no column {column} ({role})"
                )

    def decimal(self, columns: Iterable[Column]) -> Decimal:
        """The decimal separator: a comma if a column has only whole numbers and such with one."""
        for cells in map(self.column, columns if self.format == "csv" else ()):
            numbers = cells.str.contains(r"^[+-]?[0-9]+(?:,[0-9]+)?$").all()
            if numbers and cells.str.contains(",", literal=True).any():
                return ","
        return "."

    def numbers(self, column: Column, decimal: Decimal) -> pl.Series:
        """The column's cells as numbers; null for those that are none."""
        text = pl.lit(self.column(column))
        return pl.select(typed(text if decimal == "." else pointed(text), "double")).to_series()

    def is_numeric(self, column: Column, decimal: Decimal) -> bool:
        """Whether all its cells are numbers, and there are any."""
        numbers = self.numbers(column, decimal)
        return len(numbers) > 0 and not numbers.null_count()

    def is_time(self, name: str) -> bool:
        """Whether every row has a time here, in ISO 8601 or as an epoch since 1980."""
        if name in self.temporal:
            return True
        text = pl.lit(self.column(name))
        forms = pl.select(times.form(text).alias("form")).to_series().unique().to_list()
        if len(forms) != 1 or forms[0] not in EPOCH_UNITS:
            return forms == [ISO8601]
        seconds = pl.select(times.seconds(text, forms[0])).to_series().cast(pl.Int64)
        first, last = seconds.sort()[[0, -1]]
        return timestamps_plausible(first, last, forms[0], datetime.now(UTC)).passed

    def time_formats(self, column: Column) -> list[str]:
        """The strptime formats that read all of the column's cells."""
        text = pl.lit(self.column(column))
        # With %Y a year of two digits is one long ago.
        wrong = {
            form: (~(times.seconds(text, form) >= 0)).fill_null(value=True).any()
            for form in TIME_FORMATS
        }
        return [form for form in TIME_FORMATS if not pl.select(wrong[form]).item()]

    def time_format(self, column: Column) -> str | None:
        """The strptime format of the times; None if the pipeline recognises them by itself.

        Raises PreparationError if none fits, or several do.
        """
        text = pl.lit(cells := self.column(column))
        if column in self.temporal or pl.select(times.form(text).is_not_null().any()).item():
            return None
        fitting = self.time_formats(column)
        if not len(cells) or len(fitting) == 1:
            return fitting[0] if len(cells) else None
        either = f" ({' or '.join(fitting)}?)" if fitting else ""
        if re.search(r"\b[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2}\b", cells.item(0)):
            either = " with a year of two digits (%y)"
        raise PreparationError(
            f"{self.name}, column {column}: unknown time format, such as {cells.item(0)!r}{either}."
            " Give it as for strptime: --time-format '%d.%m.%Y %H:%M'"
        )


def read_sample(
    files: Sequence[RawFile],
    columns: Mapping[str, Column],
    delimiter: str | None,
    encoding: str = "auto",
    quoted: bool = True,
) -> FileSample:
    """The first rows of the first file that is not empty. Raises PreparationError.

    columns: those given, by role; columns by position mean that there is no header.
    """
    positions = any(isinstance(column, int) for column in columns.values())
    with temporary_folder() as folder, ConfinedReader() as reader:
        for file in files:
            opened = open_file(file, encoding, folder, reader)
            if opened.size:
                return _read(opened, delimiter, positions=positions, quoted=quoted)
    raise PreparationError(f"{files[0].name} is empty")


def _read(
    opened: OpenedFile, delimiter: str | None, *, positions: bool, quoted: bool
) -> FileSample:
    if (form := opened.format) == "parquet":
        parquet = ParquetTable(opened)
        flat = [name for name, kind in parquet.schema.items() if not kind.is_nested()]
        temporal = [name for name in flat if parquet.schema[name].is_temporal()]
        return FileSample(opened.name, form, None, True, _cells(parquet, flat, flat), temporal)
    if form == "json":
        objects = JsonTable(opened, most=ROWS)
        cells = _cells(objects, objects.columns, objects.columns)
        return FileSample(opened.name, form, None, True, cells, [])
    with opened.path.open(encoding="utf-8-sig") as file:
        lines = [line for line in islice(file, LINES) if line.strip()]
    if not lines:
        raise PreparationError(f"{opened.name} is empty")
    delimiter = delimiter or _delimiter(lines)
    first = split_line(lines[0], delimiter, quoted=quoted)
    check_width(first, opened.name)
    has_header = not positions and (bool(recognise(first)) or not _has_values(first))
    table = CsvTable(opened, delimiter, has_header, quoted, most=ROWS)
    names = table.columns
    if len(set(names)) < len(names):
        raise PreparationError(f"{opened.name}: two columns have the same name. Rename one")
    cells = _cells(table, names, names if has_header else range(1, len(names) + 1))
    return FileSample(opened.name, form, delimiter, has_header, cells, [])


def _cells(
    table: CsvTable | JsonTable | ParquetTable, names: Sequence[str], columns: Sequence[Column]
) -> pl.DataFrame:
    # Under their numbers, so that no column takes the name of one that a table adds.
    wanted = {str(place): column for place, column in enumerate(columns)}
    try:
        rows = table.cells(wanted).head(ROWS).select(*wanted).collect()
    except pl.exceptions.PolarsError as error:
        quotes = table.misquoted() if isinstance(table, CsvTable) else None
        reason = str(error).partition("\n")[0]
        raise PreparationError(quotes or f"cannot read {table.opened.name}: {reason}") from error
    return rows.rename(dict(zip(wanted, names, strict=True)))


def _has_values(cells: Sequence[str]) -> bool:
    """Whether there are numbers or times among them, which are no names of columns."""
    text = pl.lit(pl.Series(cells, dtype=pl.String))
    looked = pl.select(a=times.form(text).is_not_null(), b=typed(text, "double").is_not_null())
    return bool(looked.select(pl.any_horizontal("a", "b").any()).item())


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that gives the most known names, else equally many columns in every line."""

    def fit(delimiter: str) -> tuple[int, bool, int]:
        rows = [split_line(line, delimiter) for line in lines]
        width = len(rows[0])
        return len(recognise(rows[0])), width > 1 and {len(row) for row in rows} == {width}, width

    return max(DELIMITERS, key=fit)
