"""The recognition of the delimiter and the header of a CSV file from its first lines.

Every reader of CSV files with no declared delimiter uses this module: runs, `batchrec new`, the
readers of items and of lists of users, and queries of files.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.column_names import recognise_columns
from batchrec_dagster.preparation.file_form import (
    NO_HEADER,
    Column,
    Columns,
    FileForm,
    Header,
    split_line,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import DELIMITERS, CsvTable, skip_lines
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.row_conditions import parse_as

# The number of records that are read to recognise the delimiter.
SAMPLED_RECORDS = 20
# The number of lines that are searched for a header below other lines.
SAMPLED_LINES = 60
_SEPARATOR_LINE = re.compile(r"[\"']?sep=(.)[\"']?\s*", re.IGNORECASE)
MOST_SEPARATOR_CHARACTERS = 20
_DIGITS = re.compile(r"[0-9]+")
# If several delimiters fit equally well, the first one is taken.
_CANDIDATES = (",", *(delimiter for delimiter in DELIMITERS if delimiter != ","))
# The roles of ids. An id seldom has a delimiter in it.
_ID_ROLES = ("user", "item")

Records = Sequence[Sequence[str]]
"""The fields of the first records of a file."""


def recognise_delimiter(
    opened: OpenedFile, roles: Mapping[str, Column], quoted: bool, skipped: int
) -> str:
    """Return the delimiter of a CSV file.

    roles: the declared columns by their role; empty if the columns are to be recognised by their
    names.
    quoted: whether fields may be in double quotes.
    skipped: the number of lines before the header, or before the first row if there is no header.

    If line 1 names a delimiter, as `sep=;` does, that delimiter is returned. If column 1 is the
    only declared column, a comma is returned. Otherwise the candidates are compared by these rules
    in order:

    1. The first line has more of the declared columns.
    2. The first line has more names that are known for a role. This rule is left out if a column
       is declared by its position.
    3. Every line has the same number of fields.
    4. The ids in columns that are declared by position contain no other delimiter for which rule 3
       holds.
    5. The first line has more fields.
    """
    if separator := read_separator_line(opened):
        return separator
    if set(roles.values()) == {1}:
        # The file may have only this column, and its text may contain any delimiter.
        return ","
    records = {
        delimiter: read_first_records(opened, delimiter, quoted, skipped)
        for delimiter in _CANDIDATES
    }
    even = [delimiter for delimiter in _CANDIDATES if _are_even(records[delimiter])]
    id_positions = [column for role, column in roles.items() if role in _ID_ROLES]

    def fit(delimiter: str) -> tuple[int, int, bool, bool, int]:
        names = strip_names(records[delimiter])
        positions = range(1, len(names) + 1)
        rivals = [rival for rival in even if rival != delimiter]
        ids = [
            record[position - 1]
            for record in records[delimiter]
            for position in id_positions
            if isinstance(position, int) and position <= len(record)
        ]
        return (
            sum(column in names or column in positions for column in roles.values()),
            len(recognise_columns(names)) if Columns(roles).are_named else 0,
            delimiter in even,
            not any(rival in text for text in ids for rival in rivals),
            len(names),
        )

    return max(_CANDIDATES, key=fit)


def read_separator_line(opened: OpenedFile) -> str | None:
    """Return the delimiter that line 1 names for Excel, as `sep=;` does; None if it names none."""
    with opened.path.open(encoding="utf-8-sig", newline="") as file:
        separator = _SEPARATOR_LINE.fullmatch(file.readline(MOST_SEPARATOR_CHARACTERS))
    return separator[1] if separator else None


def find_header(table: CsvTable, form: FileForm, columns: Columns) -> Header | None:
    """Return the header to declare for a file that was opened without a declared header.

    The header is the number of the line that names the columns, or NO_HEADER if no line does. None
    means that no header needs to be declared.

    If the table was opened with a header, the line with the most declared and known names is taken.
    If no line has such names, the table's own header stays. But if the line of that header looks
    like a row, the result is NO_HEADER.

    form, columns: the declared settings. If columns are declared by position, only the first line
    can be the header, and only if it cannot be a row.
    """
    if form.header is not None:
        return None
    opened, usual_line = table.opened, table.skipped + 1
    records = read_first_records(opened, table.delimiter, form.quoted, table.skipped)
    names = strip_names(records)
    if not table.has_header:
        is_header = bool(records) and surely_names_columns(names, records[1:])
        return opened.shift + usual_line if is_header else None
    with opened.path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = [line.rstrip("\r\n") for line in islice(file, SAMPLED_LINES)]
    delimiters = _CANDIDATES if form.delimiter is None else (form.delimiter,)
    splits = [
        [split_line(line, delimiter, form.quoted) if line.strip() else [] for line in lines]
        for delimiter in delimiters
    ]
    line = _find_line_of_names(splits, {*columns.roles.values()})
    if line is not None:
        return opened.shift + line if line != usual_line else None
    return None if names_columns(names, records[1:]) else NO_HEADER


def names_columns(fields: Sequence[str], rows: Records) -> bool:
    """Return whether a line with these fields names the columns.

    The line names the columns if one of the fields is a name that is known for a role. It also
    names the columns if no field is a number or a time, and no field looks like the cells below it.

    rows: the fields of the first records after this line.
    """
    if recognise_columns(fields):
        return True
    return not any(_find_values(fields)) and not _looks_like_a_row(fields, rows)


def surely_names_columns(fields: Sequence[str], rows: Records) -> bool:
    """Return whether a line with these fields can only be a header.

    It is a header if a name is known for a role, or if a column has numbers or times below a text.

    rows: the fields of the first records after this line.
    """
    if recognise_columns(fields):
        return True
    for index, is_value in enumerate(_find_values(fields)):
        cells = [row[index] for row in rows if index < len(row)]
        if fields[index] and not is_value and cells and all(_find_values(cells)):
            return True
    return False


def read_first_records(
    opened: OpenedFile, delimiter: str, quoted: bool, skipped: int
) -> list[list[str]]:
    """Return the fields of the first records that are not blank.

    skipped: the number of lines to skip before the first record.
    """
    with opened.path.open(encoding="utf-8-sig", newline="") as file:
        skip_lines(file, skipped)
        start = file.tell()
        if quoted and delimiter != "::":
            try:
                records = list(islice(csv.reader(file, delimiter=delimiter), SAMPLED_RECORDS))
                return [record for record in records if record]
            except csv.Error:
                # There is a carriage return within a line.
                file.seek(start)
        lines = [line for line in islice(file, SAMPLED_RECORDS) if line.strip()]
    return [split_line(line, delimiter, quoted) for line in lines]


def _find_line_of_names(splits: Sequence[Records], declared: Collection[Column]) -> int | None:
    """Return the number, from 1, of the line with the most declared and known names.

    A line counts only if it has several fields, and a declared name or the name of an id is among
    them. The result is None if no line counts.

    splits: the fields of the first lines, for each delimiter.
    """
    best_line, most = None, 0
    for records in splits:
        for number, fields in enumerate(records, 1):
            recognised = recognise_columns(fields)
            declared_count = sum(field.strip() in declared for field in fields)
            has_id = declared_count or not recognised.keys().isdisjoint(_ID_ROLES)
            count = len(recognised) + declared_count
            if len(fields) > 1 and has_id and count > most:
                best_line, most = number, count
    return best_line


def _are_even(records: Records) -> bool:
    """Return whether all records have the same number of fields, at least two.

    The result is false if a field is cut within its quotes.
    """
    widths = {len(record) for record in records}
    return (
        len(widths) == 1
        and widths != {1}
        and not any(field.count('"') % 2 for record in records for field in record)
    )


def _looks_like_a_row(fields: Sequence[str], rows: Records) -> bool:
    """Return whether a field looks like the cells below it.

    A field looks so if a cell below has the same text. A field with digits also looks so if all
    cells below differ from it only in their digits. A repeat of the whole line does not count,
    because the repeated line may be the header of a file that was appended to another file.
    """
    similar_rows = [row for row in rows if len(row) == len(fields) and list(row) != list(fields)]
    for field, *cells in zip(fields, *similar_rows, strict=True):
        if field and field in cells:
            return True
        form = _DIGITS.sub("9", field)
        if form != field and {_DIGITS.sub("9", cell) for cell in cells} == {form}:
            return True
    return False


def strip_names(records: Records) -> list[str]:
    """Return the fields of the first record, as names of columns."""
    return [name.strip() for name in records[0]] if records else []


def _find_values(fields: Sequence[str]) -> list[bool]:
    """Return for each field whether it is a number or a time."""
    text = pl.lit(pl.Series(fields, dtype=pl.String))
    is_value = times.classify_form(text).is_not_null() | parse_as(text, "double").is_not_null()
    return pl.select(is_value).to_series().to_list()
