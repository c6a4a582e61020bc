"""How a CSV file is written, as its first lines show: what separates the fields, and whether line 1
names the columns.

Everything that reads a CSV file whose delimiter is not declared asks this module: runs,
`batchrec new`, the readers of items and of lists of users, and queries of files.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.column_names import recognise_columns
from batchrec_dagster.preparation.layout import Column, split_line
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import DELIMITERS
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.rows import parse_as

# Records that are read to recognise the delimiter.
SAMPLED_RECORDS = 20
# Of delimiters that fit equally well the first one is taken.
_CANDIDATES = (",", *(delimiter for delimiter in DELIMITERS if delimiter != ","))
# The columns whose cells are ids, which seldom have a delimiter in them.
_ID_ROLES = ("user", "item")


def recognise_delimiter(
    opened: OpenedFile, columns: Mapping[str, Column], *, quoted: bool = True
) -> str:
    """The delimiter of a CSV file.

    columns: the declared columns by their role; none, if they are to be recognised by their names.
    quoted: whether fields may be in double quotes.

    The delimiter wins by which line 1 has the most declared columns; then the one by which it has
    the most names that are known for a role; then one that splits every line into equally many
    fields, of several the one that leaves ids whole, then the one with the most fields.
    """
    if set(columns.values()) == {1}:
        # The file may have only this column, whose text may have any delimiter in it.
        return ","
    splits = [_Split(by, _read_first_records(opened, by, quoted=quoted)) for by in _CANDIDATES]
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


def names_columns(fields: Sequence[str]) -> bool:
    """Whether line 1, which has these fields, names the columns.

    It does if one of the names is known for a role, or if none of them is a number or a time.
    """
    return bool(recognise_columns(fields)) or not _has_values(fields)


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


def _read_first_records(opened: OpenedFile, delimiter: str, *, quoted: bool) -> list[list[str]]:
    """The fields of the first records that are not blank."""
    with opened.path.open(encoding="utf-8-sig", newline="") as file:
        if quoted and delimiter != "::":
            try:
                records = list(islice(csv.reader(file, delimiter=delimiter), SAMPLED_RECORDS))
                return [record for record in records if record]
            except csv.Error:
                # A quote that does not end, or a field that is longer than csv reads.
                file.seek(0)
        lines = [line for line in islice(file, SAMPLED_RECORDS) if line.strip()]
    return [split_line(line, delimiter, quoted=quoted) for line in lines]


def _has_values(fields: Sequence[str]) -> bool:
    """Whether any of them is a number or a time."""
    text = pl.lit(pl.Series(fields, dtype=pl.String))
    is_value = times.classify_form(text).is_not_null() | parse_as(text, "double").is_not_null()
    return bool(pl.select(is_value.any()).item())
