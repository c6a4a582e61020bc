"""How a CSV file is written, as its first lines show: what separates the fields, and whether line 1
names the columns.

Everything that reads a CSV file whose delimiter is not declared asks this module: runs,
`batchrec new`, the readers of items and of lists of users, and queries of files.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.column_names import recognise_columns
from batchrec_dagster.preparation.layout import Column, split_line
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import DELIMITERS, skip_lines
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.row_conditions import parse_as

# Records that are read to recognise the delimiter.
SAMPLED_RECORDS = 20
# Lines that are read to find the header below other lines, and how many lines below them must have
# as many fields as it, with itself.
SAMPLED_LINES = 60
LEAST_EVEN_LINES = 3
_SEPARATOR_LINE = re.compile(r"[\"']?sep=(.)[\"']?\s*", re.IGNORECASE)
MOST_SEPARATOR_CHARACTERS = 20
_DIGITS = re.compile(r"[0-9]+")
# Of delimiters that fit equally well the first one is taken.
_CANDIDATES = (",", *(delimiter for delimiter in DELIMITERS if delimiter != ","))
# The columns whose cells are ids, which seldom have a delimiter in them.
_ID_ROLES = ("user", "item")


def recognise_delimiter(
    opened: OpenedFile, columns: Mapping[str, Column], *, quoted: bool = True, skipped: int = 0
) -> str:
    """The delimiter of a CSV file.

    columns: the declared columns by their role; none, if they are to be recognised by their names.
    quoted: whether fields may be in double quotes.
    skipped: how many lines come before the header, or before the first row if there is none.

    It is what a line such as `sep=;` in line 1 says. Else the delimiter wins by which the first
    line has the most declared columns; then the one by which it has the most names that are known
    for a role; then one that splits every line into equally many fields, of several the one that
    leaves ids whole, then the one with the most fields.
    """
    if declared := read_separator_line(opened):
        return declared
    if set(columns.values()) == {1}:
        # The file may have only this column, whose text may have any delimiter in it.
        return ","
    splits = [
        _Split(by, read_first_records(opened, by, quoted=quoted, skipped=skipped))
        for by in _CANDIDATES
    ]
    even = [split.delimiter for split in splits if split.is_even]

    def fit(split: _Split) -> tuple[int, int, bool, bool, int]:
        others = [delimiter for delimiter in even if delimiter != split.delimiter]
        return (
            split.count_declared(columns.values()),
            0 if _has_positions(columns) else len(recognise_columns(split.names)),
            split.is_even,
            split.leaves_ids_whole(columns, others),
            len(split.names),
        )

    return max(splits, key=fit).delimiter


def read_separator_line(opened: OpenedFile) -> str | None:
    """The delimiter that line 1 names for Excel, as `sep=;` does; None if it does not."""
    with opened.path.open(encoding="utf-8-sig", newline="") as file:
        separator = _SEPARATOR_LINE.fullmatch(file.readline(MOST_SEPARATOR_CHARACTERS))
    return separator[1] if separator else None


def has_empty_line(opened: OpenedFile, skipped: int) -> bool:
    """Whether there is nothing in the line after those that are skipped."""
    with opened.path.open(encoding="utf-8-sig", newline="") as file:
        skip_lines(file, skipped)
        return not file.readline().strip()


def names_columns(fields: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> bool:
    """Whether a line, which has these fields, names the columns.

    It does if one of the names is known for a role, or if none of them is a number or a time and
    none looks like the cells below it.

    rows: the fields of the first records after this line.
    """
    if recognise_columns(fields):
        return True
    return not _has_values(fields) and not _looks_like_a_row(fields, rows)


def surely_names_columns(fields: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether nothing but a header can have these fields.

    A name is known for a role, or a column has numbers or times below a text.

    rows: as of `names_columns`.
    """
    if recognise_columns(fields):
        return True
    columns = [[row[place] for row in rows if place < len(row)] for place in range(len(fields))]
    return any(
        field and cells and not _has_values([field]) and _count_values(cells) == len(cells)
        for field, cells in zip(fields, columns, strict=True)
    )


def find_header(
    opened: OpenedFile, declared_delimiter: str | None = None, *, quoted: bool = True
) -> int | None:
    """The number of the line, from 1, that names the columns below comments, or the text of a
    report; None if it is line 1 or if no line does.

    It is the first line with known names for a user and an item, or the first from which on all
    lines have equally many fields, while those before it have other numbers of them.

    declared_delimiter: None to recognise it.
    """
    delimiters = _CANDIDATES if declared_delimiter is None else (declared_delimiter,)
    with opened.path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = [line.rstrip("\r\n") for line in islice(file, SAMPLED_LINES)]
    number = _find_known_names(lines, delimiters, quoted=quoted)
    if number is None:
        number = _find_names_of_even_lines(lines, delimiters, quoted=quoted)
    return None if number == 1 else number


