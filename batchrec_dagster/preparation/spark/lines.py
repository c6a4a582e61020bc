"""The lines of text files with their numbers, which Spark does not know by itself.

Spark reads files in blocks, in no order. One pass counts the lines of each block, so that every
line gets its number in the order of the source. The same pass finds out the encoding of each file.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 (what everybody calls it)

from batchrec_dagster.preparation.layout import LEGACY
from batchrec_dagster.preparation.polars.cells import ROW, TEXT
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.spark.files import InputFile, name_file_in_errors
from batchrec_dagster.preparation.spark.rows import FILE, LINE

NOT_ASCII = r"[^\x00-\x7F]"
LETTER_IN_UTF8 = r"[^\x00-\x7F\uFFFD\uFEFF]"
# Bits for what is beyond ASCII in the lines of a block: bytes that are not UTF-8, and letters that
# are.
DAMAGED, LETTERS = 1, 2
# Bytes of a block. Every pass has to split the files in the same way.
BLOCK = 64 * 1024 * 1024
_SHIFTS = "path:string, block:long, file:int, row_shift:long, file_start:long, charset:string"


@dataclass(frozen=True)
class Lines:
    """All lines of the files."""

    frame: DataFrame
    """FILE, LINE, ROW and TEXT."""

    encodings: Mapping[str, str]
    """The encoding of each file by its name."""

    starts: Sequence[int]
    """The number of each file's first line in the order of the source."""

    counts: Sequence[int]
    """How many lines each file has."""

    marked: bool
    """Whether the condition `mark` of `read_lines` holds for a line."""


def read_lines(
    spark: SparkSession,
    files: Sequence[InputFile],
    encoding: str,
    limits: Limits,
    mark: Column | None = None,
) -> Lines:
    """The lines of the files, without their line ends.

    encoding: as in `FileForm.encoding`. Bytes that stand for nothing in it become U+FFFD.
    mark: a condition on the column `value`, the text of a line.

    Raises PreparationError for a line that is too long.
    """
    raw = _read_raw_lines(spark, files)
    numbers = {file.path: number for number, file in enumerate(files)}
    blocks = _count_lines(raw, mark, limits)
    blocks.sort(key=lambda block: (numbers[block["path"]], block["block"]))
    letters = dict.fromkeys(range(len(files)), 0)
    counts = dict.fromkeys(range(len(files)), 0)
    for block in blocks:
        number = numbers[block["path"]]
        if block["long"] is not None:
            line = counts[number] + block["long"] - block["first"] + 1
            with name_file_in_errors(files[number].name):
                limits.check_line(limits.line_bytes + 1, f"line {line}")
        letters[number] |= block["letters"]
        counts[number] += block["lines"]
    starts = [0, *accumulate(counts.values())][:-1]
    is_declared = encoding not in ("auto", "utf-8")
    other_encoding = codecs.lookup(encoding if is_declared else LEGACY).name
    in_other_encoding = {
        number
        for number, flags in letters.items()
        if flags and (is_declared or (encoding == "auto" and flags == DAMAGED))
    }
    rows, shifts = 0, []
    for block in blocks:
        number = numbers[block["path"]]
        charset = other_encoding if number in in_other_encoding else "UTF-8"
        shift = rows - block["first"]
        shifts.append((block["path"], block["block"], number, shift, starts[number], charset))
        rows += block["lines"]
    needs_decoding = bool(in_other_encoding) or any(flags & DAMAGED for flags in letters.values())
    return Lines(
        _number_lines(spark, raw, shifts, other_encoding if needs_decoding else None),
        {
            file.name: other_encoding if number in in_other_encoding else "utf-8"
            for number, file in enumerate(files)
        },
        starts,
        list(counts.values()),
        any(block["marked"] for block in blocks),
    )


def _read_raw_lines(spark: SparkSession, files: Sequence[InputFile]) -> DataFrame:
    """The lines as `value`, with their file's path, their block, and an ascending `id`."""
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(BLOCK))
    spark.conf.set("spark.sql.files.minPartitionNum", "16")
    text = spark.read.option("lineSep", "\n").text([file.pattern for file in files])
    return text.select(
        "value",
        F.col("_metadata.file_path").alias("path"),
        F.col("_metadata.file_block_start").alias("block"),
        F.monotonically_increasing_id().alias("id"),
    )


