"""What `batchrec new` has recognised of a source, and the first rows to recognise it by."""

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

# Rows that are shown as they were read.
PREVIEWED = 5
# How many columns, and characters of a cell, are shown of a file that was not recognised.
PREVIEWED_COLUMNS = 10
PREVIEWED_CHARACTERS = 30
# Settings with these values are left out of the YAML.
_DEFAULTS = {"decimal": ".", "separator": VALUE_SEPARATOR}


class UnknownColumnsError(click.UsageError):
    """Columns were not recognised, or do not exist; the message says which options to use."""


class Doubt(NamedTuple):
    """What people should check."""

    text: str

    setting: tuple[str, ...]
    """The setting of the YAML to edit if it is wrong."""


@dataclass(frozen=True)
class RecognisedSource:
    """What was recognised of a source."""

    settings: Mapping[str, object]
    """The block of the YAML that declares it."""

    summary: list[str]
    """Lines for people."""

    doubts: list[Doubt]

    ids: Mapping[str, pl.Series] = field(default_factory=dict)
    """The distinct ids of ratings, of users and items, by their role."""

    rules: Sequence[str] = ()
    """Lines of the YAML on what counts: of the block interactions for ratings, comments below their
    block for users."""

    preview: str = ""
    """The first rows as they were read, as a table for people."""


@contextmanager
def open_sample(
    files: Sequence[RawFile],
    columns: Columns,
    open_as: Callable[[OpenedFile, FileForm, Columns], Table] = open_table,
) -> Iterator[tuple[FileSample, FileForm]]:
    """The first rows of the first file that is not empty, read as a run reads them, and its form.

    columns: what is given of how to read the file. The names of the columns may be below other
    lines, or missing, which a run refuses, with the setting to write.
    open_as: how a run opens the file.

    Raises PreparationError.
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
    """Raise UnknownColumnsError unless the file has each of these columns, by role, once."""
    try:
        locate_columns(roles, sample.columns, sample.name)
    except PreparationError as error:
        raise UnknownColumnsError(str(error)) from error


def list_columns(sample: FileSample) -> str:
    """The columns' names, without the empty one after a delimiter that ends the header."""
    return ", ".join(filter(None, sample.columns))


def preview_rows(sample: FileSample) -> str:
    """The first rows as they were read, as a table for people."""
    rows = sample.rows.head(PREVIEWED).fill_null("").rows()
    cells = [[cell[:PREVIEWED_CHARACTERS] for cell in row] for row in (sample.columns, *rows)]
    return align([row[:PREVIEWED_COLUMNS] for row in cells])


def describe_bad_rows(bad: int, rows: int, first: str, block: str, *, skip: bool) -> Doubt:
    """That rows are dropped. Raises PreparationError if they are not to be."""
    warning = f"cannot read {bad:,} of {rows:,} rows; the first is {first}"
    if not skip:
        raise PreparationError(
            f"{warning}. Fix the file, or drop such rows with --on-bad-rows skip"
        )
    return Doubt(f"{warning}. They are dropped (on_bad_rows: skip)", (block, "on_bad_rows"))


def build_settings(
    source: str, form: FileForm, columns: Mapping[str, object], **others: object
) -> dict[str, object]:
    """The block of the YAML, without what has its default value.

    columns: those of the block.
    others: further settings.
    """
    has_names = any(isinstance(column, str) for column in columns.values())
    settings = {
        "source": source,
        "format": form.format,
        # A run sees a comma by itself in a file whose columns have names.
        "delimiter": None if form.delimiter == "," and has_names else form.delimiter,
        "header": None if form.header == NO_HEADER else form.header,
        **others,
        "columns": {role: column for role, column in columns.items() if column},
    }
    return {
        key: value
        for key, value in settings.items()
        if value is not None and value != _DEFAULTS.get(key)
    }
