"""Preparation on a Spark session, from the files to the interactions."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial, reduce

import polars as pl
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.preparation.file_form import PreparationError
from batchrec_dagster.preparation.polars.row_problems import SECONDS, list_mixed_times
from batchrec_dagster.preparation.polars.row_table import ROW
from batchrec_dagster.preparation.polars.rows import EXAMPLES, FILE, PROBLEM, REASON
from batchrec_dagster.preparation.row_rules import (
    BEFORE_WINDOW,
    DUPLICATE,
    ERASED_USER,
    EVENT_TYPE_VALUE,
    FEW_OF_ITEM,
    FEW_OF_USER,
    NOT_LATEST,
    PreparationResult,
    RowRules,
)
from batchrec_dagster.preparation.spark.readers import FIX, open_files
from batchrec_dagster.preparation.spark.rows import BLOCK, FATAL, PARSED_ROWS, RowParser
from batchrec_dagster.preparation.spark.task import ERASED_USERS_FILE, PARTS, SparkTask
from batchrec_dagster.storage.erased import ErasedUsers

# The settings that the result depends on. They replace the session's defaults.
SETTINGS = {
    "spark.sql.ansi.enabled": "false",
    "spark.sql.caseSensitive": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # The files are passed over twice, and each pass has to split the files in the same way.
    "spark.sql.files.minPartitionNum": "16",
}
# Spark's messages about files that it cannot read.
COMPLAINTS = re.compile(
    r"(?:Encountered error while reading file|Could not read footer for file:) \S+"
    r"|UnsupportedEncodingException: .+"
)
_TYPES = {pl.Int32(): "int", pl.Int64(): "long", pl.String(): "string"}


def run_task(spark: SparkSession, task: SparkTask, log: logging.Logger) -> PreparationResult:
    """Write the interactions that the task asks for, and return the counts of its rows.

    Raises PreparationError if the files cannot be read or used.
    """
    for name, value in SETTINGS.items():
        spark.conf.set(name, value)
    try:
        return _prepare(spark, task, log)
    except (Py4JJavaError, PySparkException) as error:
        complaint = COMPLAINTS.search(str(error))
        if complaint is None:
            raise
        reason = complaint[0].rstrip(".")
        raise PreparationError(f"{reason}: copy the file again, or {FIX}") from error
    finally:
        spark.catalog.clearCache()


def _prepare(spark: SparkSession, task: SparkTask, log: logging.Logger) -> PreparationResult:
    columns, rules = task.columns, task.rules
    (record,) = spark.read.text(f"{task.work}/{ERASED_USERS_FILE}", wholetext=True).collect()
    erased_users = ErasedUsers.decode(record.value.encode())
    log.info(f"reading {len(task.files):,} files, timestamps as {task.unit}")
    parser = RowParser([*task.files], columns, rules, task.unit, erased_users)
    schema = ", ".join(f"{name} {_TYPES[kind]}" for name, kind in PARSED_ROWS.items())
    parts = [
        frame.mapInArrow(partial(parser.parse_batches, read_cells=read_cells), schema)
        for frame, read_cells in open_files(spark, task)
    ]
    # The rows are parsed once and kept on the workers' disks, because several steps read them.
    rows = reduce(DataFrame.union, parts).persist(StorageLevel.DISK_ONLY)
    groups = (
        rows.groupBy(FILE, REASON, PROBLEM)
        .agg(F.count(F.lit(1)).alias("rows"), F.min(F.struct(BLOCK, ROW)).alias("first"))
        .orderBy(FILE, "first")
        .collect()
    )
    rows_read = sum(group["rows"] for group in groups)
    examples = _describe_bad_groups(groups, rows_read, task)
    left_out: Counter[str] = Counter()
    for group in groups:
        if group[REASON] is not None:
            left_out[group[REASON]] += group["rows"]
    count = rows_read - left_out.total()
    log.info(f"read {rows_read:,} rows, left out {rows_read - count:,} of them so far")
    kept_rows = rows.filter(F.col(REASON).isNull())
    if rules.event_type and "event_type" not in columns.roles:
        kept_rows = kept_rows.withColumn("event_type", F.lit(EVENT_TYPE_VALUE))
    written = ["user", "item", SECONDS]
    written += ["event_type"] if rules.event_type else []
    written += ["event_value"] if "event_value" in columns.roles else []
    kept_rows, count = _apply_rules(kept_rows, count, rules, written, left_out)
    kept_rows.select(written).write.csv(
        f"{task.work}/{PARTS}",
        escape='"',
        emptyValue="",
        ignoreLeadingWhiteSpace=False,
        ignoreTrailingWhiteSpace=False,
    )
    log.info(f"wrote {count:,} interactions")
    erased = rows.filter(F.col(REASON) == ERASED_USER).select("user").distinct()
    return PreparationResult(rows_read, dict(+left_out), examples, task.unit, erased.count())


def _describe_bad_groups(groups: Sequence[Row], rows_read: int, task: SparkTask) -> list[str]:
    """Return descriptions of the first kinds of bad rows: the file and the problem.

    groups: a row for each FILE, REASON and PROBLEM that occur together, with their number of rows.

    Raises PreparationError if the files cannot be read, or have more bad rows than the rules allow.
    """
    names = list(task.files)
    if not rows_read:
        raise PreparationError(f"{names[0]} has a header and no rows")
    mixed_times = list_mixed_times(task.columns, task.unit).values()
    bad_groups = [group for group in groups if group[PROBLEM] is not None]
    examples = [f"{names[group[FILE]]}: {group[PROBLEM]}" for group in bad_groups]
    for group, example in zip(bad_groups, examples, strict=True):
        if group[PROBLEM].startswith(FATAL):
            raise PreparationError(group[PROBLEM].removeprefix(FATAL))
        if group[PROBLEM] in mixed_times:
            raise PreparationError(example)
    bad = sum(group["rows"] for group in bad_groups)
    task.rules.refuse_bad_rows(bad, rows_read, examples)
    return examples[:EXAMPLES]


def _apply_rules(
    rows: DataFrame, count: int, rules: RowRules, written: Sequence[str], left_out: Counter[str]
) -> tuple[DataFrame, int]:
    """Apply the rules that look at more than one row, and return the kept rows and their number.

    `RowRules` describes the rules.

    count: the number of the given rows.
    written: the written columns. Duplicates are equal in all written columns.
    left_out: gets the number of rows that are left out, by reason.
    """

    def keep(kept: DataFrame, reason: str) -> None:
        # The rows stay on the workers' disks, because they are counted and then read again.
        nonlocal rows, count
        kept = kept.persist(StorageLevel.DISK_ONLY)
        kept_count = kept.count()
        left_out[reason] += count - kept_count
        rows, count = kept, kept_count

    if rules.window_days is not None and count:
        newest = rows.agg(F.max(SECONDS)).collect()[0][0]
        start = newest - SECONDS_A_DAY * rules.window_days
        keep(rows.filter(F.col(SECONDS) >= start), BEFORE_WINDOW)
    if rules.duplicates == "drop":
        keep(rows.dropDuplicates([*written]), DUPLICATE)
    if rules.latest_per_pair:
        latest = F.max_by(F.struct("*"), F.struct(SECONDS, FILE, BLOCK, ROW)).alias("latest")
        keep(rows.groupBy("user", "item").agg(latest).select("latest.*"), NOT_LATEST)
    least_rows = {
        "user": (rules.min_interactions_per_user or 0, FEW_OF_USER),
        "item": (rules.min_interactions_per_item or 0, FEW_OF_ITEM),
    }
    # Leaving out the rows of users leaves fewer rows of items, and the other way round.
    count_before = -1
    while count_before != count:
        count_before = count
        for column, (least, reason) in least_rows.items():
            if least > 1:
                rows_of_id = F.count(F.lit(1)).over(Window.partitionBy(column))
                counted = rows.withColumn("rows", rows_of_id).filter(F.col("rows") >= least)
                keep(counted.drop("rows"), reason)
    return rows, count
