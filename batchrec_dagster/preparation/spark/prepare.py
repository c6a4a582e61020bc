"""A task, from the files to the written CSV, on a Spark session."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.layout import (
    AUTO,
    QUOTES_FIX,
    Layout,
    PreparationError,
    build_mixed_times_error,
)
from batchrec_dagster.preparation.polars.cells import ROW, SHOWN, TEXT
from batchrec_dagster.preparation.polars.rows import FORM, PROBLEM, REASON, SECONDS, read_error
from batchrec_dagster.preparation.rules import (
    BEFORE_WINDOW,
    DUPLICATE,
    EVENT_TYPE_VALUE,
    FEW_OF_ITEM,
    FEW_OF_USER,
    NOT_LATEST,
    Rules,
)
from batchrec_dagster.preparation.spark.files import SparkFiles
from batchrec_dagster.preparation.spark.rows import (
    BROKEN_QUOTES,
    PARSED_ROWS,
    TIME_FORMS,
    UNREADABLE,
    find_batch_time_forms,
    parse_batches,
)
from batchrec_dagster.preparation.spark.tables import SourceRows, open_rows
from batchrec_dagster.preparation.spark.task import Task, TaskResult

DAY = 86_400
_PLACE = "place"


class SparkRowFilter:
    """Applies the rules one after the other; `left_out` counts rows by reason.

    `written` names the columns of a row that are written. What a rule leaves is kept on the
    workers' disks, for it is counted, and read again by the next.
    """

    def __init__(self, rules: Rules, written: Sequence[str]) -> None:
        self.rules = rules
        self.written = written
        self.left_out: dict[str, int] = {}

    def apply(self, rows: DataFrame, count: int) -> tuple[DataFrame, int]:
        """The rows that are kept, and how many there are."""
        rules = self.rules
        if rules.window_days is not None and count:
            newest = rows.agg(F.max(SECONDS)).collect()[0][0]
            in_window = F.col(SECONDS) >= newest - DAY * rules.window_days
            rows, count = self._step(rows, count, rows.filter(in_window), BEFORE_WINDOW)
        if rules.duplicates == "drop":
            first = _first(rows, self.written, [F.col(ROW)])
            rows, count = self._step(rows, count, first, DUPLICATE)
        if rules.latest_per_pair:
            order = [F.col(SECONDS).desc(), F.col(ROW).desc()]
            rows, count = self._step(rows, count, _first(rows, ["user", "item"], order), NOT_LATEST)
        least = {
            "user": (rules.min_interactions_per_user or 0, FEW_OF_USER),
            "item": (rules.min_interactions_per_item or 0, FEW_OF_ITEM),
        }
        before = -1
        while before != (before := count):
            for column, (enough, reason) in least.items():
                if enough > 1:
                    of_all = F.count(F.lit(1)).over(Window.partitionBy(column))
                    kept = rows.withColumn(_PLACE, of_all).filter(F.col(_PLACE) >= enough)
                    rows, count = self._step(rows, count, kept.drop(_PLACE), reason)
        return rows, count

    def _step(
        self, before: DataFrame, count: int, kept: DataFrame, reason: str
    ) -> tuple[DataFrame, int]:
        kept = kept.persist(StorageLevel.DISK_ONLY)
        left = kept.count()
        before.unpersist()
        if count > left:
            self.left_out[reason] = self.left_out.get(reason, 0) + count - left
        return kept, left


def _first(rows: DataFrame, of: Sequence[str], order: Sequence[Column]) -> DataFrame:
    """The first row of each group, in this order."""
    place = F.row_number().over(Window.partitionBy(*of).orderBy(*order))
    return rows.withColumn(_PLACE, place).filter(F.col(_PLACE) == 1).drop(_PLACE)


EXAMPLES = 5
# Rows of a part that one worker writes: some hundred megabytes.
PART_ROWS = 4_000_000
# What the result depends on, whatever the session's defaults are.
SETTINGS = {
    "spark.sql.ansi.enabled": "false",
    "spark.sql.caseSensitive": "true",
    "spark.sql.session.timeZone": "UTC",
}


def run_task(spark: SparkSession, task: Task, log: logging.Logger) -> TaskResult:
    """Write the CSV, and the users. Raises PreparationError."""
    for name, value in SETTINGS.items():
        spark.conf.set(name, value)
    files = SparkFiles(spark, task.work, task.limits)
    try:
        return _prepare(spark, files, task, log)
    finally:
        spark.catalog.clearCache()
        files.remove_work()


def _prepare(spark: SparkSession, files: SparkFiles, task: Task, log: logging.Logger) -> TaskResult:
    layout, rules = task.layout, task.rules
    inputs = files.inputs(task.files)
    source = open_rows(spark, files, inputs, layout)
    unit = _timestamp_unit(source, layout)
    log.info(f"reading {len(inputs):,} files, timestamps as {unit}")
    parse = partial(parse_batches, layout=layout, rules=rules, unit=unit)
    # Parsed once, and kept on the workers' disks, for all that follows.
    rows = source.map(parse, PARSED_ROWS).persist(StorageLevel.DISK_ONLY)
    groups = (
        rows.groupBy(REASON, PROBLEM)
        .agg(F.count(F.lit(1)).alias("rows"), F.min(ROW).alias("first"))
        .collect()
    )
    rows_read = sum(group["rows"] for group in groups)
    left_out = {group[REASON]: group["rows"] for group in groups if group[REASON] is not None}
    problems = [group for group in groups if group[PROBLEM] is not None]
    _raise_if_unreadable(source, problems, rows_read, rules)
    examples = _describe_bad_rows(source, rows) if problems else []
    if problems:
        rules.refuse_bad_rows(sum(group["rows"] for group in problems), rows_read, examples)
    log.info(f"read {rows_read:,} rows, left out {sum(left_out.values()):,} of them so far")
    written = {
        "user": schemas.USER_ID,
        "item": schemas.ITEM_ID,
        SECONDS: schemas.TIMESTAMP,
        **({"event_type": schemas.EVENT_TYPE} if rules.event_type else {}),
        **({"event_value": schemas.EVENT_VALUE} if layout.event_value is not None else {}),
    }
    kept = rows.filter(F.col(REASON).isNull()).select(ROW, *written)
    if layout.event_type is None and rules.event_type:
        kept = kept.withColumn("event_type", F.lit(EVENT_TYPE_VALUE))
    row_filter = SparkRowFilter(rules, list(written))
    kept, count = row_filter.apply(kept, rows_read - sum(left_out.values()))
    sha256 = _write(files, kept, count, written, task)
    log.info(f"wrote {count:,} interactions")
    each = _users_and_items(kept).persist(StorageLevel.DISK_ONLY)
    _write_users(files, each, task)
    return TaskResult(
        rows_read=rows_read,
        left_out=dict(Counter(left_out) + Counter(row_filter.left_out)),
        bad_row_examples=examples,
        timestamp_unit=unit,
        sha256=sha256,
        event_types=kept.select("event_type").distinct().count() if rules.event_type else 0,
        **_numbers(each),
    )


def _users_and_items(kept: DataFrame) -> DataFrame:
    kinds = F.explode(
        F.array(*(F.struct(F.lit(k).alias("kind"), F.col(k).alias("id")) for k in ("user", "item")))
    )
    return (
        kept.select(kinds.alias("of"), SECONDS)
        .groupBy("of")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.min(SECONDS).alias("earliest"),
            F.max(SECONDS).alias("latest"),
        )
    )


def _numbers(each: DataFrame) -> dict[str, Any]:
    found = {
        row["kind"]: row
        for row in each.groupBy(F.col("of.kind").alias("kind"))
        .agg(
            F.count(F.lit(1)).alias("all"),
            F.sum((F.col("rows") > 1).cast("int")).alias("with_two"),
            F.min("earliest").alias("earliest"),
            F.max("latest").alias("latest"),
        )
        .collect()
    }
    if not found:
        return {"users": 0, "users_with_two": 0, "items": 0, "earliest": None, "latest": None}
    users = found["user"]
    return {
        "users": users["all"],
        "users_with_two": users["with_two"],
        "items": found["item"]["all"],
        "earliest": users["earliest"],
        "latest": users["latest"],
    }


def _write_users(files: SparkFiles, each: DataFrame, task: Task) -> None:
    users = each.filter(F.col("of.kind") == "user").select(
        F.col("of.id").alias(schemas.USER_ID),
        F.col("latest").alias(schemas.TIMESTAMP),
        F.col("rows").alias("INTERACTIONS"),
    )
    folder = f"{task.work}/users"
    # In one part: it is read as a whole, on a machine that the interactions may be too large for.
    users.repartition(1).sortWithinPartitions(schemas.USER_ID).write.parquet(folder)
    files.take(folder, task.users)


def _timestamp_unit(source: SourceRows, layout: Layout) -> str:
    """How times are written: declared, or the one form that all of them have.

    Raises PreparationError for the first time that has another form than those before it.
    """
    if layout.timestamp_unit != AUTO:
        return layout.timestamp_unit
    forms = source.map(partial(find_batch_time_forms, layout=layout), TIME_FORMS)
    first_rows = forms.groupBy(FORM).agg(F.min(F.struct(ROW, "timestamp")).alias("first")).collect()
    first_rows.sort(key=lambda group: group["first"][ROW])
    if len(first_rows) > 1:
        group, other = first_rows[:2]
        row, timestamp = other["first"]
        raise build_mixed_times_error(source.place(row), timestamp, other[FORM], group[FORM])
    return str(first_rows[0][FORM]) if first_rows else "s"


def _raise_if_unreadable(
    source: SourceRows, problems: Sequence[Row], rows_read: int, rules: Rules
) -> None:
    """Raise PreparationError where there are no rows, or a problem that ends the work."""
    if not rows_read:
        raise PreparationError(f"{source.files[0].name} has a header and no rows")
    for group in problems:
        problem, row = group[PROBLEM], group["first"]
        if problem == BROKEN_QUOTES:
            raise PreparationError(
                f'{source.place(row)}: a field that starts with " does not end with one.'
                f" {QUOTES_FIX}"
            )
        if problem.startswith(UNREADABLE):
            name = source.files[source.file_of(row)].name
            raise PreparationError(read_error(name, problem.removeprefix(UNREADABLE), rules))


def _describe_bad_rows(source: SourceRows, rows: DataFrame) -> list[str]:
    """The first bad rows in words."""
    bad = rows.filter(F.col(PROBLEM).isNotNull()).orderBy(ROW).limit(EXAMPLES)
    return [
        f"{source.place(row[ROW])}: {row[PROBLEM]}: {(row[TEXT] or '')[:SHOWN]!r}"
        for row in bad.select(ROW, PROBLEM, TEXT).collect()
    ]


def _write(
    files: SparkFiles, kept: DataFrame, count: int, written: dict[str, str], task: Task
) -> str:
    parts = max(1, -(-count // PART_ROWS))
    line = F.concat_ws(
        ",", *(F.col(name) if name == SECONDS else _field(F.col(name)) for name in written)
    )
    ordered = (
        kept.repartitionByRange(parts, ROW) if parts > 1 else kept.repartition(1)
    ).sortWithinPartitions(ROW)
    folder = f"{task.work}/interactions"
    ordered.select(line).write.text(folder, lineSep="\n")
    return files.join(",".join(written.values()), folder, task.destination)


def _field(value: Column) -> Column:
    """The text as a CSV field; an empty one for null."""
    text = F.coalesce(value, F.lit(""))
    quoted = F.concat(F.lit('"'), F.regexp_replace(text, '"', '""'), F.lit('"'))
    special = text.contains('"') | text.contains(",") | text.contains("\n") | text.contains("\r")
    return F.when(special, quoted).otherwise(text)
