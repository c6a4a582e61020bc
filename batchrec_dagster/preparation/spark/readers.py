"""Spark's own readers of files, and the functions that read the cells of their rows."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 (what everybody calls it)

from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.file_form import (
    LEGACY,
    FileForm,
    PreparationError,
    build_empty_line_error,
    split_line,
)
from batchrec_dagster.preparation.polars.row_table import ROW, TEXT
from batchrec_dagster.preparation.polars.rows import FILE
from batchrec_dagster.preparation.sources import file_formats
from batchrec_dagster.preparation.sources.limits import BYTES_OF_A_ROW, LimitError
from batchrec_dagster.preparation.spark.rows import (
    BLOCK,
    CsvFile,
    ReadCells,
    read_csv_lines,
    read_json_lines,
    read_parquet_rows,
)
from batchrec_dagster.preparation.spark.task import SparkTask

FIX = "write it as CSV in UTF-8 or as Parquet, or set preparation.engine: local"
NOT_READ = f"which Spark does not read here: {FIX}"
PACKED_FIX = "a packed file has to be named .gz"
LETTER_BEYOND_ASCII = r"[^\x00-\x7F\uFFFD\uFEFF]"
# Columns of rows and blocks: Spark's path of the file, the size of the file, and the unfolded size
# of a block.
_PATH, _SIZE, _UNFOLDED = "path", "size", "unfolded"
# Columns of lines of text: the bytes, the file's encoding, and the file's first ROW after the
# header.
_LINE, _ENCODING, _FIRST_ROW = "line", "encoding", "first_row"

Part = tuple[DataFrame, ReadCells]
"""Rows of some files, and the function that reads the rows' cells.

The rows have FILE, BLOCK, ROW and the columns that the function needs.
"""


def open_files(spark: SparkSession, task: SparkTask) -> list[Part]:
    """Return all rows of the files. Raises PreparationError if the files cannot be read."""
    open_format = _open_parquet if task.form.format == "parquet" else _open_text
    parts = list(open_format(spark, task))
    if not parts:
        raise PreparationError(f"{next(iter(task.files))} is empty")
    return parts


def _open_text(spark: SparkSession, task: SparkTask) -> Iterator[Part]:
    """Yield the decoded lines of the files, in TEXT."""
    form, columns = task.form, task.columns
    for name, uri in task.files.items():
        if uri.endswith(".zst"):
            raise PreparationError(f"{name} is packed with zstd, {NOT_READ}")
    lines = _locate_rows(_read_lines(spark, task.files.values()), {_LINE: F.col(_LINE)})
    text = F.decode(_LINE, "UTF-8")
    blocks_of_files = _inspect_files(
        lines,
        task,
        unfolded=F.sum(F.octet_length(_LINE) + 1),
        longest=F.max(F.octet_length(_LINE)),
        first=F.min(ROW),
        last=F.max(ROW),
        is_damaged=F.max(text.contains("\ufffd")),
        has_letters=F.max(text.rlike(LETTER_BEYOND_ASCII)),
    )
    if not blocks_of_files:
        return
    skipped_lines = form.count_lines_before_rows(columns) if form.format == "csv" else 0
    csv_files: dict[int, CsvFile] = {}
    files = []
    for number, blocks in blocks_of_files.items():
        encoding = _choose_encoding(form, blocks)
        start = _read_start(spark, task, number, skipped_lines + 1)
        if form.format == "csv":
            csv_files[number] = _describe_csv(task, number, start, encoding, blocks)
        first_row = blocks[0]["first"] + skipped_lines
        files.append((blocks[0][_PATH], number, encoding, first_row))
    table = spark.createDataFrame(
        files, f"{_PATH} string, {FILE} int, {_ENCODING} string, {_FIRST_ROW} long"
    )
    is_row = (F.col(BLOCK) > 0) | (F.col(ROW) >= F.col(_FIRST_ROW))
    texts = [
        F.when(F.col(_ENCODING) == encoding, F.decode(_LINE, encoding))
        for encoding in sorted({encoding for _, _, encoding, _ in files})
    ]
    rows = lines.join(F.broadcast(table), _PATH).filter(is_row)
    read_cells: ReadCells = partial(read_json_lines, columns=columns)
    if form.format == "csv":
        read_cells = partial(read_csv_lines, form=form, columns=columns, files=csv_files)
    yield rows.select(FILE, BLOCK, ROW, F.coalesce(*texts).alias(TEXT)), read_cells


def _read_lines(spark: SparkSession, uris: Iterable[str]) -> DataFrame:
    """Return the bytes of each line, in _LINE, without the line end."""
    lines = spark.read.option("lineSep", "\n").text(_list_patterns(uris))
    return lines.withColumn(_LINE, F.col("value").cast("binary"))


def _list_patterns(uris: Iterable[str]) -> list[str]:
    """Return patterns that match only these files, because Spark takes every path for a pattern."""
    return [re.sub(r"([\[\]{}*?\\])", r"\\\1", uri) for uri in uris]


def _locate_rows(rows: DataFrame, columns: Mapping[str, Column]) -> DataFrame:
    """Return these columns of the rows, by name, and the place of each row.

    The place of a row is in _PATH, _SIZE, BLOCK and ROW.
    """
    return rows.select(
        F.col("_metadata.file_path").alias(_PATH),
        F.col("_metadata.file_size").alias(_SIZE),
        F.col("_metadata.file_block_start").alias(BLOCK),
        F.monotonically_increasing_id().alias(ROW),
        *(column.alias(name) for name, column in columns.items()),
    )


def _inspect_files(rows: DataFrame, task: SparkTask, **measures: Column) -> dict[int, list[Row]]:
    """Return Spark's blocks of each file with rows, by the file's number.

    A block is a part of a file that Spark reads at once. The blocks of a file are in their order.

    measures: the columns of a block besides _PATH, _SIZE and BLOCK. `unfolded` is the number of
    bytes of the unfolded block. `longest` is the number of bytes of the longest line of text.

    Raises PreparationError if a file has more bytes than the limits allow.
    """
    names = list(task.files)
    numbers = {_simplify_path(uri): number for number, uri in enumerate(task.files.values())}
    columns = [column.alias(name) for name, column in measures.items()]
    blocks_of_files: dict[int, list[Row]] = {}
    for block in rows.groupBy(_PATH, _SIZE, BLOCK).agg(*columns).orderBy(BLOCK).collect():
        number = numbers[_simplify_path(unquote(block[_PATH]))]
        blocks_of_files.setdefault(number, []).append(block)
    for number, blocks in blocks_of_files.items():
        try:
            task.limits.require_size(sum(block[_UNFOLDED] for block in blocks), blocks[0][_SIZE])
            task.limits.require_line_length(max(block["longest"] for block in blocks), "a line")
        except LimitError as error:
            raise PreparationError(f"{names[number]}: {error}") from error
    return blocks_of_files


def _simplify_path(uri: str) -> str:
    """Return the URI with one slash after the scheme, because file:/ and file:/// are the same."""
    return re.sub("^([a-z0-9]+):/+", r"\1:/", uri)


