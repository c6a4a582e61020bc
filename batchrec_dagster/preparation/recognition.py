"""The recognition of the form and the columns of a source's files.

Declared settings are kept. The other settings are recognised from the first file with rows.

Runs and `batchrec new` share this module for ratings, items, users and lists of ids. If a run
cannot recognise a setting, it raises an error that says what to declare.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from batchrec_dagster.preparation.column_names import list_names, locate_columns, recognise_columns
from batchrec_dagster.preparation.csv_form import (
    find_header,
    read_separator_line,
    recognise_delimiter,
)
from batchrec_dagster.preparation.file_form import (
    AUTO,
    DATETIME,
    FILTER,
    NO_HEADER,
    NO_TIMES,
    Column,
    Columns,
    FileForm,
    Header,
    PreparationError,
)
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.json_table import JsonTable, describe_nested
from batchrec_dagster.preparation.polars.row_conditions import (
    RowConditionError,
    list_filter_columns,
    require_condition_on,
)
from batchrec_dagster.preparation.polars.row_table import ParquetTable
from batchrec_dagster.preparation.polars.time_formats import (
    find_time_formats,
    is_text_without_form,
)
from batchrec_dagster.preparation.row_rules import RowRules

Table = CsvTable | JsonTable | ParquetTable


@dataclass(frozen=True)
class Recognised:
    """The form and the columns of a source's files.

    Declared settings are kept. Other settings are recognised from the first file with rows.
    """

    form: FileForm
    columns: Columns

    types: Mapping[str, str]
    """The type of every column of the file, by the column's name."""

    warnings: Sequence[str]
    """Warnings about settings or data that can be read but are probably mistakes."""


def open_table(opened: OpenedFile, form: FileForm, columns: Columns) -> Table:
    """Return the table in a file, ready to be read row by row.

    If columns are given by position, or if `form.header` is NO_HEADER, line 1 of a CSV file is a
    row. Otherwise line 1 names the columns. If `form.header` is a line number, the rows begin after
    that line.

    Raises PreparationError if a header is declared for a file that does not need a line of names.
    Also raises PreparationError if the declared format is Parquet and the file is not, or the other
    way round.
    """
    file_format = form.format or opened.format
    if file_format != opened.format and "parquet" in {file_format, opened.format}:
        raise PreparationError(
            f"{opened.name} is {opened.format}, and format says {file_format}: omit format"
        )
    if form.header is not None and (file_format != "csv" or opened.shift < 0):
        raise PreparationError(
            f"{opened.name} is {file_format if file_format != 'csv' else 'a table'}, whose columns"
            " have names: omit header"
        )
    if file_format == "parquet":
        return ParquetTable(opened)
    if file_format == "json":
        return JsonTable(opened)
    has_header = form.header != NO_HEADER and columns.are_named
    skipped = _count_skipped_lines(opened, form.header, has_header=has_header)
    delimiter = form.delimiter
    if delimiter is None:
        delimiter = recognise_delimiter(opened, columns.roles, form.quoted, skipped)
    return CsvTable(
        opened,
        delimiter,
        form.quoted,
        columns.with_comma,
        has_header=has_header,
        skipped=skipped,
    )


def _count_skipped_lines(opened: OpenedFile, header: Header | None, *, has_header: bool) -> int:
    """Return the number of lines before the header, or before the first row if there is no header.

    header: the declared header. A number counts the lines of the original file, before it was
    unpacked or converted.
    """
    if header == NO_HEADER:
        return 0
    if header is None:
        return 1 if read_separator_line(opened) else 0
    skipped = header - opened.shift - (1 if has_header else 0)
    if skipped < 0:
        raise PreparationError(
            f"{opened.name} has nothing before {opened.name_line(1)}, so header: {header} is not"
            " the line that names the columns"
        )
    return skipped