def _find_known_names(
    lines: Sequence[str], delimiters: Sequence[str], *, quoted: bool
) -> int | None:
    """The number of the first line, from 1, with known names for a user and an item."""
    for delimiter in delimiters:
        for number, line in enumerate(lines, 1):
            fields = split_line(line, delimiter, quoted=quoted) if line else []
            if recognise_columns(fields).keys() >= set(_ID_ROLES):
                return number
    return None


def _find_names_of_even_lines(
    lines: Sequence[str], delimiters: Sequence[str], *, quoted: bool
) -> int | None:
    """The number of the first of the even lines, from 1, if it names their columns.

    Of several delimiters, the one that makes the most lines even is taken.
    """
    first_delimiter, first_start = None, len(lines)
    for delimiter in delimiters:
        start = _find_even_lines(lines, delimiter, quoted=quoted)
        if start is not None and start < first_start:
            first_delimiter, first_start = delimiter, start
    if first_delimiter is None:
        return None
    records = [split_line(line, first_delimiter, quoted=quoted) for line in lines[first_start:]]
    return first_start + 1 if names_columns(records[0], records[1:]) else None


def _find_even_lines(lines: Sequence[str], delimiter: str, *, quoted: bool) -> int | None:
    """The number of the line, from 0, from which on all have equally many fields, of two or more.

    None if fewer than LEAST_EVEN_LINES do. Blank lines do not count.
    """
    start, width, count = None, 0, 0
    for number in range(len(lines) - 1, -1, -1):
        if not lines[number].strip():
            continue
        fields = len(split_line(lines[number], delimiter, quoted=quoted))
        if fields < 2 or (width and fields != width):
            break
        start, width, count = number, fields, count + 1
    return start if count >= LEAST_EVEN_LINES else None


def _looks_like_a_row(fields: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a field stands in its column again, or all cells of its column are formed like it.

    A line that is repeated as a whole does not count: it may be the header of a file that was put
    behind another one.
    """
    others = [row for row in rows if len(row) == len(fields) and list(row) != list(fields)]
    if not others:
        return False
    for place, field in enumerate(fields):
        cells = [row[place] for row in others]
        if field and field in cells:
            return True
        form = _DIGITS.sub("9", field)
        if form != field and {_DIGITS.sub("9", cell) for cell in cells} == {form}:
            return True
    return False


@dataclass(frozen=True)
class _Split:
    """The first records of a file, split by one delimiter."""

    delimiter: str
    records: Sequence[Sequence[str]]

    @property
    def names(self) -> list[str]:
        """The fields of the first record, as the names of columns."""
        return [name.strip() for name in self.records[0]] if self.records else []

    @property
    def is_even(self) -> bool:
        """Whether all records have equally many fields, of which none is cut within its quotes."""
        width = len(self.names)
        return width > 1 and all(
            len(record) == width and not any(field.count('"') % 2 for field in record)
            for record in self.records
        )

    def count_declared(self, columns: Iterable[Column]) -> int:
        """How many of the declared columns there are."""
        names = self.names
        return sum(
            column in names if isinstance(column, str) else column <= len(names)
            for column in columns
        )

    def leaves_ids_whole(self, columns: Mapping[str, Column], others: Sequence[str]) -> bool:
        """Whether no id in a column that is declared by position has another delimiter in it."""
        positions = [columns[role] for role in _ID_ROLES if isinstance(columns.get(role), int)]
        ids = [
            record[position - 1]
            for record in self.records
            for position in positions
            if isinstance(position, int) and position <= len(record)
        ]
        return not any(delimiter in text for text in ids for delimiter in others)


def _has_positions(columns: Mapping[str, Column]) -> bool:
    return any(isinstance(column, int) for column in columns.values())


def read_first_records(
    opened: OpenedFile, delimiter: str, *, quoted: bool, skipped: int = 0
) -> list[list[str]]:
    """The fields of the first records that are not blank.

    skipped: how many lines are left out before them.
    """
    with opened.path.open(encoding="utf-8-sig", newline="") as file:
        skip_lines(file, skipped)
        start = file.tell()
        if quoted and delimiter != "::":
            try:
                records = list(islice(csv.reader(file, delimiter=delimiter), SAMPLED_RECORDS))
                return [record for record in records if record]
            except csv.Error:
                # A quote that does not end, or a field that is longer than csv reads.
                file.seek(start)
        lines = [line for line in islice(file, SAMPLED_RECORDS) if line.strip()]
    return [split_line(line, delimiter, quoted=quoted) for line in lines]


def _has_values(fields: Sequence[str]) -> bool:
    """Whether any of them is a number or a time."""
    return _count_values(fields) > 0


def _count_values(fields: Sequence[str]) -> int:
    """How many of them are numbers or times."""
    text = pl.lit(pl.Series(fields, dtype=pl.String))
    is_value = times.classify_form(text).is_not_null() | parse_as(text, "double").is_not_null()
    return int(pl.select(is_value.sum()).item())