def _count_lines(raw: DataFrame, mark: Column | None, limits: Limits) -> list[Row]:
    """A row for each block.

    It has the number of `lines`, the `first` id, the id of the first line that is too `long`, the
    bits of `letters`, and whether a line is `marked`.
    """
    value = F.col("value")
    letters = F.when(
        value.rlike(NOT_ASCII),
        value.rlike("\ufffd").cast("int")
        + F.when(value.rlike(LETTER_IN_UTF8), LETTERS).otherwise(0),
    ).otherwise(0)
    counted = raw.groupBy("path", "block").agg(
        F.count(F.lit(1)).alias("lines"),
        F.min("id").alias("first"),
        F.min(F.when(F.octet_length(value) > limits.line_bytes, F.col("id"))).alias("long"),
        F.bit_or(letters).alias("letters"),
        F.max(F.lit(False) if mark is None else mark).alias("marked"),
    )
    return counted.collect()


def _number_lines(
    spark: SparkSession,
    raw: DataFrame,
    shifts: Sequence[tuple[object, ...]],
    other_encoding: str | None,
) -> DataFrame:
    """FILE, LINE, ROW and TEXT.

    shifts: the columns of _SHIFTS for each block.
    other_encoding: that of the files which are not in UTF-8; None if all are, without damage.
    """
    names = [field.partition(":")[0] for field in _SHIFTS.split(", ")]
    rows = json.dumps([dict(zip(names, shift, strict=True)) for shift in shifts])
    table = spark.range(1).select(F.inline(F.from_json(F.lit(rows), f"array<struct<{_SHIFTS}>>")))
    text = F.col("value")
    if other_encoding is not None:
        binary = text.cast("binary")
        text = F.when(F.col("charset") == "UTF-8", F.decode(binary, "UTF-8")).otherwise(
            F.decode(binary, other_encoding)
        )
    without_bom = F.regexp_replace(text, "^\ufeff", "")
    return (
        raw.join(F.broadcast(table), ["path", "block"])
        .withColumn(ROW, F.col("id") + F.col("row_shift"))
        .withColumn(LINE, F.col(ROW) - F.col("file_start"))
        .select(FILE, LINE, ROW, F.when(F.col(LINE) == 0, without_bom).otherwise(text).alias(TEXT))
    )


@dataclass(frozen=True)
class QuotedLines:
    """Finds and joins the lines of a quoted field that goes over several lines."""

    delimiter: str

    def are_open(self, line: Column) -> Column:
        """Whether a line ends within a quoted field."""
        return line.contains('"') & line.rlike(self._pattern)

    def join(self, lines: DataFrame) -> DataFrame:
        """The same columns, with all lines of a record in one row, under the first one's number."""
        # Python has no \z before 3.14; its \Z is the same.
        open_line = re.compile(self._pattern.replace(r"\z", r"\Z"))

        def join_rows(rows: Iterable[Any]) -> Iterator[tuple[int, int, int, str]]:
            first: Any = None
            texts: list[str] = []

            def record() -> tuple[int, int, int, str]:
                return first[FILE], first[LINE], first[ROW], "\n".join(texts)

            for row in rows:
                if first is not None and row[FILE] != first[FILE]:
                    yield record()
                    first = None
                # What goes on within quotes reads as if it had just begun.
                line = row[TEXT] if first is None else f'"{row[TEXT]}'
                if first is None:
                    first, texts = row, []
                texts.append(row[TEXT])
                if not ('"' in line and open_line.match(line)):
                    yield record()
                    first = None
            if first is not None:
                yield record()

        ordered = lines.repartition(FILE).sortWithinPartitions(ROW)
        return ordered.rdd.mapPartitions(join_rows).toDF(
            f"{FILE} int, {LINE} long, {ROW} long, {TEXT} string"
        )

    @property
    def _pattern(self) -> str:
        delimiter = "".join(f"\\x{ord(letter):02x}" for letter in self.delimiter)
        field = f'"[^"]*+(?:""[^"]*+)*+"|(?!")[^{delimiter}]*+'
        return rf'^(?:(?:{field}){delimiter})*+"[^"]*+(?:""[^"]*+)*+\z'