def _choose_encoding(form: FileForm, blocks: Sequence[Row]) -> str:
    """Return the encoding of a file by the rules of `FileForm.encoding`."""
    if form.encoding != "auto":
        return codecs.lookup(form.encoding).name
    is_damaged = any(block["is_damaged"] for block in blocks)
    return LEGACY if is_damaged and not any(block["has_letters"] for block in blocks) else "utf-8"


def _read_start(spark: SparkSession, task: SparkTask, number: int, count: int) -> list[bytes]:
    """Return the first lines of a file.

    Raises PreparationError if only the local engine can read the file.
    """
    name, uri = list(task.files.items())[number]
    lines = [bytes(row[_LINE]) for row in _read_lines(spark, [uri]).limit(count).collect()]
    start = lines[0][: file_formats.START]
    if start.startswith(file_formats.UTF16) or not file_formats.is_text(start):
        kind = file_formats.recognise_format(start) or f"not plain text ({PACKED_FIX})"
        raise PreparationError(f"{name} is {kind}, {NOT_READ}")
    return lines


def _describe_csv(
    task: SparkTask, number: int, start: Sequence[bytes], encoding: str, blocks: Sequence[Row]
) -> CsvFile:
    """Return the properties of the CSV file with this number.

    start: the first lines of the file, up to the first row.

    Raises PreparationError if the file has no line of names or lacks a wanted column.
    """
    name, form, columns = list(task.files)[number], task.form, task.columns
    delimiter = form.delimiter or ","
    skipped = form.count_lines_before_rows(columns) - (1 if columns.are_named else 0)
    text = start[skipped].decode(encoding, "replace") if len(start) > skipped else ""
    if not text.strip():
        raise build_empty_line_error(name, f"line {skipped + 1}", skipped)
    # The csv module's own limit on a field is smaller than the limit on a line.
    csv.field_size_limit(task.limits.line_bytes)
    fields = [field.strip() for field in split_line(text, delimiter, form.quoted)]
    if not columns.are_named:
        fields = [f"column_{position}" for position in range(1, len(fields) + 1)]
    hint = f" (read with the delimiter {delimiter!r})"
    indexes = locate_columns(columns.wanted, fields, name, hint)
    # Spark does not show line ends. Each line was counted with a line end, so a file without the
    # last line end is one byte shorter than the count. The count lacks a BOM, because Spark takes
    # the BOM off.
    excess = sum(block[_UNFOLDED] for block in blocks) - blocks[0][_SIZE]
    has_last_end = excess not in (1, 1 - len(codecs.BOM_UTF8))
    return CsvFile(indexes, len(fields), None if has_last_end else blocks[-1]["last"])


def _open_parquet(spark: SparkSession, task: SparkTask) -> Iterator[Part]:
    """Yield the rows of the files with a column for each role, in one part for each schema."""
    uris_of_schema: dict[str, list[str]] = {}
    for uri in task.files.values():
        schema = spark.read.parquet(*_list_patterns([uri])).schema
        uris_of_schema.setdefault(schema.json(), []).append(uri)
    for uris in uris_of_schema.values():
        frame = spark.read.parquet(*_list_patterns(uris))
        indexes = locate_columns(task.columns.wanted, frame.columns, uris[0])
        columns = {role: F.col(_quote(frame.columns[index])) for role, index in indexes.items()}
        rows = _locate_rows(frame, columns)
        unfolded = F.count(F.lit(1)) * BYTES_OF_A_ROW
        blocks_of_files = _inspect_files(rows, task, unfolded=unfolded, longest=F.lit(0))
        if blocks_of_files:
            numbers = [(blocks[0][_PATH], number) for number, blocks in blocks_of_files.items()]
            table = spark.createDataFrame(numbers, f"{_PATH} string, {FILE} int")
            read_cells = partial(
                read_parquet_rows, columns=task.columns, cell_bytes=task.limits.cell_bytes
            )
            yield rows.join(F.broadcast(table), _PATH).drop(_PATH, _SIZE), read_cells


def _quote(column: str) -> str:
    return f"`{column.replace('`', '``')}`"
