"""What `batchrec new` sees in a file's columns: which have times, and how these are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import click
import polars as pl

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import (
    EPOCH_UNITS,
    ISO8601,
    QUOTES_FIX,
    Column,
    Columns,
    FileForm,
    PreparationError,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.tables import ParquetTable
from batchrec_dagster.preparation.polars.time_formats import find_time_formats
from batchrec_dagster.preparation.recognition import (
    find_other_header,
    has_names,
    open_table,
)
from batchrec_dagster.steps.checks import check_timestamps_plausible
from batchrec_dagster.storage.durable import temporary_folder

_TWO_DIGIT_YEAR = re.compile(r"\b[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2}\b")


class UnknownColumnsError(click.UsageError):
    """Columns were not recognised, or do not exist; the message says which options to use."""


@contextmanager
def open_sample(
    files: Sequence[RawFile],
    columns: Columns,
    open_as: Callable[
        [OpenedFile, FileForm, Columns], CsvTable | JsonTable | ParquetTable
    ] = open_table,
    quotes_fix: str = QUOTES_FIX,
) -> Iterator[FileSample]:
    """The first rows of the first file that is not empty, read as a run reads them.

    columns: what is given of how to read the file. The names of the columns may be below other
    lines, which a run refuses, and names the line. If no column is given, a CSV file without names
    is taken for one without a header; a run refuses it, and asks for its columns by position.
    open_as: how a run opens the file.
    quotes_fix: what to do about broken quotes.

    Raises PreparationError.
    """
    with temporary_folder() as folder, ConfinedReader() as reader:
        for file in files:
            opened = open_file(file, "auto", folder, reader)
            if opened.size:
                table = open_as(opened, FileForm(), columns)
                if isinstance(table, CsvTable):
                    header = find_other_header(table, FileForm(), columns)
                    if header is not None:
                        table = open_as(opened, FileForm(header=header), columns)
                if isinstance(table, CsvTable) and not columns.roles and not has_names(table):
                    table = replace(table, has_header=False)
                yield FileSample(table, quotes_fix)
                return
    raise PreparationError(f"{files[0].name} is empty")


def require_single_columns(sample: FileSample, columns: Mapping[str, Column]) -> None:
    """Raise PreparationError if the file has one of these columns, given by role, several times."""
    names = list(sample.columns)
    for role, column in columns.items():
        if isinstance(column, str) and names.count(column) > 1:
            raise PreparationError(
                f"{sample.name} has several columns {column!r} ({role}). Rename them, or give the"
                " columns by position"
            )


def list_columns(sample: FileSample) -> str:
    """The columns' names, without the empty one after a delimiter that ends the header."""
    return ", ".join(filter(None, sample.columns))


def describe_columns(sample: FileSample) -> str:
    """What is in each column, by its position, in words."""
    descriptions = []
    for position, name in enumerate(sample.columns, 1):
        content = "numbers" if sample.is_numeric(name, ".") else "text"
        if holds_times(sample, name):
            content = "times"
        example = "".join(sample.read_cells(name).head(1))
        descriptions.append(f"{position} {content}, such as {example}")
    return ", ".join(descriptions)


def check_columns(sample: FileSample, columns: Mapping[str, Column]) -> None:
    """Raise UnknownColumnsError unless the file has these columns, given by role."""
    for role, column in columns.items():
        if isinstance(column, str) and column not in sample.columns:
            raise UnknownColumnsError(
                f"{sample.name} has no column {column!r} ({role}). Found: {list_columns(sample)}"
            )
        if isinstance(column, int) and not 1 <= column <= len(sample.columns):
            raise UnknownColumnsError(
                f"{sample.name} has {len(sample.columns)} columns, so no column {column} ({role})"
            )


def has_times(sample: FileSample, name: str) -> bool:
    """Whether every cell of the column is a time: in ISO 8601, in 8 or 14 digits, or as an epoch
    since 1980."""
    if name in sample.temporal_columns:
        return True
    text = pl.lit(sample.read_cells(name))
    forms = pl.select(times.classify_form(text).alias("form")).to_series().unique().to_list()
    if len(forms) != 1 or forms[0] not in (*EPOCH_UNITS, *times.COMPACT_FORMS):
        return forms == [ISO8601]
    seconds = pl.select(times.parse_seconds(text, forms[0])).to_series().cast(pl.Int64)
    if seconds.has_nulls():
        return False  # Numbers of as many digits, of which not all are dates.
    first, last = seconds.sort()[[0, -1]]
    return check_timestamps_plausible(first, last, forms[0], datetime.now(UTC)).passed


def holds_times(sample: FileSample, column: str) -> bool:
    """Whether every cell of the column is a time, also in a format that must be declared."""
    return has_times(sample, column) or bool(find_time_formats(sample.read_cells(column)))


def may_hold_times(sample: FileSample, column: str) -> bool:
    """Whether times may be meant by the cells, of which at least half have a digit."""
    if column in sample.temporal_columns:
        return True
    cells = sample.read_cells(column)
    return len(cells) > 0 and 2 * int(cells.str.contains("[0-9]").sum()) >= len(cells)


def recognise_time_format(sample: FileSample, column: Column) -> str | None:
    """The strptime format of the times; None if a run recognises them by itself.

    Raises PreparationError if none fits, or several do.
    """
    cells = sample.read_cells(column)
    is_known = times.classify_form(pl.lit(cells)).is_not_null().any()
    if not len(cells) or column in sample.temporal_columns or pl.select(is_known).item():
        return None
    matching = find_time_formats(cells)
    if len(matching) == 1:
        return matching[0]
    example = cells.item(0)
    reason = f" ({' or '.join(matching)}?)" if matching else ""
    if _TWO_DIGIT_YEAR.search(example):
        reason = " with a year of two digits (%y)"
    raise PreparationError(
        f"{sample.name}, column {column}: unknown time format, such as {example!r}{reason}."
        " Give it as for strptime: --time-format '%d.%m.%Y %H:%M'"
    )
