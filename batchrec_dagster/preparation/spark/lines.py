"""The lines of text files with the number of each, which Spark does not know by itself.

Spark reads files in blocks, in no order. One pass counts the lines of each block, by which every
line gets its number in the source order; the same pass finds out how the text is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 (what everybody calls it)

from batchrec_dagster.preparation.spark.files import Input

# Columns: the file's number, the line's in its file (from 0), in the source order, and its text.
FILE, LINE, ROW, TEXT = "file", "line", "row", "text"

NOT_ASCII = r"[^\x00-\x7F]"
LETTER = r"[^\x00-\x7F\uFFFD\uFEFF]"
DAMAGED, LETTERS = 1, 2
# Blocks of this many bytes; the count is to be the same in every pass.
BLOCK = 64 * 1024 * 1024


@dataclass(frozen=True)
class Lines:
    """FILE, LINE, ROW and TEXT of all lines; what is known of each file.

    `starts`: the source-order number of each file's first line. `marked`: whether lines were seen
    for which the condition that was asked about holds.
    """

    frame: DataFrame
    encodings: Mapping[str, str]
    starts: Sequence[int]
    marked: bool

    def place(self, row: int) -> tuple[int, int]:
        """The number of the file, and of the line in it from 1, of a line's number."""
        file = max(number for number, start in enumerate(self.starts) if start <= row)
        return file, row - self.starts[file] + 1


def read_lines(
    spark: SparkSession, files: Sequence[Input], encoding: str, mark: Column | None = None
) -> Lines:
    """The lines of the files, without what ends them; `mark` is a condition on the column `value`.

    Bytes that are no UTF-8 are U+FFFD, unless the file is taken as latin-1.
    """
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(BLOCK))
    spark.conf.set("spark.sql.files.minPartitionNum", "16")
    raw = (
        spark.read.option("lineSep", "\n")
        .text([file.pattern for file in files])
        .select(
            "value",
            F.col("_metadata.file_path").alias("path"),
            F.col("_metadata.file_block_start").alias("block"),
            F.monotonically_increasing_id().alias("id"),
        )
    )
    value = F.col("value")
    letters = F.when(
        value.rlike(NOT_ASCII),
        value.rlike("\ufffd").cast("int") + F.when(value.rlike(LETTER), LETTERS).otherwise(0),
    ).otherwise(0)
    blocks = (
        raw.groupBy("path", "block")
        .agg(
            F.count(F.lit(1)).alias("lines"),
            F.min("id").alias("first"),
            F.bit_or(letters).alias("letters"),
            F.max(F.lit(False) if mark is None else mark).alias("marked"),
        )
        .collect()
    )
    numbers = {file.path: number for number, file in enumerate(files)}
    blocks.sort(key=lambda block: (numbers[block["path"]], block["block"]))
    seen = dict.fromkeys(range(len(files)), 0)
    counts = dict.fromkeys(range(len(files)), 0)
    for block in blocks:
        number = numbers[block["path"]]
        seen[number] |= block["letters"]
        counts[number] += block["lines"]
    starts = [0, *accumulate(counts.values())][:-1]
    latin = {
        number
        for number, flags in seen.items()
        if flags and (encoding == "latin-1" or (encoding == "auto" and flags == DAMAGED))
    }
    row, told = 0, []
    for block in blocks:
        number = numbers[block["path"]]
        told.append(
            {
                "path": block["path"],
                "block": block["block"],
                FILE: number,
                "row_shift": row - block["first"],
                "file_start": starts[number],
                "charset": "ISO-8859-1" if number in latin else "UTF-8",
            }
        )
        row += block["lines"]
    schema = "path string, block long, file int, row_shift long, file_start long, charset string"
    table = spark.range(1).select(
        F.inline(F.from_json(F.lit(json.dumps(told)), f"array<struct<{_fields(schema)}>>"))
    )
    text = value
    if any(flags & DAMAGED for flags in seen.values()) or latin:
        binary = value.cast("binary")
        text = F.when(F.col("charset") == "UTF-8", F.decode(binary, "UTF-8")).otherwise(
            F.decode(binary, "ISO-8859-1")
        )
    frame = (
        raw.join(F.broadcast(table), ["path", "block"])
        .withColumn(ROW, F.col("id") + F.col("row_shift"))
        .withColumn(LINE, F.col(ROW) - F.col("file_start"))
        .select(
            FILE,
            LINE,
            ROW,
            F.when(F.col(LINE) == 0, F.regexp_replace(text, "^\ufeff", ""))
            .otherwise(text)
            .alias(TEXT),
        )
    )
    return Lines(
        frame,
        {file.name: "latin-1" if n in latin else "utf-8" for n, file in enumerate(files)},
        starts,
        any(block["marked"] for block in blocks),
    )


def _fields(schema: str) -> str:
    return ", ".join(":".join(field.split()) for field in schema.split(", "))
