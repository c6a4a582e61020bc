"""The files' rows as Spark hands them to its workers, whatever their format."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from batchrec_dagster.preparation.column_names import format_setting_name, locate_columns
from batchrec_dagster.preparation.layout import (
    DATETIME,
    JSON_LINES_SAMPLED,
    NOT_AN_OBJECT,
    Column,
    Columns,
    FileForm,
    PreparationError,
    build_empty_line_error,
    is_cut_off,
    parse_json,
    split_line,
)
from batchrec_dagster.preparation.polars.cells import ROW, TEXT
from batchrec_dagster.preparation.sources.limits import BYTES_OF_A_ROW
from batchrec_dagster.preparation.spark.files import InputFile, SparkFiles, name_file_in_errors
from batchrec_dagster.preparation.spark.lines import Lines, QuotedLines, read_lines
from batchrec_dagster.preparation.spark.rows import (
    FILE,
    LINE,
    CellReader,
    ColumnTypes,
    CsvFile,
    CsvReader,
    JsonReader,
    ParquetReader,
)

# The column of each role.
Roles = Mapping[str, Column]
# The most bytes of text in a column of an Arrow batch.
ARROW_TEXT_BYTES = 2**31 - 1
MOST_ROWS_OF_A_BATCH = 10_000


@dataclass(frozen=True)
class SourceRows:
    """All rows of all files before their cells are read, and the place of each."""

    parts: Sequence[tuple[DataFrame, CellReader]]
    """Rows, and what reads them on the workers."""

    files: Sequence[InputFile]

    starts: Sequence[int]
    """The number of each file's first row in the order of the source."""

    unit: str = "line"
    """What a person counts in the files."""

    def map(self, read: Callable[..., Iterator[Any]], columns: ColumnTypes) -> DataFrame:
        """The result of a function of `rows` that the workers apply to all rows.

        read: takes a reader and the batches of rows for it.
        columns: the columns of the result.
        """
        schema = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        results = [frame.mapInArrow(partial(read, reader), schema) for frame, reader in self.parts]
        return reduce(DataFrame.union, results)

    def file_of(self, row: int) -> int:
        """The number of the row's file."""
        return max(number for number, start in enumerate(self.starts) if start <= row)

    def place(self, row: int) -> str:
        """Where a person finds this row."""
        file = self.file_of(row)
        return f"{self.files[file].name}, {self.unit} {row - self.starts[file] + 1}"


def open_rows(
    spark: SparkSession,
    files: SparkFiles,
    inputs: Sequence[InputFile],
    form: FileForm,
    columns: Columns,
) -> SourceRows:
    """The rows of the files. Raises PreparationError."""
    fitting_rows = max(1, ARROW_TEXT_BYTES // files.limits.line_bytes)
    batch_rows = min(MOST_ROWS_OF_A_BATCH, fitting_rows)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(batch_rows))
    if form.format == "parquet":
        return _open_parquet(spark, files, inputs, columns)
    if form.format == "json":
        lines = read_lines(spark, inputs, form.encoding, files.limits)
        return _open_json(lines, inputs, columns.wanted)
    return _open_csv(spark, files, inputs, form, columns)


def _open_csv(
    spark: SparkSession,
    files: SparkFiles,
    inputs: Sequence[InputFile],
    form: FileForm,
    columns: Columns,
) -> SourceRows:
    delimiter = form.delimiter or ","
    has_quotes = form.quoted and delimiter != "::"
    quoted_lines = QuotedLines(delimiter) if has_quotes else None
    mark = None if quoted_lines is None else quoted_lines.are_open(F.col("value"))
    lines = read_lines(spark, inputs, form.encoding, files.limits, mark)
    lines_before_rows = form.count_lines_before_rows(columns)
    frame = lines.frame.filter(F.col(LINE) >= lines_before_rows)
    if quoted_lines is not None and lines.marked:
        frame = quoted_lines.join(frame)
    csv_files = []
    for number, file in enumerate(inputs):
        encoding = lines.encodings[file.name]
        names = _find_columns(files, file, form, columns, encoding)
        if names is None:
            first_row = lines.starts[number] + lines_before_rows
            record = frame.filter(F.col(ROW) == first_row).select(TEXT).collect()
            names = _number_columns(_split_record(record[0][TEXT], delimiter))
        places = locate_columns(
            columns.wanted, names, file.name, f" (read with the delimiter {delimiter!r})"
        )
        end = files.read_last_line(file).decode(encoding, "replace")
        is_cut = is_cut_off(end, len(names), delimiter, form.quoted)
        cut_line = lines.counts[number] - 1 if is_cut else None
        csv_files.append(CsvFile(places, len(names), cut_line))
    reader = CsvReader(csv_files, delimiter, form.quoted, columns.with_comma)
    return SourceRows([(frame, reader)], inputs, lines.starts)


