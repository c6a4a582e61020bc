"""The recognised settings of a source, for `batchrec new`, and the sample of rows behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import click
import polars as pl

from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR
from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.csv_form import find_header
from batchrec_dagster.preparation.file_form import (
    NO_HEADER,
    Column,
    Columns,
    FileForm,
    PreparationError,
)
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.recognition import Table, describe_form, open_table
from batchrec_dagster.reporting.views.plain import align
from batchrec_dagster.storage.durable import temporary_folder

# The number of rows in a preview.
PREVIEWED = 5
# The maximum number of columns, and of characters in a cell, in the preview of an unrecognised
# file.
PREVIEWED_COLUMNS = 10
PREVIEWED_CHARACTERS = 30
# Settings with these values are left out of the YAML.
_DEFAULTS = {"decimal": ".", "separator": VALUE_SEPARATOR}


class UnknownColumnsError(click.UsageError):
    """An error for columns that were not recognised, or do not exist.

    The message says which options to use.
    """


class Doubt(NamedTuple):
    """A guess that the user should check."""

    text: str

    setting: tuple[str, ...]
    """The path of the YAML setting to edit if the guess is wrong."""


@dataclass(frozen=True)
class RecognisedSource:
    """The settings that were recognised for a source."""

    settings: Mapping[str, object]
    """The block of the YAML that declares the source."""

    summary: list[str]
    """Lines that describe the source to the user."""

    doubts: list[Doubt]

    ids: Mapping[str, pl.Series] = field(default_factory=dict)
    """The distinct ids in ratings, by role: user and item."""

    rules: Sequence[str] = ()
    """Lines of the YAML about the rows that count.

    For ratings, these are settings of the block interactions; for users, comments below their
    block.
    """

    preview: str = ""
    """A table of the first rows as they were read."""


@contextmanager
def open_sample(
    files: Sequence[RawFile],
    columns: Columns,
    open_as: Callable[[OpenedFile, FileForm, Columns], Table] = open_table,
) -> Iterator[tuple[FileSample, FileForm]]:
    """Yield the first rows of the first file that is not empty, and the file's form.

    The rows are read as a run reads them. The column names may be missing, or stand below other
    lines. A run refuses such a file, and says which setting to write. The returned form has that
    setting.

    columns: the known columns, and how to read them.
    open_as: the function with which a run opens the file.

    Raises PreparationError, for example if all files are empty.
    """
    with temporary_folder() as folder, ConfinedReader() as reader:
        opened_files = (open_file(file, "auto", folder, reader) for file in files)
        opened = next((file for file in opened_files if file.size), None)
        if opened is None:
            raise PreparationError(f"{files[0].name} is empty")
        form = FileForm()
        table = open_as(opened, form, columns)
        header = find_header(table, form, columns) if isinstance(table, CsvTable) else None
        if header is not None and (header != NO_HEADER or not columns.roles):
            form = FileForm(header=header)
            table = open_as(opened, form, columns)
        yield FileSample(table), describe_form(table, form)


def require_columns(sample: FileSample, roles: Mapping[str, Column]) -> None:
    """Raise UnknownColumnsError unless the file has each of these columns exactly once.

    roles: the columns by role.
    """
    try:
        locate_columns(roles, sample.columns, sample.name)
    except PreparationError as error:
        raise UnknownColumnsError(str(error)) from error


def list_columns(sample: FileSample) -> str:
    """Return the names of the columns, joined by commas.

    A delimiter at the end of the header adds an empty name, which is left out.
    """
    return ", ".join(filter(None, sample.columns))


def preview_rows(sample: FileSample) -> str:
    """Return the first rows as they were read, as a table for the user."""
    rows = sample.rows.head(PREVIEWED).fill_null("").rows()
    cells = [[cell[:PREVIEWED_CHARACTERS] for cell in row] for row in (sample.columns, *rows)]
    return align([row[:PREVIEWED_COLUMNS] for row in cells])


def describe_bad_rows(bad: int, rows: int, first: str, block: str, *, skip: bool) -> Doubt:
    """Return a doubt which says that bad rows are dropped.

    Raises PreparationError if bad rows are not to be dropped.

    skip: whether bad rows are dropped.
    """
    warning = f"cannot read {bad:,} of {rows:,} rows; the first is {first}"
    if not skip:
        raise PreparationError(
            f"{warning}. Fix the file, or drop such rows with --on-bad-rows skip"
        )
    return Doubt(f"{warning}. They are dropped (on_bad_rows: skip)", (block, "on_bad_rows"))


def build_settings(
    source: str, form: FileForm, columns: Mapping[str, object], **further_settings: object
) -> dict[str, object]:
    """Return the YAML block of a source, without settings that have their default value.

    columns: the columns of the block.
    further_settings: other settings of the block.
    """
    has_names = any(isinstance(column, str) for column in columns.values())
    settings = {
        "source": source,
        "format": form.format,
        # A run recognises a comma without help if the file has column names.
        "delimiter": None if form.delimiter == "," and has_names else form.delimiter,
        "header": None if form.header == NO_HEADER else form.header,
        **further_settings,
        "columns": {role: column for role, column in columns.items() if column},
    }
    return {
        key: value
        for key, value in settings.items()
        if value is not None and value != _DEFAULTS.get(key)
    }
