"""Runs a task on a Spark session, from the files to the CSV of interactions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.layout import AUTO, QUOTES_FIX, Columns, PreparationError
from batchrec_dagster.preparation.polars.cells import ROW
from batchrec_dagster.preparation.polars.row_problems import FORM, SECONDS, list_mixed_times
from batchrec_dagster.preparation.polars.rows import PROBLEM, REASON, read_error
from batchrec_dagster.preparation.rules import (
    ERASED_USER,
    EVENT_TYPE_VALUE,
    MOST_EVENT_TYPES,
    Rules,
)
from batchrec_dagster.preparation.spark.files import SparkFiles
from batchrec_dagster.preparation.spark.row_filters import SparkRowFilter
from batchrec_dagster.preparation.spark.rows import (
    BROKEN_QUOTES,
    PARSED_ROWS,
    TIME_FORMS,
    UNREADABLE,
    find_batch_time_forms,
    parse_batches,
)
from batchrec_dagster.preparation.spark.tables import SourceRows, open_rows
from batchrec_dagster.preparation.spark.task import SparkTask, SparkTaskResult
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

# How many bad rows are named.
EXAMPLES = 5
# How many rows one worker writes. They take a few hundred megabytes.
PART_ROWS = 4_000_000
# What the result depends on, whatever the session's defaults are.
SETTINGS = {
    "spark.sql.ansi.enabled": "false",
    "spark.sql.caseSensitive": "true",
    "spark.sql.session.timeZone": "UTC",
}


def run_task(spark: SparkSession, task: SparkTask, log: logging.Logger) -> SparkTaskResult:
    """Write the CSV that the task asks for. Raises PreparationError."""
    for name, value in SETTINGS.items():
        spark.conf.set(name, value)
    files = SparkFiles(spark, task.work, task.limits)
    try:
        return _prepare(spark, files, task, log)
    finally:
        spark.catalog.clearCache()
        files.remove_work()


def _prepare(
    spark: SparkSession, files: SparkFiles, task: SparkTask, log: logging.Logger
) -> SparkTaskResult:
    columns, rules = task.columns, task.rules
    suppressed = NOBODY
    if task.suppressed is not None:
        suppressed = ErasedUsers.decode(files.read(task.suppressed))
    inputs = files.unpack_inputs(task.files)
    source = open_rows(spark, files, inputs, task.form, columns)
    unit = _find_timestamp_unit(source, columns, suppressed)
    log.info(f"reading {len(inputs):,} files, timestamps as {unit}")
    parse = partial(parse_batches, columns=columns, rules=rules, unit=unit, suppressed=suppressed)
    # Parsed once, and kept on the workers' disks, for all that follows.
    rows = source.map(parse, PARSED_ROWS).persist(StorageLevel.DISK_ONLY)
    mixed_times = list_mixed_times(columns, unit).values()
    rows_read, left_out, examples = _check_rows(source, rows, rules, mixed_times)
    log.info(f"read {rows_read:,} rows, left out {sum(left_out.values()):,} of them so far")
    output_columns = _list_output_columns(columns, rules)
    rows_kept = rows.filter(F.col(REASON).isNull()).select(ROW, *output_columns)
    if "event_type" not in columns.roles and rules.event_type:
        rows_kept = rows_kept.withColumn("event_type", F.lit(EVENT_TYPE_VALUE))
    row_filter = SparkRowFilter(rules, list(output_columns))
    rows_kept, count = row_filter.apply(rows_kept, rows_read - sum(left_out.values()))
    sha256 = _write_interactions(files, rows_kept, count, output_columns, task)
    log.info(f"wrote {count:,} interactions")
    ids = _summarise_ids(rows_kept).persist(StorageLevel.DISK_ONLY)
    return SparkTaskResult(
        rows_read=rows_read,
        left_out=dict(Counter(left_out) + Counter(row_filter.left_out)),
        bad_row_examples=examples,
        timestamp_unit=unit,
        erased_users=_count_erased_users(rows) if ERASED_USER in left_out else 0,
        sha256=sha256,
        **(_count_events(rows_kept) if rules.event_type else {}),
        **_count_ids(ids),
    )


def _check_rows(
    source: SourceRows, rows: DataFrame, rules: Rules, mixed_times: Collection[str]
) -> tuple[int, dict[str, int], list[str]]:
    """How many rows there are, how many are left out for each reason, and the first bad rows.

    mixed_times: the problems of times in several forms, which are errors.
    Raises PreparationError if the files cannot be read, or have more bad rows than the rules allow.
    """
    groups = (
        rows.groupBy(REASON, PROBLEM)
        .agg(F.count(F.lit(1)).alias("rows"), F.min(ROW).alias("first"))
        .collect()
    )
    rows_read = sum(group["rows"] for group in groups)
    left_out = {group[REASON]: group["rows"] for group in groups if group[REASON] is not None}
    problems = [group for group in groups if group[PROBLEM] is not None]
    _raise_if_unreadable(source, problems, rows_read, rules, mixed_times)
    if not problems:
        return rows_read, left_out, []
    examples = _describe_bad_rows(source, rows)
    rules.refuse_bad_rows(sum(group["rows"] for group in problems), rows_read, examples)
    return rows_read, left_out, examples


def _list_output_columns(columns: Columns, rules: Rules) -> dict[str, str]:
    """The columns of the CSV, by those of the rows."""
    names = {"user": schemas.USER_ID, "item": schemas.ITEM_ID, SECONDS: schemas.TIMESTAMP}
    if rules.event_type:
        names["event_type"] = schemas.EVENT_TYPE
    if "event_value" in columns.roles:
        names["event_value"] = schemas.EVENT_VALUE
    return names


def _summarise_ids(rows_kept: DataFrame) -> DataFrame:
    """Each user and each item, with its number of rows, and its first and last time.

    The column `of` has its `kind`, which is user or item, and its `id`.
    """
    user_and_item = F.array(
        *(F.struct(F.lit(kind).alias("kind"), F.col(kind).alias("id")) for kind in ("user", "item"))
    )
    return (
        rows_kept.select(F.explode(user_and_item).alias("of"), SECONDS)
        .groupBy("of")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.min(SECONDS).alias("earliest"),
            F.max(SECONDS).alias("latest"),
        )
    )


def _count_events(rows_kept: DataFrame) -> dict[str, Any]:
    """The fields of `InteractionCounts` on event types."""
    events = rows_kept.groupBy("event_type").count().persist(StorageLevel.DISK_ONLY)
    with_type = events.filter(F.col("event_type").isNotNull())
    frequent = with_type.orderBy(F.desc("count"), "event_type").limit(MOST_EVENT_TYPES)
    return {
        "event_types": events.count(),
        "events": {row["event_type"]: row["count"] for row in frequent.collect()},
    }


def _count_ids(ids: DataFrame) -> dict[str, Any]:
    """The fields of `InteractionCounts` but for the event types."""
    kinds = (
        ids.groupBy(F.col("of.kind").alias("kind"))
        .agg(
            F.count(F.lit(1)).alias("all"),
            F.sum((F.col("rows") > 1).cast("int")).alias("with_two"),
            F.min("earliest").alias("earliest"),
            F.max("latest").alias("latest"),
        )
        .collect()
    )
    counts = {row["kind"]: row for row in kinds}
    if not counts:
        return {"users": 0, "users_with_two": 0, "items": 0, "earliest": None, "latest": None}
    users = counts["user"]
    return {
        "users": users["all"],
        "users_with_two": users["with_two"],
        "items": counts["item"]["all"],
        "earliest": users["earliest"],
        "latest": users["latest"],
    }


def _find_timestamp_unit(source: SourceRows, columns: Columns, suppressed: ErasedUsers) -> str:
    """How times are written: declared, or the form of the first one that has a form."""
    if columns.time_form != AUTO:
        return columns.time_form
    find = partial(find_batch_time_forms, columns=columns, suppressed=suppressed)
    forms = source.map(find, TIME_FORMS)
    first_row = forms.orderBy(ROW).first()
    return "s" if first_row is None else str(first_row[FORM])


def _raise_if_unreadable(
    source: SourceRows,
    problems: Sequence[Row],
    rows_read: int,
    rules: Rules,
    mixed_times: Collection[str],
) -> None:
    """Raise PreparationError where there are no rows, or a problem that ends the work."""
    if not rows_read:
        raise PreparationError(f"{source.files[0].name} has a header and no rows")
    for group in problems:
        problem, row = group[PROBLEM], group["first"]
        if problem in mixed_times:
            raise PreparationError(f"{source.place(row)}: {problem}")
        if problem == BROKEN_QUOTES:
            raise PreparationError(
                f'{source.place(row)}: a field that starts with " does not end with one.'
                f" {QUOTES_FIX}"
            )
        if problem.startswith(UNREADABLE):
            name = source.files[source.file_of(row)].name
            raise PreparationError(read_error(name, problem.removeprefix(UNREADABLE), rules))


def _count_erased_users(rows: DataFrame) -> int:
    """How many users who were erased have rows."""
    return rows.filter(F.col(REASON) == ERASED_USER).select("user").distinct().count()


def _describe_bad_rows(source: SourceRows, rows: DataFrame) -> list[str]:
    """The first bad rows: the file, the line, and what is wrong."""
    bad = rows.filter(F.col(PROBLEM).isNotNull()).orderBy(ROW).limit(EXAMPLES)
    return [
        f"{source.place(row[ROW])}: {row[PROBLEM]}" for row in bad.select(ROW, PROBLEM).collect()
    ]


def _write_interactions(
    files: SparkFiles,
    rows_kept: DataFrame,
    count: int,
    output_columns: dict[str, str],
    task: SparkTask,
) -> str:
    """Write the CSV, and return its SHA-256 in hexadecimal.

    count: how many rows are kept.
    output_columns: the columns of the CSV by those of the rows.
    """
    fields = [
        F.col(name) if name == SECONDS else _format_field(F.col(name)) for name in output_columns
    ]
    parts = max(1, -(-count // PART_ROWS))
    ordered = rows_kept.repartitionByRange(parts, ROW) if parts > 1 else rows_kept.repartition(1)
    lines = ordered.sortWithinPartitions(ROW).select(F.concat_ws(",", *fields))
    folder = f"{task.work}/interactions"
    lines.write.text(folder, lineSep="\n")
    return files.join(",".join(output_columns.values()), folder, task.destination)


def _format_field(value: Column) -> Column:
    """The text as a CSV field; an empty one for null."""
    text = F.coalesce(value, F.lit(""))
    quoted = F.concat(F.lit('"'), F.regexp_replace(text, '"', '""'), F.lit('"'))
    needs_quotes = F.lit(False)
    for character in ('"', ",", "\n", "\r"):
        needs_quotes |= text.contains(character)
    return F.when(needs_quotes, quoted).otherwise(text)
