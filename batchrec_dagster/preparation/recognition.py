"""How the files are read: as declared, and as the first file with rows shows.

Runs and `batchrec new` share it. What a run cannot recognise is an error that lists the columns;
`batchrec new` then looks at the contents of the columns, and declares what it sees there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from batchrec_dagster.preparation.column_names import list_names, locate_columns, recognise_columns
from batchrec_dagster.preparation.csv_form import (
    find_header,
    has_empty_line,
    names_columns,
    read_first_records,
    read_separator_line,
    recognise_delimiter,
    surely_names_columns,
)
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import (
    AUTO,
    DATETIME,
    FILTER,
    NO_HEADER,
    NO_TIMES,
    NULL_VALUES,
    Column,
    Columns,
    FileForm,
    Format,
    Header,
    PreparationError,
)
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.json_table import JsonTable, describe_nested
from batchrec_dagster.preparation.polars.row_conditions import (
    RowConditionError,
    check_types,
    list_filter_columns,
)
from batchrec_dagster.preparation.polars.tables import ParquetTable, RowTable
from batchrec_dagster.preparation.polars.time_formats import (
    find_time_formats,
    is_text_without_form,
)
from batchrec_dagster.preparation.rules import Rules

REQUIRED = ("user", "item", "timestamp")
NEEDLESS = ("timestamp", NO_TIMES)


@dataclass(frozen=True)
class Recognised:
    """How the files of a source are read: as declared, and as the first of them shows."""

    form: FileForm
    columns: Columns

    types: Mapping[str, str]
    """The type of every column of the file by its name."""

    warnings: Sequence[str] = ()
    """What can be read but is probably not meant."""


def open_table(
    opened: OpenedFile, form: FileForm, columns: Columns
) -> CsvTable | JsonTable | ParquetTable:
    """The file, to be read row by row.

    Columns that are given by position say that line 1 of a CSV file is a row; else it names the
    columns. A header that is declared says where they begin.

    Raises PreparationError if a header is declared of a file that has names of its own, or if only
    one of the declared and the real format is Parquet.
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
        delimiter = recognise_delimiter(opened, columns.roles, quoted=form.quoted, skipped=skipped)
    return CsvTable(opened, delimiter, has_header, form.quoted, columns.with_comma, skipped=skipped)


def _count_skipped_lines(opened: OpenedFile, header: Header | None, *, has_header: bool) -> int:
    """How many lines come before the header, or before the first row if there is none.

    header: as it is declared, by the number of the line in the file as it came.
    """
    if header == NO_HEADER:
        return 0
    if header is None:
        return 1 if read_separator_line(opened) else 0
    skipped = header - opened.shift - (1 if has_header else 0)
    if skipped < 0:
        raise PreparationError(
            f"{opened.name} has nothing before {opened.place(1)}, so header: {header} is not the"
            " line that names the columns"
        )
    return skipped


def recognise(opened: OpenedFile, form: FileForm, columns: Columns, rules: Rules) -> Recognised:
    """How to read files such as this one.

    form, columns: as declared.

    Raises PreparationError.
    """
    table = open_table(opened, form, columns)
    sample = FileSample(table)
    if sample.format != "csv":
        _require_no_csv_settings(table, sample.format, columns)
    needed = _list_needed_roles(columns, rules)
    roles = {**columns.roles}
    if sample.has_header:
        roles |= _recognise_needed_columns(table, roles, needed)
    _require_needed_columns(table, form, columns, roles, needed)
    time_form = _choose_time_form(sample, roles.get("timestamp"), columns)
    decimal = columns.decimal if sample.format == "csv" else None
    types = {**sample.infer_types(decimal or "."), **columns.types}
    recognised = Recognised(
        form=replace(
            form,
            format=sample.format,
            delimiter=sample.delimiter,
            header=_count_lines_as_declared(table),
        ),
        columns=replace(columns, roles=roles, time_form=time_form, decimal=decimal),
        types=types,
        warnings=[*_describe_decimal_ids(sample, roles, types)],
    )
    if isinstance(table, CsvTable) and not table.has_header:
        warnings = [*recognised.warnings, *_describe_header_among_rows(table, form, columns)]
        recognised = replace(recognised, warnings=warnings)
    return _with_types_of_filter(recognised, rules, table)


