"""The workers' share of the work: they read their rows with Polars, as the local engine does.

Spark passes the rows in Arrow record batches and takes such batches back. Nothing here needs Spark
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import polars as pl
import pyarrow as pa

from batchrec_dagster.preparation.file_form import (
    DATETIME,
    QUOTES_FIX,
    Columns,
    FileForm,
    PreparationError,
    is_cut_off,
)
from batchrec_dagster.preparation.polars.csv_table import (
    CsvSyntax,
    read_csv_cells,
    scan_fields,
    split_lines,
)
from batchrec_dagster.preparation.polars.json_table import parse_json_cells
from batchrec_dagster.preparation.polars.row_problems import SECONDS
from batchrec_dagster.preparation.polars.row_table import ROW, TEXT, read_parquet_cells
from batchrec_dagster.preparation.polars.rows import (
    FILE,
    PROBLEM,
    REASON,
    describe_read_error,
    is_of_erased_user,
    parse_rows,
)
from batchrec_dagster.preparation.row_rules import ERASED_USER, RowRules
from batchrec_dagster.storage.erased import ErasedUsers

# The start, in the row's file, of the block from which Spark read the row. ROW ascends within a
# block, so FILE, BLOCK and ROW together give the order of the source.
BLOCK = "block"
# The start of a problem that ends the work even if bad rows are skipped. The rest of the problem
# names the file.
FATAL = "!"
BROKEN_QUOTES = (
    'a line has a " too many, or a quoted field that goes on in the next line, which Spark does not'
    f" read. {QUOTES_FIX}, or preparation.engine: local"
)
NANOSECONDS = (
    "Spark cannot tell whether times in nanoseconds have a zone: write microseconds, or omit"
    " ratings.timezone"
)
# The columns of a parsed row.
PARSED_ROWS = pl.Schema(
    {
        FILE: pl.Int32,
        BLOCK: pl.Int64,
        ROW: pl.Int64,
        "user": pl.String,
        "item": pl.String,
        SECONDS: pl.Int64,
        "event_type": pl.String,
        "event_value": pl.String,
        PROBLEM: pl.String,
        REASON: pl.String,
    }
)

ReadCells = Callable[[pl.DataFrame], pl.LazyFrame]
"""A function that reads the cells of a single file's rows; see `polars.row_table`.

