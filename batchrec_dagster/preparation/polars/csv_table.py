"""Tables in text files of lines with fields: CSV, TSV, and files with other delimiters or `::`."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.file_form import (
    CUT_OFF,
    DOUBLE_QUOTES,
    QUOTES_FIX,
    TAIL,
    Column,
    PreparationError,
    build_empty_line_error,
    is_cut_off,
    split_line,
)
from batchrec_dagster.preparation.polars.row_table import FLAW, ROW, TEXT, RowTable

DELIMITERS = ("::", "\t", ",", ";", "|")
# The largest number of columns of a file. Reading more columns would take minutes and gigabytes,
# although only a few columns are used.
MOST_COLUMNS = 2_000
_BEYOND = "beyond"
_GROUPED_DIGITS = r"^[ \t]*[+-]?[0-9]{1,3}(?:(?:\.[0-9]{3})+,[0-9]*|(?:\.[0-9]{3}){2,})[ \t]*$"


@dataclass(frozen=True)
class CsvTable(RowTable):
    """A table in a file of lines of fields; see `RowTable`."""

    delimiter: str
    """The delimiter of the fields: one character, or `::`."""

    quoted: bool
    """Whether quotes may enclose a field. With the delimiter `::`, quotes are always text."""

    with_comma: Collection[str]
    """The roles of columns of numbers with a decimal comma."""

    exact: bool = False
    """Whether a row with fewer fields than line 1 has a flaw.

    If not, the last cells of such a row are missing.
    """

    skipped: int = field(kw_only=True)
    """The number of lines before the header, or before the first row if there is no header."""

    @cached_property
    def first_line(self) -> list[str]:
        """The fields of the header, or of the first row if there is no header."""
        with self.opened.path.open(encoding="utf-8-sig", newline="") as file:
            skip_lines(file, self.skipped)
            start = file.tell()
            line = file.readline()
            if not line.strip():
                first_line = self.opened.name_line(self.skipped + 1)
                raise build_empty_line_error(self.opened.name, first_line, self.skipped)
            fields = split_line(line, self.delimiter, self.quoted)
            is_quoting = self.quoted and self.delimiter != "::"
            if not self.has_header and is_quoting and line.count('"') % 2:
                # A field of the first row has a line break in it.
                file.seek(start)
                with suppress(csv.Error):
                    fields = next(csv.reader(file, delimiter=self.delimiter))
        if len(fields) > MOST_COLUMNS:
            raise PreparationError(
                f"{self.opened.name}, line 1 has {len(fields):,} columns, and at most"
                f" {MOST_COLUMNS:,} are read: keep the columns that are needed"
            )
        return fields

    @property
    def columns(self) -> Sequence[str]:
        if self.has_header:
            return [name.strip() for name in self.first_line]
        return [f"column_{number}" for number in range(1, len(self.first_line) + 1)]

    def read_cells(self, columns_by_role: Mapping[str, Column]) -> pl.LazyFrame:
        cells = read_csv_cells(
            self._scan_fields(), self._syntax, self.locate_columns(columns_by_role), self._cut_row
        )
        if not self.exact:
            return cells
        is_short = pl.col(ROW).is_in(pl.Series(self._find_short_rows(), dtype=pl.Int64).implode())
        flaw = pl.lit(f"fewer than the {self._syntax.width} fields of line 1")
        return cells.with_columns(pl.coalesce(FLAW, pl.when(is_short).then(flaw)).alias(FLAW))

    def read_typed(
        self, columns_by_role: Mapping[str, Column], types: Mapping[str, pl.DataType]
    ) -> pl.LazyFrame:
        # Polars' CSV reader cannot read the cells as their types if the delimiter is `::`, if there
        # are decimal commas, or if the last row is cut off.
        has_commas = not columns_by_role.keys().isdisjoint(self.with_comma)
        if self.delimiter == "::" or has_commas or self._cut_row is not None:
            return super().read_typed(columns_by_role, types)
        names = self._syntax.names
        indexes = self.locate_columns(columns_by_role)
        schema: dict[str, pl.DataType] = dict.fromkeys(names, pl.String())
        for role, index in indexes.items():
            schema[names[index]] = types.get(role, pl.String())
        fields = scan_csv(self.opened.path, self._syntax, schema, **self._extent)
        is_filled = pl.any_horizontal(pl.col(name).is_not_null() for name in names)
        return fields.filter(is_filled).select(
            pl.col(names[index]).alias(role) for role, index in indexes.items()
        )

    def locate_columns(self, columns_by_role: Mapping[str, Column]) -> dict[str, int]:
        hint = f" (read with the delimiter {self.delimiter!r}){self._suggest_delimiter()}"
        return locate_columns(columns_by_role, self.columns, self.opened.name, hint)

    def name_row(self, row: int) -> str:
        line = self._lines_before_rows + row + 1
        if self.opened.quotes and self._syntax.quote:
            breaks = pl.all().str.count_matches("\n", literal=True).fill_null(0).sum()
            before = self._scan_fields().head(row).drop(ROW).select(breaks)
            line += int(before.select(pl.sum_horizontal(pl.all())).collect().item())
        return self.opened.name_line(line)

    def find_broken_quotes(self, fix: str = QUOTES_FIX) -> str | None:
        """Return a message about the first line with broken quotes; None if there is none.

        The method is slow, because it reads the records one by one.

        fix: the fix that the message ends with.
        """
        if self._syntax.quote is None:
            return None
        quotes = 0

        def count_quotes(file: TextIO) -> Iterator[str]:
            nonlocal quotes
            for line in file:
                quotes += line.count('"')
                yield line

        # The number of the next record's first line.
        first_line = self.skipped + 1
        problem = None
        with self.opened.path.open(encoding="utf-8-sig", newline="") as file:
            skip_lines(file, self.skipped)
            records = csv.reader(count_quotes(file), delimiter=self.delimiter, strict=True)
            try:
                for _ in records:
                    if quotes % 2:
                        problem = 'there is a single " within a field'
                        break
                    first_line = self.skipped + records.line_num + 1
            except csv.Error:
                problem = 'a field that starts with " does not end with one'
        if problem is None:
            return None
        return f"{self.opened.name}, line {first_line}: {problem}. {fix}"

    def _find_short_rows(self) -> list[int]:
        """Return the numbers of rows with fewer fields than line 1, which Polars would fill up.

        Raises PreparationError if there are broken quotes.
        """
        width = self._syntax.width
        with self.opened.path.open(encoding="utf-8-sig", newline="\n") as file:
            skip_lines(file, self._lines_before_rows)
            # A carriage return ends a record for the csv module, but not for Polars.
            lines = (line.replace("\r", "") for line in file)
            records = (
                csv.reader(lines, delimiter=self.delimiter)
                if self._syntax.quote
                else (line.rstrip("\n").split(self.delimiter) for line in lines)
            )
            try:
                return [row for row, fields in enumerate(records) if len(fields) < width]
            except csv.Error as error:
                problem = self.find_broken_quotes(DOUBLE_QUOTES)
                raise PreparationError(
                    problem or f"{self.opened.name} cannot be read: {error}"
                ) from error

    @cached_property
    def _cut_row(self) -> int | None:
        with self.opened.path.open("rb") as file:
            file.seek(max(0, self.opened.path.stat().st_size - TAIL))
            end = file.read().decode(errors="replace")
        width = len(self.first_line)
        if self.most is not None or not is_cut_off(end, width, self.delimiter, self.quoted):
            return None
        last_row = self._scan_fields().select(pl.col(ROW).max()).collect(engine="streaming")
        return None if last_row.item() is None else int(last_row.item())

    @cached_property
    def _syntax(self) -> CsvSyntax:
        return CsvSyntax(self.delimiter, len(self.first_line), self.quoted, self.with_comma)

    @property
    def _extent(self) -> dict[str, Any]:
        """The options that tell Polars which lines to read."""
        return {"skip_lines": self._lines_before_rows, "n_rows": self.most}

    @property
    def _lines_before_rows(self) -> int:
        return self.skipped + (1 if self.has_header else 0)

    def _scan_fields(self) -> pl.LazyFrame:
        if self.delimiter != "::":
            return scan_fields(self.opened.path, self._syntax, **self._extent)
        before = self._lines_before_rows
        lines = pl.scan_lines(
            self.opened.path,
            name=TEXT,
            row_index_name=ROW,
            n_rows=None if self.most is None else self.most + before,
            glob=False,
        )
        if before:
            lines = lines.slice(before).with_columns(pl.col(ROW) - before)
        return split_lines(lines, self._syntax)

    def _suggest_delimiter(self) -> str:
        """Return the likely fix if another delimiter splits the line better; else an empty text."""
        line = self.delimiter.join(self.first_line)
        best = max(DELIMITERS, key=line.count)
        if best != self.delimiter and line.count(best) >= len(self.first_line):
            return f"; is ratings.delimiter {best!r}?"
        return ""


def skip_lines(file: TextIO, count: int) -> None:
    """Read this many lines. As in Polars, only a line feed ends a line."""
    for _ in range(count):
        line = file.readline()
        # For Python a carriage return alone ends a line, too.
        while line and not line.endswith("\n"):
            line = file.readline()


@dataclass(frozen=True)
class CsvSyntax:
    """The rules that split a line of text into fields."""

    delimiter: str
    """The delimiter of the fields: one character, or `::`."""

    width: int
    """The number of fields in the first line. A line with more fields has a flaw."""

    quoted: bool
    """Whether quotes may enclose a field. With the delimiter `::`, quotes are always text."""

    with_comma: Collection[str]
    """The roles of columns of numbers with a decimal comma."""

    @property
    def quote(self) -> str | None:
        return '"' if self.quoted and self.delimiter != "::" else None

    @property
    def names(self) -> list[str]:
        """The names of the fields' columns."""
        return [f"field {number}" for number in range(self.width)]


