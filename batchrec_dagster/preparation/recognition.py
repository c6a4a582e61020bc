"""How the files are read: as declared, and as the first file with rows shows.

Runs and `batchrec new` share it. What a run cannot recognise is an error that lists the columns;
`batchrec new` then looks at the contents of the columns, and declares what it sees there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

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
    NO_HEADER,
    NO_TIMES,
    NULL_VALUES,
    Column,
    Decimal,
    Encoding,
    Format,
    Header,
    Layout,
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
class ReadSettings:
    """What is declared of how to read the files, as in `Layout`. The rest is recognised."""

    format: Format | None = None
    """None to recognise it."""

    delimiter: str | None = None
    """None to recognise it."""

    encoding: Encoding = "auto"
    quoted: bool = True

    columns: Mapping[str, Column] = field(default_factory=dict)
    """The columns by role. Missing ones are recognised by their names."""

    timestamp_unit: str = AUTO

    types: Mapping[str, str] = field(default_factory=dict)
    """The types of columns that a layout has already: string, long, double or boolean."""

    decimal: Decimal = "."
    null_values: Sequence[str] = NULL_VALUES
    timezone: str | None = None

    header: Header | None = None
    """Which line of CSV names the columns. With columns by position, it is the last one before the
    rows. None for line 1, or for none if columns are declared by position."""

    @classmethod
    def of(cls, layout: Layout) -> ReadSettings:
        """The layout of a source that is known, as a declaration."""
        return cls(**{field.name: getattr(layout, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class RecognisedLayout:
    """How the files are read.

    layout: which column of a row holds what, and how it is written.
    types: the type of every column of the file by its name.
    recognised: the columns that are not declared, by role.
    warnings: what can be read but is probably not meant.
    """

    layout: Layout
    types: Mapping[str, str]
    recognised: Mapping[str, str]
    warnings: Sequence[str] = ()


def recognise_table(
    opened: OpenedFile, reading: ReadSettings
) -> CsvTable | JsonTable | ParquetTable:
    """The file, to be read row by row.

    reading: what is declared of it. Columns that are declared by position say that line 1 of a CSV
    file is a row; else it names the columns. A header that is declared says where they begin.

    Raises PreparationError if a header is declared of a file that has names of its own.
    """
    form = reading.format or opened.format
    if reading.header is not None and (form != "csv" or opened.shift < 0):
        raise PreparationError(
            f"{opened.name} is {form if form != 'csv' else 'a table'}, whose columns have names:"
            " omit header"
        )
    if form == "parquet":
        return ParquetTable(opened)
    if form == "json":
        return JsonTable(opened)
    has_header = reading.header != NO_HEADER and not any(
        isinstance(column, int) for column in reading.columns.values()
    )
    skipped = _count_skipped_lines(opened, reading.header, has_header=has_header)
    delimiter = reading.delimiter
    if delimiter is None:
        delimiter = recognise_delimiter(
            opened, reading.columns, quoted=reading.quoted, skipped=skipped
        )
    return CsvTable(opened, delimiter, has_header, reading.quoted, skipped=skipped)


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


def recognise_layout(opened: OpenedFile, reading: ReadSettings, rules: Rules) -> RecognisedLayout:
    """How to read files such as this one. Raises PreparationError."""
    table = recognise_table(opened, reading)
    sample = FileSample(table)
    if sample.format != "csv":
        _require_no_csv_settings(table, sample.format, reading)
    needed = _list_needed_roles(reading, rules)
    recognised = _recognise_needed_columns(table, reading, needed) if sample.has_header else {}
    columns: dict[str, Any] = {**reading.columns, **recognised}
    _require_needed_columns(table, reading, columns, needed)
    layout = Layout(
        delimiter=sample.delimiter or ",",
        timestamp_unit=_choose_time_unit(sample, columns.get("timestamp"), reading),
        format=sample.format,
        encoding=reading.encoding,
        quoted=reading.quoted,
        decimal=reading.decimal,
        null_values=reading.null_values,
        timezone=reading.timezone,
        skipped_lines=_count_lines_as_declared(table),
        **{"rating": None, "timestamp": None, **columns},
    )
    types = {**sample.infer_types(layout.decimal), **reading.types}
    warnings = [*_describe_decimal_ids(sample, layout, types)]
    if isinstance(table, CsvTable) and not table.has_header:
        warnings += _describe_header_among_rows(table, reading)
    return RecognisedLayout(_with_types(layout, rules, types, table), types, recognised, warnings)


def _require_no_csv_settings(table: RowTable, form: Format, reading: ReadSettings) -> None:
    """Raise PreparationError for settings that only files of CSV can have.

    form: the format of the file, which is another one.
    """
    name = table.opened.name
    if any(isinstance(column, int) for column in reading.columns.values()):
        raise PreparationError(
            f"{name} is {form}, whose columns have names: give these in"
            f" ratings.columns, of {', '.join(table.columns)}"
        )
    if reading.decimal != ".":
        raise PreparationError(
            f"{name} is {form}, whose numbers have a point: ratings.decimal is of csv"
        )


def _list_needed_roles(reading: ReadSettings, rules: Rules) -> list[str]:
    """The roles for which a column is declared, or looked for."""
    needed = [role for role in REQUIRED if (role, reading.timestamp_unit) != NEEDLESS]
    if rules.min_rating is not None:
        needed.append("rating")
    if rules.event_type and not reading.columns:
        needed.append("event_type")
    return needed


def _recognise_needed_columns(
    table: RowTable, reading: ReadSettings, needed: Sequence[str]
) -> dict[str, str]:
    """The columns of the needed roles that are not declared, by role, as far as names show them."""
    undeclared = [role for role in needed if role not in reading.columns]
    if not undeclared:
        return {}
    names = recognise_columns(table.columns)
    return {role: names[role] for role in undeclared if role in names}


def _require_needed_columns(
    table: CsvTable | JsonTable | ParquetTable,
    reading: ReadSettings,
    columns: Mapping[str, Column],
    needed: Sequence[str],
) -> None:
    """Raise PreparationError if a needed role has no column, or one of objects or lists.

    columns: those that are declared or recognised, by role.
    """
    if isinstance(table, JsonTable):
        used = {*columns.values()}
        nested = [name for name in table.nested_columns if name in used]
        if nested:
            raise PreparationError(f"{table.opened.name}: {describe_nested(nested)}")
    # Without event types, all interactions are of one.
    missing = [role for role in needed if role not in columns and role != "event_type"]
    if not missing:
        return
    if not columns and isinstance(table, CsvTable):
        _refuse_other_header(table, reading)
    raise _build_not_recognised_error(table, missing)


def _describe_decimal_ids(
    sample: FileSample, layout: Layout, types: Mapping[str, str]
) -> Iterator[str]:
    """A warning for each column of ids that are decimals such as 12.0."""
    for role, column in (("user", layout.user), ("item", layout.item)):
        example = sample.find_decimal_id(column, types)
        if example:
            yield (
                f"{sample.name}: the {role} ids (column {column}) are decimals such as {example},"
                f" as pandas writes a column with missing values: {example} is not the id of"
                f" {example.split('.')[0]}. Write them as whole numbers, or convert them in"
                " ratings.query"
            )


def _describe_header_among_rows(table: CsvTable, reading: ReadSettings) -> Iterator[str]:
    """The warning that a line names the columns, but is read as a row; none if no line does."""
    opened = table.opened
    header = find_other_header(table, reading)
    if header is not None:
        yield (
            f"{opened.name}: columns are given by position, and"
            f" {opened.place(table.skipped + 1)} seems to name them"
            f" ({table.delimiter.join(table.first_line)}): set ratings.header: {header}, and it"
            " is not read as a row"
        )


def _count_lines_as_declared(table: CsvTable | JsonTable | ParquetTable) -> int:
    """`Layout.skipped_lines`: the lines before the header, as a person counts them in the file."""
    if not isinstance(table, CsvTable) or not table.skipped:
        return 0
    return table.skipped + table.opened.shift


def open_table(opened: OpenedFile, layout: Layout) -> RowTable:
    """The file, to be read in this layout."""
    table = recognise_table(opened, ReadSettings.of(layout))
    if isinstance(table, CsvTable):
        return replace(table, with_comma=layout.with_comma)
    return table


def _choose_time_unit(sample: FileSample, column: Column | None, reading: ReadSettings) -> str:
    """How times are written: as declared, else as the type of the column or the first rows show.

    It is `auto` if each row shows it. Raises PreparationError for times in an unknown format, or in
    one of several.
    """
    if isinstance(column, str) and column in sample.temporal_columns:
        return DATETIME
    columns = sample.columns
    is_there = column in columns if isinstance(column, str) else (column or 0) <= len(columns)
    if reading.timestamp_unit != AUTO or column is None or not is_there:
        return reading.timestamp_unit
    try:
        cells = sample.read_cells(column)
    except PreparationError:
        return AUTO  # The error is reported where the rows are read.
    return recognise_time_format(sample.name, column, cells, reading.null_values) or AUTO


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


def _with_types(layout: Layout, rules: Rules, types: Mapping[str, str], table: RowTable) -> Layout:
    if rules.filter is None:
        return layout
    names = list_filter_columns(rules.filter)
    name = table.opened.name
    locate_columns(
        {f"filter {column}": layout.find_column(column) for column in names}, table.columns, name
    )
    of_filter = {column: _simplify_type(types[column]) for column in names}
    try:
        check_types(rules.filter, of_filter)
    except RowConditionError as error:
        raise PreparationError(f"{name}: interactions.filter: {error}") from error
    return replace(layout, types=of_filter)


def _simplify_type(kind: str) -> str:
    if re.match(r"u?int\d", kind):
        return "long"
    if re.match(r"float\d|decimal", kind):
        return "double"
    return kind if kind in ("long", "double", "boolean") else "string"


def _refuse_other_header(table: CsvTable, reading: ReadSettings) -> None:
    """Raise PreparationError if the names of the columns are in another line, or in none."""
    opened = table.opened
    header = find_other_header(table, reading)
    if header is not None:
        before = header - opened.shift - 1
        delimiter = recognise_delimiter(opened, {}, quoted=reading.quoted, skipped=before)
        line = read_first_records(opened, delimiter, quoted=reading.quoted, skipped=before)[0]
        raise PreparationError(
            f"{opened.name}: {opened.place(1)} does not name the columns, but"
            f" {opened.place(before + 1)} may ({', '.join(line)}): set ratings.header: {header}"
        )
    if not has_names(table):
        raise PreparationError(
            f"{opened.name} has no names in line 1: set ratings.columns by position, such as"
            " {user: 1, item: 2, rating: 3, timestamp: 4}"
        )


def find_other_header(table: CsvTable, reading: ReadSettings) -> int | None:
    """The header to declare for the file, if a run would take another line for it.

    reading: how the table was recognised. With its columns by name, line 1 may be the right one.
    With columns by position, a run takes line 1 for a row.
    """
    opened = table.opened
    if reading.header is not None:
        return None
    if not table.has_header:
        records = read_first_records(
            opened, table.delimiter, quoted=reading.quoted, skipped=table.skipped
        )
        has_names = bool(records) and surely_names_columns(records[0], records[1:])
        return table.skipped + opened.shift + 1 if has_names else None
    header = find_header(opened, reading.delimiter, quoted=reading.quoted)
    if header is None or header == table.skipped + 1:
        return None
    first_records = read_first_records(
        opened, table.delimiter, quoted=reading.quoted, skipped=table.skipped
    )
    names = [name.strip() for name in first_records[0]] if first_records else []
    if has_empty_line(opened, table.skipped):
        return header + opened.shift
    if recognise_columns(names) or not {*reading.columns.values()}.isdisjoint(names):
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