def recognise(opened: OpenedFile, form: FileForm, columns: Columns, rules: RowRules) -> Recognised:
    """Recognise the form and the columns of files such as this one.

    form, columns: the declared settings.

    Raises PreparationError if a needed setting cannot be recognised, or if a declared setting does
    not fit the file.
    """
    table = open_table(opened, form, columns)
    sample = FileSample(table)
    warnings: list[str] = []
    decimal = None
    if isinstance(table, CsvTable):
        decimal = columns.decimal
        if not table.has_header:
            warnings += _describe_header_among_rows(table, form, columns)
    else:
        _require_no_csv_settings(table, columns)
    roles = _choose_roles(table, form, columns, rules)
    types = {**sample.infer_types(decimal or "."), **columns.types}
    columns = replace(
        columns,
        roles=roles,
        time_form=_choose_time_form(sample, roles.get("timestamp"), columns),
        decimal=decimal,
    )
    if rules.filter is not None:
        columns = replace(
            columns, types=_choose_types_of_filter(table, columns, types, rules.filter)
        )
    warnings += _describe_decimal_ids(sample, roles, types)
    return Recognised(describe_form(table, form), columns, types, warnings)


def describe_form(table: Table, form: FileForm) -> FileForm:
    """Return the form to declare for files such as this one.

    form: the declared form.
    """
    if isinstance(table, ParquetTable):
        return replace(form, format="parquet")
    if isinstance(table, JsonTable):
        return replace(form, format="json")
    header = form.header
    if table.skipped:
        header = table.skipped + table.opened.shift + (1 if table.has_header else 0)
    return replace(form, format="csv", delimiter=table.delimiter, header=header)


def _require_no_csv_settings(table: JsonTable | ParquetTable, columns: Columns) -> None:
    """Raise PreparationError if a setting is declared that only CSV files can have."""
    name = table.opened.name
    file_format = "json" if isinstance(table, JsonTable) else "parquet"
    if not columns.are_named:
        raise PreparationError(
            f"{name} is {file_format}, whose columns have names: give these in"
            f" ratings.columns, of {', '.join(table.columns)}"
        )
    if columns.decimal == ",":
        raise PreparationError(
            f"{name} is {file_format}, whose numbers have a point: ratings.decimal is of csv"
        )


def _choose_roles(
    table: Table, form: FileForm, columns: Columns, rules: RowRules
) -> dict[str, Column]:
    """Return the column of each role: the declared column, or else a column with a known name.

    Raises PreparationError if a needed role has no column, or if a role's column has objects or
    lists.
    """
    needed = ["user", "item"]
    if columns.time_form != NO_TIMES:
        needed.append("timestamp")
    if rules.min_rating is not None:
        needed.append("rating")
    # An event type column may be missing, because then all interactions get the same event type.
    optional = ["event_type"] if rules.event_type and not columns.roles else []
    roles = dict(columns.roles)
    if table.has_header and not roles.keys() >= {*needed, *optional}:
        names = recognise_columns(table.columns)
        roles = {**{role: names[role] for role in [*needed, *optional] if role in names}, **roles}
    nested = table.nested_columns if isinstance(table, JsonTable) else []
    if used := [name for name in nested if name in roles.values()]:
        raise PreparationError(f"{table.opened.name}: {describe_nested(used)}")
    missing = [role for role in needed if role not in roles]
    if missing:
        if not roles and isinstance(table, CsvTable):
            _refuse_other_header(table, form, columns)
        hint = ""
        if "timestamp" in missing:
            hint = "; if there is no time, set ratings.columns.timestamp: none"
        if nested:
            hint += f"; {describe_nested(nested)}"
        raise PreparationError(
            f"{table.opened.name}: could not recognise the {' and '.join(missing)} column. Found:"
            f" {list_names(table.columns)}. Set ratings.columns{hint}"
        )
    return roles