def scan_csv(
    source: Path | BytesIO, syntax: CsvSyntax, schema: Mapping[str, pl.DataType], **options: Any
) -> pl.LazyFrame:
    """Return the fields of CSV without a header, as the types of the schema."""
    return pl.scan_csv(
        source,
        has_header=False,
        separator=syntax.delimiter,
        quote_char=syntax.quote,
        schema=schema,
        missing_columns="insert",
        glob=False,
        **options,
    )


def scan_fields(source: Path | BytesIO, syntax: CsvSyntax, **options: Any) -> pl.LazyFrame:
    """Return ROW and the fields of every record of CSV as text, for `read_csv_cells`."""
    return scan_csv(
        source,
        syntax,
        # The additional column shows lines with too many fields.
        dict.fromkeys([*syntax.names, _BEYOND], pl.String()),
        truncate_ragged_lines=True,
        extra_columns="ignore",
        row_index_name=ROW,
        **options,
    )


def split_lines(lines: pl.LazyFrame, syntax: CsvSyntax) -> pl.LazyFrame:
    """Return ROW and the fields of the lines in TEXT, for `read_csv_cells`.

    This function is for lines with the delimiter `::`, because Polars reads CSV only with
    single-character delimiters.
    """
    line = pl.col(TEXT).str.strip_suffix("\r").str.strip_prefix("\ufeff")
    fields = line.str.splitn(syntax.delimiter, syntax.width + 1)
    return (
        lines.filter(line != "")
        .select(ROW, fields.struct.rename_fields([*syntax.names, _BEYOND]).struct.unnest())
        .with_columns(
            pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in syntax.names
        )
    )