def _require_no_csv_settings(table: RowTable, file_format: Format, columns: Columns) -> None:
    """Raise PreparationError for settings that only files of CSV can have.

    file_format: the format of the file, which is another one.
    """
    name = table.opened.name
    if not columns.are_named:
        raise PreparationError(
            f"{name} is {file_format}, whose columns have names: give these in"
            f" ratings.columns, of {', '.join(table.columns)}"
        )
    if columns.decimal == ",":
        raise PreparationError(
            f"{name} is {file_format}, whose numbers have a point: ratings.decimal is of csv"
        )


def _list_needed_roles(columns: Columns, rules: Rules) -> list[str]:
    """The roles for which a column is declared, or looked for."""
    needed = [role for role in REQUIRED if (role, columns.time_form) != NEEDLESS]
    if rules.min_rating is not None:
        needed.append("rating")
    if rules.event_type and not columns.roles:
        needed.append("event_type")
    return needed


def _recognise_needed_columns(
    table: RowTable, roles: Mapping[str, Column], needed: Sequence[str]
) -> dict[str, str]:
    """The columns of the needed roles that are not declared, by role, as far as names show them."""
    undeclared = [role for role in needed if role not in roles]
    if not undeclared:
        return {}
    names = recognise_columns(table.columns)
    return {role: names[role] for role in undeclared if role in names}


def _require_needed_columns(
    table: CsvTable | JsonTable | ParquetTable,
    form: FileForm,
    columns: Columns,
    roles: Mapping[str, Column],
    needed: Sequence[str],
) -> None:
    """Raise PreparationError if a needed role has no column, or one of objects or lists.

    form, columns: as declared.
    roles: the columns that are declared or recognised.
    """
    if isinstance(table, JsonTable):
        used = {*roles.values()}
        nested = [name for name in table.nested_columns if name in used]
        if nested:
            raise PreparationError(f"{table.opened.name}: {describe_nested(nested)}")
    # Without event types, all interactions are of one.
    missing = [role for role in needed if role not in roles and role != "event_type"]
    if not missing:
        return
    if not roles and isinstance(table, CsvTable):
        _refuse_other_header(table, form, columns)
    raise _build_not_recognised_error(table, missing)


def _describe_decimal_ids(
    sample: FileSample, roles: Mapping[str, Column], types: Mapping[str, str]
) -> Iterator[str]:
    """A warning for each column of ids that are decimals such as 12.0."""
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


def _describe_header_among_rows(table: CsvTable, form: FileForm, columns: Columns) -> Iterator[str]:
    """The warning that a line names the columns, but is read as a row; none if no line does."""
    opened = table.opened
    header = find_other_header(table, form, columns)
    if header is not None:
        yield (
            f"{opened.name}: columns are given by position, and"
            f" {opened.place(table.skipped + 1)} seems to name them"
            f" ({table.delimiter.join(table.first_line)}): set ratings.header: {header}, and it"
            " is not read as a row"
        )


def _count_lines_as_declared(table: CsvTable | JsonTable | ParquetTable) -> Header | None:
    """`FileForm.header`, as a person counts in the file; None if it is the usual line."""
    if not isinstance(table, CsvTable) or not table.skipped:
        return None
    return table.skipped + table.opened.shift + (1 if table.has_header else 0)


def _choose_time_form(sample: FileSample, column: Column | None, declared: Columns) -> str:
    """How times are written: as declared, else as the type of the column or the first rows show.

    It is `auto` if each row shows it. Raises PreparationError for times in an unknown format, or in
    one of several.
    """
    if isinstance(column, str) and column in sample.temporal_columns:
        return DATETIME
    columns = sample.columns
    is_there = column in columns if isinstance(column, str) else (column or 0) <= len(columns)
    if declared.time_form != AUTO or column is None or not is_there:
        return declared.time_form
    try:
        cells = sample.read_cells(column)
    except PreparationError:
        return AUTO  # The error is reported where the rows are read.
    return recognise_time_format(sample.name, column, cells, declared.null_values) or AUTO