def _refuse_other_header(table: CsvTable, form: FileForm, columns: Columns) -> None:
    """Raise PreparationError if another line names the columns, or if no line does."""
    opened, header = table.opened, find_header(table, form, columns)
    if header is None:
        return
    if header == NO_HEADER:
        raise PreparationError(
            f"{opened.name} has no names in line 1: set ratings.columns by position, such as"
            " {user: 1, item: 2, rating: 3, timestamp: 4}"
        )
    other = open_table(opened, replace(form, header=header), columns)
    raise PreparationError(
        f"{opened.name}: {opened.name_line(1)} does not name the columns, but"
        f" {opened.name_line(header - opened.shift)} may ({', '.join(other.columns)}): set"
        f" ratings.header: {header}"
    )


def _describe_header_among_rows(table: CsvTable, form: FileForm, columns: Columns) -> Iterator[str]:
    """Yield a warning if the line with the columns' names is read as a row."""
    opened, header = table.opened, find_header(table, form, columns)
    if header is not None:
        yield (
            f"{opened.name}: columns are given by position, and"
            f" {opened.name_line(table.skipped + 1)} seems to name them"
            f" ({table.delimiter.join(table.first_line)}): set ratings.header: {header}, and it"
            " is not read as a row"
        )


def _describe_decimal_ids(
    sample: FileSample, roles: Mapping[str, Column], types: Mapping[str, str]
) -> Iterator[str]:
    """Yield a warning for each id column with decimal ids such as 12.0."""
    for role in ("user", "item"):
        column = roles[role]
        example = sample.find_decimal_id(column, types)
        if example:
            yield (
                f"{sample.name}: the {role} ids (column {column}) are decimals such as {example},"
                f" as pandas writes a column with missing values: {example} is not the id of"
                f" {example.split('.')[0]}. Write them as whole numbers, or convert them in"
                " ratings.query"
            )


def _choose_time_form(sample: FileSample, column: Column | None, declared: Columns) -> str:
    """Return the form of the times.

    A date or time type of the column decides first, then the declared form, then the first rows.
    The result is `auto` if a cell shows its form by itself, such as a number or a date of ISO 8601.
    It is also `auto` if there are no cells, or if the cells cannot be read.

    Raises PreparationError if the times are in an unknown format, or if several formats fit them.
    """
    if sample.is_temporal(column):
        return DATETIME
    if declared.time_form != AUTO or column is None:
        return declared.time_form
    try:
        cells = sample.read_cells(column)
    except (PreparationError, ValueError, pl.exceptions.ColumnNotFoundError):
        return AUTO  # The error is reported when the rows are read.
    cells = cells.filter(~cells.is_in(list(declared.null_values)))
    if not is_text_without_form(cells):
        return AUTO
    formats = find_time_formats(cells)
    if len(formats) == 1:
        return formats[0]
    if formats:
        choices = " or ".join(f'"{text}"' for text in formats)
        raise PreparationError(
            f"{sample.name}, column {column}: times such as {cells.item(0)!r} may be in several"
            f" formats. Set ratings.timestamp_format: {choices}"
        )
    raise PreparationError(
        f"{sample.name}, column {column}: its times are in an unknown format. Set"
        ' ratings.timestamp_format, as for strptime, such as "%d.%m.%Y %H:%M", or name another'
        " column in ratings.columns.timestamp"
    )


def _choose_types_of_filter(
    table: Table, columns: Columns, types: Mapping[str, str], condition: str
) -> dict[str, str]:
    """Return the types of the columns that the filter names.

    types: the type of each column of the file.

    Raises PreparationError if a column is missing, or if the filter is not a condition on columns
    of these types.
    """
    names = list_filter_columns(condition)
    name = table.opened.name
    locate_columns(
        {FILTER + column: columns.find_column(column) for column in names}, table.columns, name
    )
    types_of_filter = {column: _simplify_type(types[column]) for column in names}
    try:
        require_condition_on(condition, types_of_filter)
    except RowConditionError as error:
        raise PreparationError(f"{name}: interactions.filter: {error}") from error
    return types_of_filter


def _simplify_type(kind: str) -> str:
    if re.match(r"u?int\d", kind):
        return "long"
    if re.match(r"float\d|decimal", kind):
        return "double"
    return kind if kind in ("long", "double", "boolean") else "string"