def read_csv_cells(
    fields: pl.LazyFrame, syntax: CsvSyntax, indexes: Mapping[str, int], cut_row: int | None
) -> pl.LazyFrame:
    """Return ROW, FLAW and the cell of each role. Lines of empty fields are left out.

    fields: the result of `scan_fields` or `split_lines`.
    indexes: the index of the field of each role.
    cut_row: the row that is cut off at the end of its file, or None.
    """
    names = syntax.names

    def cell(role: str, index: int) -> pl.Expr:
        text = pl.col(names[index])
        return (swap_comma_and_point(text) if role in syntax.with_comma else text).alias(role)

    is_filled = pl.any_horizontal(pl.col(name).is_not_null() for name in [*names, _BEYOND])
    return fields.filter(is_filled).select(
        pl.col(ROW).cast(pl.Int64),
        pl.when(pl.col(_BEYOND).is_not_null())
        .then(pl.lit(f"more than the {len(names)} fields"))
        .when(pl.col(ROW) == pl.lit(cut_row, pl.Int64))
        .then(pl.lit(CUT_OFF))
        .alias(FLAW),
        *(cell(role, index) for role, index in indexes.items()),
    )


def swap_comma_and_point(text: pl.Expr) -> pl.Expr:
    """Return the text of a number that has a comma, with a point in place of the comma.

    Points between groups of three digits are left out, as in 1.234,56 and 1.234.567. In other texts
    a point becomes a comma, so that the text is no longer a number.
    """
    without_points = text.str.replace_all(".", "", literal=True)
    text = pl.when(text.str.contains(_GROUPED_DIGITS)).then(without_points).otherwise(text)
    return text.str.replace_many({",": ".", ".": ","})