Spark sends the function to the workers.
"""


@dataclass(frozen=True)
class RowParser:
    """A parser of rows that runs on the workers."""

    names: Sequence[str]
    """The names of the files in messages, by the file's number."""
    columns: Columns
    rules: RowRules
    unit: str
    """The form of the times: a value of `Columns.time_form` other than `auto`."""
    erased_users: ErasedUsers
    """The users who were erased."""

    def parse_batches(
        self, batches: Iterable[pa.RecordBatch], read_cells: ReadCells
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches with the columns PARSED_ROWS for the rows of the given batches.

        batches: rows with FILE, BLOCK, ROW and the columns that `read_cells` needs.
        """
        for batch in batches:
            for part in pl.DataFrame(batch).partition_by(FILE, BLOCK):
                rows = self._parse(part, read_cells).with_columns(
                    pl.lit(part.item(0, name), PARSED_ROWS[name]).alias(name)
                    for name in (FILE, BLOCK)
                )
                table = rows.select(*PARSED_ROWS).to_arrow(compat_level=pl.CompatLevel.oldest())
                yield from table.to_batches()

    def _parse(self, rows: pl.DataFrame, read_cells: ReadCells) -> pl.DataFrame:
        name = self.names[rows.item(0, FILE)]
        try:
            cells = read_cells(rows).collect()
            is_erased = is_of_erased_user(self.erased_users.find(cells.get_column("user")))
            kept_cells = cells.filter(~is_erased).lazy()
            of_erased = cells.filter(is_erased).select(
                ROW, "user", pl.lit(ERASED_USER).alias(REASON)
            )
            parsed = parse_rows(kept_cells, self.columns, self.rules, self.unit).collect()
            return pl.concat([parsed, of_erased], how="diagonal")
        except PreparationError as error:
            problem = f"{FATAL}{name}: {error}"
        except pl.exceptions.PolarsError as error:
            problem = FATAL + describe_read_error(name, error, self.rules.filter)
        return pl.DataFrame([{PROBLEM: problem, REASON: problem}], schema=PARSED_ROWS)


@dataclass(frozen=True)
class CsvFile:
    """The properties that differ between the CSV files of a source."""

    indexes: Mapping[str, int]
    """The index of the field of each role."""

    width: int
    """The number of fields in the first line."""

    open_row: int | None
    """The ROW of the last line if that line has no line end, or else None."""


def read_csv_lines(
    rows: pl.DataFrame, *, form: FileForm, columns: Columns, files: Mapping[int, CsvFile]
) -> pl.LazyFrame:
    """Return the cells of the lines of CSV in TEXT.

    Raises PreparationError if a line has broken quotes.
    """
    file = files[rows.item(0, FILE)]
    delimiter, cut_row = form.delimiter or ",", None
    for line in rows.filter(pl.col(ROW) == pl.lit(file.open_row, pl.Int64)).get_column(TEXT):
        cut_row = file.open_row if is_cut_off(line, file.width, delimiter, form.quoted) else None
    syntax = CsvSyntax(delimiter, file.width, form.quoted, columns.with_comma)
    if syntax.delimiter == "::":
        return read_csv_cells(split_lines(rows.lazy(), syntax), syntax, file.indexes, cut_row)
    rows = rows.filter(~pl.col(TEXT).is_in(["", "\r"]))
    if syntax.quote is not None:
        _refuse_broken_quotes(rows, syntax.delimiter)
    lines = "".join(f"{line}\n" for line in rows.get_column(TEXT))
    fields = scan_fields(BytesIO(lines.encode()), syntax).collect()
    # Polars raises an error here if `fields` and `rows` have different numbers of rows.
    fields = fields.with_columns(rows.get_column(ROW))
    return read_csv_cells(fields.lazy(), syntax, file.indexes, cut_row)


def _refuse_broken_quotes(rows: pl.DataFrame, delimiter: str) -> None:
    """Raise PreparationError unless Polars would read each line as a record of its own."""
    delimiter = "".join(f"\\x{{{ord(letter):x}}}" for letter in delimiter)
    field = rf'"[^"]*(?:""[^"]*)*"|(?:[^"{delimiter}][^{delimiter}]*)?'
    line = pl.col(TEXT).str.strip_suffix("\r")
    is_whole = line.str.contains(rf"\A(?:{field})(?:{delimiter}(?:{field}))*\z")
    is_odd = line.str.count_matches('"', literal=True) % 2 == 1
    quoting = rows.filter(line.str.contains('"', literal=True))
    if quoting.filter(is_odd | ~is_whole).height:
        raise PreparationError(BROKEN_QUOTES)


def read_json_lines(rows: pl.DataFrame, *, columns: Columns) -> pl.LazyFrame:
    """Return the cells of the lines of JSON in TEXT."""
    names = {role: str(name) for role, name in columns.wanted.items()}
    return parse_json_cells(rows.lazy().select(ROW, TEXT), names)


def read_parquet_rows(rows: pl.DataFrame, *, columns: Columns, cell_bytes: int) -> pl.LazyFrame:
    """Return the cells of rows of Parquet, which have a column for each role.

    cell_bytes: the largest number of bytes that a cell may have.

    Raises PreparationError if a time zone is declared and Spark reads the times as numbers, which
    do not show whether the times have a zone of their own.
    """
    if columns.time_form == DATETIME and rows.schema["timestamp"] == pl.Int64:
        # Spark has no times in nanoseconds, and reads such times as whole numbers.
        if columns.timezone is not None:
            raise PreparationError(NANOSECONDS)
        rows = rows.with_columns(pl.col("timestamp").cast(pl.Datetime("ns")))
    names = {role: role for role in columns.wanted}
    return read_parquet_cells(rows.lazy(), rows.schema, names, cell_bytes)