def recognise_time_format(
    name: str, column: Column, cells: pl.Series, null_values: Sequence[str] = NULL_VALUES
) -> str | None:
    """The strptime format of the times; None if they need none.

    name: what messages call the file.
    cells: the first cells of the column.

    Raises PreparationError if they are text, and none of the usual formats reads all of them, or
    several do.
    """
    cells = cells.filter(~cells.is_in(list(null_values)))
    if not is_text_without_form(cells):
        return None
    formats = find_time_formats(cells)
    if len(formats) == 1:
        return formats[0]
    if formats:
        choices = " or ".join(f'"{text}"' for text in formats)
        raise PreparationError(
            f"{name}, column {column}: times such as {cells.item(0)!r} may be in several formats."
            f" Set ratings.timestamp_format: {choices}"
        )
    raise PreparationError(
        f"{name}, column {column}: its times are in an unknown format. Set"
        ' ratings.timestamp_format, as for strptime, such as "%d.%m.%Y %H:%M", or name another'
        " column in ratings.columns.timestamp"
    )


def _with_types_of_filter(recognised: Recognised, rules: Rules, table: RowTable) -> Recognised:
    """With the types of the columns that the filter names. Raises PreparationError."""
    if rules.filter is None:
        return recognised
    columns = recognised.columns
    names = list_filter_columns(rules.filter)
    name = table.opened.name
    locate_columns(
        {FILTER + column: columns.find_column(column) for column in names}, table.columns, name
    )
    types = {column: _simplify_type(recognised.types[column]) for column in names}
    try:
        check_types(rules.filter, types)
    except RowConditionError as error:
        raise PreparationError(f"{name}: interactions.filter: {error}") from error
    return replace(recognised, columns=replace(columns, types=types))


def _simplify_type(kind: str) -> str:
    if re.match(r"u?int\d", kind):
        return "long"
    if re.match(r"float\d|decimal", kind):
        return "double"
    return kind if kind in ("long", "double", "boolean") else "string"


def _refuse_other_header(table: CsvTable, form: FileForm, columns: Columns) -> None:
    """Raise PreparationError if the names of the columns are in another line, or in none."""
    opened = table.opened
    header = find_other_header(table, form, columns)
    if header is not None:
        before = header - opened.shift - 1
        delimiter = recognise_delimiter(opened, {}, quoted=form.quoted, skipped=before)
        line = read_first_records(opened, delimiter, quoted=form.quoted, skipped=before)[0]
        raise PreparationError(
            f"{opened.name}: {opened.place(1)} does not name the columns, but"
            f" {opened.place(before + 1)} may ({', '.join(line)}): set ratings.header: {header}"
        )
    if not has_names(table):
        raise PreparationError(
            f"{opened.name} has no names in line 1: set ratings.columns by position, such as"
            " {user: 1, item: 2, rating: 3, timestamp: 4}"
        )


def find_other_header(table: CsvTable, form: FileForm, columns: Columns) -> int | None:
    """The header to declare for the file, if a run would take another line for it.

    form, columns: as declared. With columns by name, line 1 may be the right one. With columns by
    position, a run takes line 1 for a row.
    """
    opened = table.opened
    if form.header is not None:
        return None
    if not table.has_header:
        records = read_first_records(
            opened, table.delimiter, quoted=form.quoted, skipped=table.skipped
        )
        has_names = bool(records) and surely_names_columns(records[0], records[1:])
        return table.skipped + opened.shift + 1 if has_names else None
    header = find_header(opened, form.delimiter, quoted=form.quoted)
    if header is None or header == table.skipped + 1:
        return None
    first_records = read_first_records(
        opened, table.delimiter, quoted=form.quoted, skipped=table.skipped
    )
    names = [name.strip() for name in first_records[0]] if first_records else []
    if has_empty_line(opened, table.skipped):
        return header + opened.shift
    if recognise_columns(names) or not {*columns.roles.values()}.isdisjoint(names):
        return None
    return header + opened.shift


def has_names(table: CsvTable) -> bool:
    """Whether the first line that is not skipped names the columns, as it and the rows show."""
    records = read_first_records(
        table.opened, table.delimiter, quoted=table.quoted, skipped=table.skipped
    )
    return names_columns(table.first_line, records[1:])


def _build_not_recognised_error(table: RowTable, missing: Sequence[str]) -> PreparationError:
    hint = ""
    if "timestamp" in missing:
        hint = "; if there is no time, set ratings.columns.timestamp: none"
    if isinstance(table, JsonTable) and table.nested_columns:
        hint += f"; {describe_nested(table.nested_columns)}"
    return PreparationError(
        f"{table.opened.name}: could not recognise the {' and '.join(missing)} column. Found:"
        f" {list_names(table.columns)}. Set ratings.columns{hint}"
    )
