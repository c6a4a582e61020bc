"""The lines of text files with the number of each, which Spark does not know by itself.

Spark reads files in blocks, in no order. One pass counts the lines of each block, by which every
line gets its number in the source order; the same pass finds out how the text is written.
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

from batchrec_dagster.preparation.layout import LEGACY, json_cell, parse_json
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.spark.files import Input, naming

# Columns: the file's number, the line's in its file (from 0), in the source order, and its text.
FILE, LINE, ROW, TEXT = "file", "line", "row", "text"

NOT_ASCII = r"[^\x00-\x7F]"
LETTER = r"[^\x00-\x7F\uFFFD\uFEFF]"
DAMAGED, LETTERS = 1, 2
# Blocks of this many bytes; the count is to be the same in every pass.
BLOCK = 64 * 1024 * 1024
_SHIFTS = "path:string, block:long, file:int, row_shift:long, file_start:long, charset:string"


@dataclass(frozen=True)
class Lines:
    """FILE, LINE, ROW and TEXT of all lines; what is known of each file.

    `starts`: the source-order number of each file's first line; `counts`: its lines.
    `marked`: whether lines were seen for which the condition that was asked about holds.
    """

    frame: DataFrame
    encodings: Mapping[str, str]
    starts: Sequence[int]
    counts: Sequence[int]
    marked: bool


def read_lines(
    spark: SparkSession,
    files: Sequence[Input],
    encoding: str,
    limits: Limits,
    mark: Column | None = None,
) -> Lines:
    """The lines of the files, without what ends them; `mark` is a condition on the column `value`.

    Bytes that are not UTF-8 are U+FFFD, unless the file is in another encoding. Raises
    PreparationError for a line that is too long.
    """
    raw = _raw_lines(spark, files)
    numbers = {file.path: number for number, file in enumerate(files)}
    blocks = _count(raw, mark, limits)
    blocks.sort(key=lambda block: (numbers[block["path"]], block["block"]))
    seen = dict.fromkeys(range(len(files)), 0)
    counts = dict.fromkeys(range(len(files)), 0)
    for block in blocks:
        number = numbers[block["path"]]
        if block["long"] is not None:
            line = counts[number] + block["long"] - block["first"] + 1
            with naming(files[number].name):
                limits.check_line(limits.line_bytes + 1, f"line {line}")
        seen[number] |= block["letters"]
        counts[number] += block["lines"]
    starts = [0, *accumulate(counts.values())][:-1]
    declared = encoding not in ("auto", "utf-8")
    other = codecs.lookup(encoding if declared else LEGACY).name
    in_other = {
        number
        for number, flags in seen.items()
        if flags and (declared or (encoding == "auto" and flags == DAMAGED))
    }
    rows, shifts = 0, []
    for block in blocks:
        number = numbers[block["path"]]
        charset = other if number in in_other else "UTF-8"
        shift = rows - block["first"]
        shifts.append((block["path"], block["block"], number, shift, starts[number], charset))
        rows += block["lines"]
    any_damaged = bool(in_other) or any(flags & DAMAGED for flags in seen.values())
    return Lines(
        _numbered(spark, raw, shifts, other if any_damaged else None),
        {file.name: other if n in in_other else "utf-8" for n, file in enumerate(files)},
        starts,
        list(counts.values()),
        any(block["marked"] for block in blocks),
    )


def _raw_lines(spark: SparkSession, files: Sequence[Input]) -> DataFrame:
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


def _count(raw: DataFrame, mark: Column | None, limits: Limits) -> list[Row]:
    """Of each block: its lines, its first id, that of the first line that is too long, the flags of
    its letters, whether any is marked."""
    value = F.col("value")
    letters = F.when(
        value.rlike(NOT_ASCII),
        value.rlike("\ufffd").cast("int") + F.when(value.rlike(LETTER), LETTERS).otherwise(0),
    ).otherwise(0)
    counted = raw.groupBy("path", "block").agg(
        F.count(F.lit(1)).alias("lines"),
        F.min("id").alias("first"),
        F.min(F.when(F.octet_length(value) > limits.line_bytes, F.col("id"))).alias("long"),
        F.bit_or(letters).alias("letters"),
        F.max(F.lit(False) if mark is None else mark).alias("marked"),
    )
    return counted.collect()


def _numbered(
    spark: SparkSession, raw: DataFrame, shifts: Sequence[tuple[object, ...]], other: str | None
) -> DataFrame:
    """FILE, LINE, ROW and TEXT; `shifts` has the columns of _SHIFTS for each block; `other`: the
    encoding of those that are not in UTF-8, None if all are, without damage."""
    names = [field.partition(":")[0] for field in _SHIFTS.split(", ")]
    rows = json.dumps([dict(zip(names, shift, strict=True)) for shift in shifts])
    table = spark.range(1).select(F.inline(F.from_json(F.lit(rows), f"array<struct<{_SHIFTS}>>")))
    text = F.col("value")
    if other is not None:
        binary = text.cast("binary")
        text = F.when(F.col("charset") == "UTF-8", F.decode(binary, "UTF-8")).otherwise(
            F.decode(binary, other)
        )
    without_bom = F.regexp_replace(text, "^\ufeff", "")
    return (
        raw.join(F.broadcast(table), ["path", "block"])
        .withColumn(ROW, F.col("id") + F.col("row_shift"))
        .withColumn(LINE, F.col(ROW) - F.col("file_start"))
        .select(FILE, LINE, ROW, F.when(F.col(LINE) == 0, without_bom).otherwise(text).alias(TEXT))
    )


CELLS, BEYOND, MISQUOTED, WIDTH = " cells", " beyond", " misquoted", "width"


@dataclass(frozen=True)
class Splitting:
    """How a line falls apart at the delimiter, and whether quotes mean anything."""

    delimiter: str
    quoted: bool

    @property
    def understands_quotes(self) -> bool:
        return self.quoted and self.delimiter != "::"

    def opens(self, line: Column) -> Column:
        """Whether the line ends within a quoted field."""
        return line.contains('"') & line.rlike(self._opener)

    def cells(self, lines: DataFrame, width: Column) -> DataFrame:
        """The lines that are not blank, with CELLS (as they are written, quotes included), BEYOND
        (whether there is more than `width` fields) and MISQUOTED."""
        line = F.col(TEXT)
        text = F.when(line.endswith("\r"), line.substr(F.lit(1), F.length(line) - 1)).otherwise(
            line
        )
        plain = F.split(text, self._split, -1)
        empty = (F.length(text) == 0) | (
            text.startswith(self.delimiter) & text.rlike(rf"^(?:{self._hex})*\z")
        )
        if self.delimiter == "::":
            empty &= F.length(text) < 2 * F.col(WIDTH)
        else:
            # The local engine, too, looks no further than one field after the last.
            empty |= text.startswith(F.expr(f"repeat('{self._literal}', {WIDTH} + 1)"))
        lines = lines.withColumn(WIDTH, width).filter(~empty)
        if not self.understands_quotes:
            framed = lines.select("*", plain.alias(CELLS), F.lit(False).alias(MISQUOTED))
        else:
            quotes = text.contains('"')
            # A quote too many within a field: no reader knows where that row ends.
            odd = (F.length(text) - F.length(F.replace(text, F.lit('"'), F.lit("")))) % 2 == 1
            ended = F.concat(text, F.lit(self.delimiter))
            fields = F.regexp_extract_all(ended, F.lit(f"({self._field}){self._hex}"), 1)
            framed = lines.select(
                "*",
                F.when(quotes, fields).otherwise(plain).alias(CELLS),
                (quotes & (odd | ~ended.rlike(self._closed))).alias(MISQUOTED),
            )
        # A delimiter at the end of a line is common in CSV, and nothing to complain of.
        beyond = (
            F.size(CELLS) > width
            if self.delimiter == "::"
            else F.coalesce(F.length(F.get(CELLS, width)) > 0, F.lit(False))
        )
        return framed.withColumn(BEYOND, beyond)

    def text(self, cell: Column) -> Column:
        """The cell's text; null where it is empty and not quoted."""
        plain = F.when(F.length(cell) > 0, cell)
        if not self.understands_quotes:
            return plain
        inner = cell.substr(F.lit(2), F.length(cell) - 2)
        return F.when(cell.startswith('"'), F.regexp_replace(inner, '""', '"')).otherwise(plain)

    def joined(self, lines: DataFrame) -> DataFrame:
        """FILE, LINE, ROW, TEXT with the lines of one quoted field in one, under the first's
        number."""
        # Python has no \\z before 3.14; its \\Z is the same.
        opener = re.compile(self._opener.replace(r"\z", r"\Z"))

        def join(rows: Iterable[Any]) -> Iterator[tuple[int, int, int, str]]:
            first: Any = None
            texts: list[str] = []

            def joined() -> tuple[int, int, int, str]:
                return first[FILE], first[LINE], first[ROW], "\n".join(texts)

            for row in rows:
                if first is not None and row[FILE] != first[FILE]:
                    yield joined()
                    first = None
                # What goes on within quotes reads as if it had just begun.
                line = row[TEXT] if first is None else f'"{row[TEXT]}'
                if first is None:
                    first, texts = row, []
                texts.append(row[TEXT])
                if not ('"' in line and opener.match(line)):
                    yield joined()
                    first = None
            if first is not None:
                yield joined()

        ordered = lines.repartition(FILE).sortWithinPartitions(ROW)
        return ordered.rdd.mapPartitions(join).toDF(
            f"{FILE} int, {LINE} long, {ROW} long, {TEXT} string"
        )

    @property
    def _split(self) -> str:
        """For String.split, which is quick about one character and one that is escaped."""
        if len(self.delimiter) > 1 or self.delimiter.isalnum() or not self.delimiter.isprintable():
            return self.delimiter
        return f"\\{self.delimiter}"

    @property
    def _literal(self) -> str:
        """Within quotes in SQL."""
        return {"'": "\\'", "\\": "\\\\"}.get(self.delimiter, self.delimiter)

    @property
    def _hex(self) -> str:
        return "".join(f"\\x{ord(letter):02x}" for letter in self.delimiter)

    @property
    def _field(self) -> str:
        return f'"[^"]*+(?:""[^"]*+)*+"|(?!")[^{self._hex}]*+'

    @property
    def _closed(self) -> str:
        return rf"^(?:(?:{self._field}){self._hex})*+\z"

    @property
    def _opener(self) -> str:
        return rf'^(?:(?:{self._field}){self._hex})*+"[^"]*+(?:""[^"]*+)*+\z'


def json_cells(text: Column, names: Sequence[str]) -> Column:
    """The values of these names as an array of text; null where the line is no object."""

    def read(line: str) -> list[str | None] | None:
        found = parse_json(line)
        return None if found is None else [json_cell(found.get(name)) for name in names]

    return F.udf(read, "array<string>")(text)
