"""Lines of fields: CSV, TSV and their kin, and files with `::`."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TextIO

import polars as pl

from batchrec_dagster.preparation.layout import (
    CUT_OFF,
    QUOTES_FIX,
    TAIL,
    Column,
    PreparationError,
    is_cut_off,
    locate,
    split_line,
)
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.tables import FLAW, ROW, TEXT, typed_cells

DELIMITERS = ("::", "\t", ",", ";", "|")
# More columns take minutes and gigabytes, for a few that are used.
MOST_COLUMNS = 2_000
_BEYOND = "beyond"


@dataclass(frozen=True)
class CsvTable:
    opened: OpenedFile
    delimiter: str
    has_header: bool
    quoted: bool = True
    # The roles whose cells are numbers with a comma in place of the point.
    with_comma: Collection[str] = ()
    # Only the first of the rows; None: all.
    most: int | None = None

    @cached_property
    def first_line(self) -> list[str]:
        """The fields of the first line: the header, where there is one."""
        with self.opened.path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
        if not line.strip():
            raise PreparationError(f"{self.opened.name} is empty or starts with an empty line")
        fields = split_line(line, self.delimiter, quoted=self.quoted)
        check_width(fields, self.opened.name)
        return fields

    @property
    def columns(self) -> Sequence[str]:
        if self.has_header:
            return [name.strip() for name in self.first_line]
        return [f"column_{number}" for number in range(1, len(self.first_line) + 1)]

    def cells(self, wanted: Mapping[str, Column]) -> pl.LazyFrame:
        places = self.locate(wanted)
        names = self._names
        raw = self._split(names) if self.delimiter == "::" else self._scanned(names)
        return raw.filter(
            pl.any_horizontal(pl.col(name).is_not_null() for name in [*names, _BEYOND])
        ).select(
            pl.col(ROW).cast(pl.Int64),
            pl.when(pl.col(_BEYOND).is_not_null())
            .then(pl.lit(f"more than the {len(names)} fields"))
            .when(pl.col(ROW) == pl.lit(self._cut_row, pl.Int64))
            .then(pl.lit(CUT_OFF))
            .alias(FLAW),
            pl.concat_str(names, separator=self.delimiter, ignore_nulls=True).alias(TEXT),
            *(self._cell(names[place], role).alias(role) for role, place in places.items()),
        )

    def typed(self, wanted: Mapping[str, Column], types: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        by_cells = self.delimiter == "::" or not wanted.keys().isdisjoint(self.with_comma)
        if by_cells or self._cut_row is not None:
            return typed_cells(self.cells(wanted), wanted, types)
        names = self._names
        places = self.locate(wanted)
        of_field = {names[place]: types.get(role, pl.String()) for role, place in places.items()}
        raw = self._scan({name: of_field.get(name, pl.String()) for name in names})
        return raw.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in names)).select(
            pl.col(names[place]).alias(role) for role, place in places.items()
        )

    def locate(self, wanted: Mapping[str, Column]) -> dict[str, int]:
        read = f" (read with the delimiter {self.delimiter!r})"
        return locate(wanted, self.columns, self.opened.name, read + self._hint())

    def place(self, row: int) -> str:
        line = row + (2 if self.has_header else 1)
        if self.opened.quotes and self._quote:
            breaks = pl.all().str.count_matches("\n", literal=True).fill_null(0).sum()
            before = self._scanned(self._names).head(row).drop(ROW).select(breaks)
            line += int(before.select(pl.sum_horizontal(pl.all())).collect().item())
        return self.opened.place(line)

    def misquoted(self) -> str | None:
        """Where quotes are not as they have to be; slow and exact, for it happens once."""
        if self._quote is None:
            return None
        first, quotes = 1, 0

        def counted(file: TextIO) -> Iterator[str]:
            nonlocal quotes
            for line in file:
                quotes += line.count('"')
                yield line

        wrong = 'a field that starts with " does not end with one'
        with self.opened.path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(counted(file), delimiter=self.delimiter, strict=True)
            try:
                for _ in rows:
                    if quotes % 2:
                        wrong = 'there is a single " within a field'
                        break
                    first = rows.line_num + 1
                else:
                    return None
            except csv.Error:
                pass
        return f"{self.opened.name}, line {first}: {wrong}. {QUOTES_FIX}"

    @cached_property
    def _cut_row(self) -> int | None:
        with self.opened.path.open("rb") as file:
            file.seek(max(0, self.opened.path.stat().st_size - TAIL))
            end = file.read().decode(errors="replace")
        width = len(self.first_line)
        if self.most is not None or not is_cut_off(end, width, self.delimiter, self.quoted):
            return None
        rows = self._split(self._names) if self.delimiter == "::" else self._scanned(self._names)
        last: int | None = rows.select(pl.col(ROW).max()).collect(engine="streaming").item()
        return last

    def _cell(self, name: str, role: str) -> pl.Expr:
        cell = pl.col(name)
        return pointed(cell) if role in self.with_comma else cell

    @property
    def _names(self) -> list[str]:
        return [f"field {number}" for number in range(len(self.first_line))]

    @property
    def _quote(self) -> str | None:
        return '"' if self.quoted and self.delimiter != "::" else None

    def _scanned(self, names: Sequence[str]) -> pl.LazyFrame:
        # One column more than there are fields, so that a line with too many is seen.
        return self._scan(
            dict.fromkeys([*names, _BEYOND], pl.String()),
            truncate_ragged_lines=True,
            extra_columns="ignore",
            row_index_name=ROW,
        )

    def _scan(self, schema: Mapping[str, pl.DataType], **options: object) -> pl.LazyFrame:
        return pl.scan_csv(
            self.opened.path,
            has_header=False,
            skip_lines=1 if self.has_header else 0,
            separator=self.delimiter,
            quote_char=self._quote,
            schema=schema,
            missing_columns="insert",
            n_rows=self.most,
            glob=False,
            **options,  # type: ignore[arg-type]
        )

    def _split(self, names: Sequence[str]) -> pl.LazyFrame:
        """Polars wants a delimiter of a single character, so that this takes the lines apart."""
        line = pl.col("line").str.strip_suffix("\r").str.strip_prefix("\ufeff")
        parts = line.str.splitn(self.delimiter, len(names) + 1)
        return (
            pl.scan_lines(
                self.opened.path, name="line", row_index_name=ROW, n_rows=self.most, glob=False
            )
            .slice(1 if self.has_header else 0)
            .with_columns(pl.col(ROW) - (1 if self.has_header else 0))
            .filter(line != "")
            .select(ROW, parts.struct.rename_fields([*names, _BEYOND]).struct.unnest())
            .with_columns(
                pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in names
            )
        )

    def _hint(self) -> str:
        """The likely fix, where another delimiter splits the line better."""
        line = self.delimiter.join(self.first_line)
        best = max(DELIMITERS, key=line.count)
        if best != self.delimiter and line.count(best) >= len(self.first_line):
            return f"; is ratings.delimiter {best!r}?"
        return ""


def pointed(text: pl.Expr) -> pl.Expr:
    """The text of a number that has a comma, with a point in its place. What has a point gets a
    comma, and is no number then."""
    return text.str.replace_many({",": ".", ".": ","})


def check_width(fields: Sequence[str], name: str) -> None:
    """Raise PreparationError for a line of too many fields."""
    if len(fields) > MOST_COLUMNS:
        raise PreparationError(
            f"{name}, line 1 has {len(fields):,} columns, and at most {MOST_COLUMNS:,} are read:"
            " keep the columns that are needed"
        )
