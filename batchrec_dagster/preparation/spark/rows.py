"""What a worker does with its part of the rows: it reads them as the local engine does, by Polars.

Spark hands the rows over in Arrow record batches and takes such batches back. Nothing here needs
Spark itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import polars as pl
import pyarrow as pa

from batchrec_dagster.preparation.layout import Columns
from batchrec_dagster.preparation.polars.cells import (
    FLAW,
    ROW,
    TEXT,
    CsvSyntax,
    read_csv_cells,
    read_parquet_cells,
    scan_fields,
    split_lines,
)
from batchrec_dagster.preparation.polars.json_decoding import parse_json_cells
from batchrec_dagster.preparation.polars.row_problems import FORM, SECONDS
from batchrec_dagster.preparation.polars.rows import (
    NO_IDS,
    PROBLEM,
    REASON,
    find_time_forms,
    is_of_erased_user,
    leave_out_erased,
    parse_rows,
)
from batchrec_dagster.preparation.rules import ERASED_USER, Rules
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

# The number of the row's file, and of its line in the file, from 0. ROW is its number in the order
# of the source, over all files.
FILE, LINE = "file", "line"
# Problems that end the work, whatever `Rules.on_bad_rows` says. The second is followed by Polars'
# own words.
BROKEN_QUOTES = "broken quotes"
UNREADABLE = "cannot be read: "
# Rows of several batches are read together until they have this many bytes.
PART_BYTES = 16 * 1024 * 1024

ColumnTypes = Mapping[str, str]
"""The columns of a result with their types, as Spark names them."""

PARSED_ROWS: ColumnTypes = {
    ROW: "long",
    "user": "string",
    "item": "string",
    SECONDS: "long",
    "event_type": "string",
    "event_value": "string",
    PROBLEM: "string",
    REASON: "string",
}
TIME_FORMS: ColumnTypes = {ROW: "long", FORM: "string"}
_ARROW_TYPES = {"long": pa.int64(), "string": pa.string()}


class CellReader(Protocol):
    """Reads the cells of rows in one format. It is sent to the workers."""

    def read_cells(self, rows: pl.DataFrame) -> pl.LazyFrame:
        """The cells of these rows, which are all of one file; see `polars.cells`."""


@dataclass(frozen=True)
class CsvFile:
    """What is particular to one of several CSV files."""

    places: Mapping[str, int]
    """The number of the field of each role, from 0."""

    width: int
    """How many fields the first line has."""

    cut_line: int | None
    """The number of the last line if it is cut off."""


@dataclass(frozen=True)
class CsvReader:
    """Reads lines of CSV, each of which is a whole record: FILE, LINE, ROW and TEXT."""

    files: Sequence[CsvFile]
    delimiter: str
    quoted: bool
    with_comma: Collection[str]

    def read_cells(self, rows: pl.DataFrame) -> pl.LazyFrame:
        file = self.files[rows.item(0, FILE)]
        syntax = CsvSyntax(self.delimiter, file.width, self.quoted, self.with_comma)
        cut_rows = rows.filter(pl.col(LINE) == pl.lit(file.cut_line, pl.Int64)).get_column(ROW)
        cut_row = cut_rows.item() if len(cut_rows) else None
        if self.delimiter == "::":
            return read_csv_cells(split_lines(rows.lazy(), syntax), syntax, file.places, cut_row)
        rows = rows.filter(~pl.col(TEXT).is_in(["", "\r"]))
        is_broken = pl.lit(value=False) if syntax.quote is None else _has_broken_quotes(syntax)
        broken = rows.filter(is_broken).select(
            ROW,
            pl.lit(BROKEN_QUOTES).alias(FLAW),
            *(pl.lit(None, pl.String).alias(role) for role in file.places),
        )
        rows = rows.filter(~is_broken)
        source = BytesIO("".join(f"{line}\n" for line in rows.get_column(TEXT)).encode())
        fields = scan_fields(source, syntax).drop(ROW).collect()
        if fields.height != rows.height:
            raise pl.exceptions.ComputeError(f"{rows.height} lines are {fields.height} records")
        fields = fields.with_columns(rows.get_column(ROW))
        cells = read_csv_cells(fields.lazy(), syntax, file.places, cut_row)
        return pl.concat([cells, broken.lazy().select(cells.collect_schema().names())])


def _has_broken_quotes(syntax: CsvSyntax) -> pl.Expr:
    """Whether the line has a quote too many, or a quoted field that goes on after its last quote.

    In such a line Polars and other readers differ in where the next record starts.
    """
    delimiter = "".join(f"\\x{{{ord(letter):x}}}" for letter in syntax.delimiter)
    field = rf'"[^"]*(?:""[^"]*)*"|(?:[^"{delimiter}][^{delimiter}]*)?'
    line = pl.col(TEXT).str.strip_suffix("\r")
    fields_end = (line + syntax.delimiter).str.contains(rf"\A(?:(?:{field}){delimiter})*\z")
    is_odd = line.str.count_matches('"', literal=True) % 2 == 1
    return line.str.contains('"', literal=True) & (is_odd | ~fields_end)


@dataclass(frozen=True)
class JsonReader:
    """Reads lines of JSON: ROW and TEXT."""

    names: Mapping[str, str]
    """The name of the column of each role."""

    def read_cells(self, rows: pl.DataFrame) -> pl.LazyFrame:
        return parse_json_cells(rows.lazy().select(ROW, TEXT), self.names)


@dataclass(frozen=True)
class ParquetReader:
    """Reads rows of one Parquet file: ROW, and the columns of the file that are wanted."""

    names: Mapping[str, str]
    """The name of the column of each role."""

    nanoseconds: str | None
    """The name of the column of times in nanoseconds, which Spark reads as whole numbers."""

    most_bytes: int
    """How many bytes a cell may have."""

    def read_cells(self, rows: pl.DataFrame) -> pl.LazyFrame:
        if self.nanoseconds is not None:
            rows = rows.with_columns(pl.col(self.nanoseconds).cast(pl.Datetime("ns")))
        return read_parquet_cells(rows.lazy(), rows.schema, self.names, self.most_bytes)


def parse_batches(
    reader: CellReader,
    batches: Iterable[pa.RecordBatch],
    columns: Columns,
    rules: Rules,
    unit: str,
    suppressed: ErasedUsers = NOBODY,
) -> Iterator[pa.RecordBatch]:
    """PARSED_ROWS of the batches; see `polars.rows.parse_rows`.

    suppressed: the users who were erased.
    """
    for part in _split_into_parts(batches):
        try:
            cells = reader.read_cells(part)
            erased = find_erased_ids(cells, suppressed)
            of_erased = cells.filter(is_of_erased_user(erased))
            parsed = pl.concat(
                [
                    parse_rows(leave_out_erased(cells, erased), columns, rules, unit),
                    of_erased.select(ROW, "user", pl.lit(ERASED_USER).alias(REASON)),
                ],
                how="diagonal",
            ).collect()
        except pl.exceptions.PolarsError as error:
            # The driver finds it among the problems, and knows the name of the file.
            problem = UNREADABLE + str(error).partition("\n")[0]
            parsed = pl.DataFrame(
                dict.fromkeys(PARSED_ROWS)
                | {ROW: part.item(0, ROW), PROBLEM: problem, REASON: problem}
            )
        yield from _arrow_batches(parsed, PARSED_ROWS)


def find_batch_time_forms(
    reader: CellReader,
    batches: Iterable[pa.RecordBatch],
    columns: Columns,
    suppressed: ErasedUsers = NOBODY,
) -> Iterator[pa.RecordBatch]:
    """TIME_FORMS of the batches: the first row of each form in each part of the rows."""
    for part in _split_into_parts(batches):
        try:
            cells = reader.read_cells(part)
            cells = leave_out_erased(cells, find_erased_ids(cells, suppressed))
            forms = find_time_forms(cells, columns)
            first = forms.sort(ROW).group_by(FORM).first().collect()
        except pl.exceptions.PolarsError:
            continue  # `parse_batches` says what is wrong.
        yield from _arrow_batches(first, TIME_FORMS)


def find_erased_ids(cells: pl.LazyFrame, suppressed: ErasedUsers) -> pl.Series:
    """The ids in the cells whose users were erased."""
    if not suppressed:
        return NO_IDS
    return suppressed.find(cells.select("user").collect().to_series())


def _split_into_parts(batches: Iterable[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    """The rows of the batches, each part of a single file and not larger than PART_BYTES needs."""
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(batch.nbytes for batch in gathered) >= PART_BYTES:
            yield from _split_by_file(gathered)
            gathered = []
    if gathered:
        yield from _split_by_file(gathered)


def _split_by_file(batches: Sequence[pa.RecordBatch]) -> list[pl.DataFrame]:
    rows = pl.DataFrame(pa.Table.from_batches(batches))
    return rows.partition_by(FILE, maintain_order=True) if rows.height else []


def _arrow_batches(rows: pl.DataFrame, columns: ColumnTypes) -> list[pa.RecordBatch]:
    schema = pa.schema({name: _ARROW_TYPES[kind] for name, kind in columns.items()})
    batches: list[pa.RecordBatch] = rows.select(*columns).to_arrow().cast(schema).to_batches()
    return batches