def _find_columns(
    files: SparkFiles, file: InputFile, form: FileForm, columns: Columns, encoding: str
) -> list[str] | None:
    """The names of the columns: from the header, if there is one, else by their number.

    None if a field of the first row has a line break in it, so that line 1 is not the whole row.
    """
    delimiter = form.delimiter or ","
    skipped = form.count_lines_before_rows(columns) - (1 if columns.are_named else 0)
    line = files.read_line(file, skipped)
    text = line.decode(encoding, "replace").removeprefix("\ufeff")
    if not text.strip():
        raise build_empty_line_error(file.name, f"line {skipped + 1}", skipped)
    is_quoting = form.quoted and delimiter != "::"
    if not columns.are_named and is_quoting and text.count('"') % 2:
        return None
    fields = split_line(text, delimiter, quoted=form.quoted)
    return [field.strip() for field in fields] if columns.are_named else _number_columns(fields)


def _number_columns(fields: Sequence[str]) -> list[str]:
    return [f"column_{number}" for number in range(1, len(fields) + 1)]


def _split_record(text: str, delimiter: str) -> list[str]:
    """The fields of a record of several lines."""
    try:
        return next(csv.reader(text.splitlines(keepends=True), delimiter=delimiter))
    except csv.Error:
        return split_line(text, delimiter)


def _open_json(lines: Lines, inputs: Sequence[InputFile], roles: Roles) -> SourceRows:
    for number, file in enumerate(inputs):
        is_sampled = (F.col(FILE) == number) & (F.col(LINE) < JSON_LINES_SAMPLED)
        sample = (row[0] for row in lines.frame.filter(is_sampled).select(TEXT).collect())
        names = dict.fromkeys(name for line in sample for name in parse_json(line) or ())
        if not names:
            raise PreparationError(
                f"{file.name}, line 1: {NOT_AN_OBJECT}; ratings.format json wants one a line"
            )
        locate_columns(roles, list(names), file.name)
    reader = JsonReader({role: str(name) for role, name in roles.items()})
    return SourceRows([(lines.frame, reader)], inputs, lines.starts)


def _open_parquet(
    spark: SparkSession, files: SparkFiles, inputs: Sequence[InputFile], columns: Columns
) -> SourceRows:
    # Spark has no times of nanoseconds; as whole numbers they can be read.
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    frames = [spark.read.parquet(file.pattern) for file in inputs]
    counts = [frame.count() for frame in frames]  # Of the footers.
    for count, file in zip(counts, inputs, strict=True):
        with name_file_in_errors(file.name):
            files.limits.check(count * BYTES_OF_A_ROW, file.packed)
    starts = [0, *accumulate(counts)][:-1]
    parts = [
        _read_parquet_part(number, start, frame, file, columns, files.limits.cell_bytes)
        for number, (start, frame, file) in enumerate(zip(starts, frames, inputs, strict=True))
    ]
    return SourceRows(parts, inputs, starts, "row")


def _read_parquet_part(
    number: int, start: int, frame: DataFrame, file: InputFile, columns: Columns, cell_bytes: int
) -> tuple[DataFrame, ParquetReader]:
    """The rows of one file with the wanted columns, under names without a meaning in Spark."""
    places = locate_columns(columns.wanted, frame.columns, file.name)
    column_names = {role: frame.columns[place] for role, place in places.items()}
    aliases: dict[str, str] = {}
    for column in column_names.values():
        aliases.setdefault(column, f"column {len(aliases)}")
    names = {role: aliases[column] for role, column in column_names.items()}
    nanoseconds = None
    for role, column in column_names.items():
        field = frame.schema[column]
        _check_type(field, role, file)
        if role == "timestamp" and _has_nanoseconds(field, columns):
            if columns.timezone is not None:
                raise PreparationError(
                    f"{file.name}: Spark cannot tell whether the times of {field.name!r}, in"
                    " nanoseconds, have a zone: write microseconds, or omit ratings.timezone"
                )
            nanoseconds = names[role]
    rows = frame.select(
        F.lit(number).alias(FILE),
        (F.col("_metadata.row_index") + start).alias(ROW),
        *(F.col(_quote_name(column)).alias(alias) for column, alias in aliases.items()),
    )
    return rows, ParquetReader(names, nanoseconds, cell_bytes)


def _check_type(field: T.StructField, role: str, file: InputFile) -> None:
    """Raise PreparationError for a column of a type that this role cannot have."""
    remedy = None
    if isinstance(field.dataType, (T.ArrayType, T.MapType, T.StructType, T.BinaryType)):
        remedy = "a column of text or numbers"
    elif role in ("user", "item") and isinstance(field.dataType, (T.FloatType, T.DoubleType)):
        remedy = "ids as text or whole numbers, or convert them in ratings.query"
    if remedy is not None:
        raise PreparationError(
            f"{file.name}: {field.name!r} ({format_setting_name(role)}) is of type"
            f" {field.dataType.simpleString()}; write the file with {remedy}"
        )


def _has_nanoseconds(field: T.StructField, columns: Columns) -> bool:
    """Whether this column of times came as whole numbers."""
    return columns.time_form == DATETIME and isinstance(field.dataType, T.LongType)


def _quote_name(column: str) -> str:
    return f"`{column.replace('`', '``')}`"
