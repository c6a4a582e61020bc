"""A batch job's output lines -> the table of everyone's list, on Spark: the rows, in the order, and
the counts that `pipeline.assets.lists` gives on one machine."""

from __future__ import annotations

import logging
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.spark.files import Files, Input
from batchrec_dagster.preparation.spark.lines import ROW, TEXT, Lines, read_lines
from batchrec_dagster.preparation.spark.prepare import PART_ROWS, SETTINGS
from batchrec_dagster.preparation.spark.task import SourceFile
from batchrec_dagster.preparation.spark.way_back_task import Returned, WayBack

# As `formats.batch_inference` has them.
ANSWER = (
    "input struct<userId: string>,"
    " output struct<recommendedItems: array<string>, scores: array<double>>,"
    " error string, broken string"
)
SHOWN = 5
EXAMPLES = 3
USER, ITEM = "user_id", "item_id"


def write_lists(spark: SparkSession, task: WayBack, log: logging.Logger) -> Returned:
    """Write the table: the best `num_results` items of each line as rows of user_id, rank, item_id,
    title and score, in the order of the lines. Raises PreparationError."""
    for name, value in SETTINGS.items():
        spark.conf.set(name, value)
    files = Files(spark, task.work)
    try:
        return _write_lists(spark, files, task, log)
    finally:
        spark.catalog.clearCache()
        files.remove_work()


def _write_lists(spark: SparkSession, files: Files, task: WayBack, log: logging.Logger) -> Returned:
    inputs = files.inputs(task.answers)
    read = read_lines(spark, inputs, "utf-8")
    # Parsed once, on the workers' disks, as are the rows below.
    lines = _parsed(read.frame).persist(StorageLevel.DISK_ONLY)
    told = _of_lines(lines)
    _look_at_broken(told, read, inputs)
    log.info(f"read {told['lines']:,} users' lines")
    asked = read_lines(spark, files.inputs(task.users), "utf-8").frame
    missing, first_missing = _missing(asked, lines)
    had = None if task.interactions is None else _had(spark, _pattern(files, task.interactions))
    lists = _lists(lines, had).persist(StorageLevel.DISK_ONLY)
    table = _table(lists, task.num_results)
    titles = None if task.titles is None else spark.read.parquet(_pattern(files, task.titles))
    length = F.size("list")
    kept, count = lists.agg(_sum(length), _sum(F.least(length, F.lit(task.num_results)))).collect()[
        0
    ]
    _write(_titled(table, titles), count, task.destination)
    log.info(f"wrote {count:,} rows")
    first = _titled(table.orderBy(ROW, "rank").limit(SHOWN), titles).orderBy(ROW, "rank")
    return Returned(
        lines=told["lines"],
        missing=missing,
        first_missing=first_missing,
        repeated_lines=told["lines"] - lines.select(USER).distinct().count(),
        failed=told["failed"],
        first_failure=list(told["first_failure"][1:]) if told["failed"] else None,
        dropped=told["offered"] - kept,
        sample=[row.asDict() for row in first.drop(ROW).collect()],
        # Of what was written, as whoever reads it finds it.
        **_of_table(spark.read.parquet(task.destination), had, task.num_results),
    )


def _parsed(lines: DataFrame) -> DataFrame:
    """ROW, user_id, items, scores, error of each line; broken where it is not one."""
    options = {"columnNameOfCorruptRecord": "broken"}
    answer = F.from_json(TEXT, ANSWER, options)
    parsed = lines.filter(F.col(TEXT).rlike(r"\S")).select(ROW, answer.alias("answer"))
    items = F.col("answer.output.recommendedItems")
    # Popularity-Count gives no scores: nulls stand in for them.
    none = F.transform(items, lambda _: F.lit(None).cast("double"))
    scores = F.coalesce("answer.output.scores", none)
    return parsed.select(
        ROW,
        F.col("answer.input.userId").alias(USER),
        items.alias("items"),
        scores.alias("scores"),
        F.col("answer.error").alias("error"),
        (F.col("answer.broken").isNotNull() | (F.size(items) != F.size(scores))).alias("broken"),
    )


def _of_lines(lines: DataFrame) -> dict[str, Any]:
    failed = F.col("error").isNotNull()
    found = lines.agg(
        F.count(F.lit(1)).alias("lines"),
        F.count("error").alias("failed"),
        F.min(F.when(failed, F.struct(ROW, USER, "error"))).alias("first_failure"),
        F.min(F.when(F.col("broken"), F.col(ROW))).alias("broken"),
        _sum(_size(F.col("items"))).alias("offered"),
    )
    return found.collect()[0].asDict()


def _look_at_broken(told: dict[str, Any], read: Lines, inputs: list[Input]) -> None:
    if told["broken"] is not None:
        file, line = read.place(told["broken"])
        raise PreparationError(
            f"{inputs[file].name}, line {line}: not a line of a batch inference output; delete the"
            " file and start the run again"
        )


def _missing(asked: DataFrame, lines: DataFrame) -> tuple[int, list[str]]:
    """How many of those who were asked for have no line, and the first of them."""
    user = F.from_json(TEXT, "userId string")["userId"].alias(USER)
    users = asked.filter(F.col(TEXT).rlike(r"\S")).select(ROW, user)
    missing = users.join(lines, USER, "left_anti")
    count = missing.count()
    first = missing.orderBy(ROW).limit(EXAMPLES).collect() if count else []
    return count, [row[USER] for row in first]


def _pattern(files: Files, uri: str) -> str:
    """What Spark reads the file by."""
    (file,) = files.inputs([SourceFile(uri, uri)])
    return file.pattern


def _had(spark: SparkSession, pattern: str) -> DataFrame:
    """user_id, and the items that the user has had. An id has no line break in it."""
    options = {"header": "true", "quote": '"', "escape": '"', "lineSep": "\n"}
    read = spark.read.options(**options).csv(pattern)
    had = read.groupBy(F.col("USER_ID").alias(USER)).agg(F.collect_set("ITEM_ID").alias("had"))
    return had.persist(StorageLevel.DISK_ONLY)


def _lists(lines: DataFrame, had: DataFrame | None) -> DataFrame:
    """ROW, user_id, and as a list the item_id and score of what is offered and not had."""
    offered = F.arrays_zip(F.col("items").alias(ITEM), F.col("scores").alias("score"))
    lines = lines.filter(F.size("items") > 0)
    if had is None:
        return lines.select(ROW, USER, offered.alias("list"))
    # By a hash, however much a user has had; hardly any of it is offered.
    dropped = F.coalesce(F.array_intersect("items", "had"), F.array().cast("array<string>"))
    offered = F.filter(offered, lambda one: ~F.array_contains("dropped", one[ITEM]))
    joined = lines.join(had, USER, "left").withColumn("dropped", dropped)
    return joined.select(ROW, USER, offered.alias("list"))


def _table(lists: DataFrame, num_results: int) -> DataFrame:
    """ROW, user_id, rank, item_id, score."""
    best = F.posexplode(F.slice("list", 1, num_results))
    rows = lists.select(ROW, USER, best)
    return rows.select(ROW, USER, (F.col("pos") + 1).alias("rank"), f"col.{ITEM}", "col.score")


def _titled(table: DataFrame, titles: DataFrame | None) -> DataFrame:
    """With the titles, where there are any, before the score."""
    if titles is None:
        return table
    columns = [ROW, USER, "rank", ITEM, "title", "score"]
    return table.join(titles.select(ITEM, "title"), ITEM, "left").select(columns)


def _write(table: DataFrame, count: int, destination: str) -> None:
    parts = max(1, -(-count // PART_ROWS))
    spread = table.repartitionByRange(parts, ROW) if parts > 1 else table.repartition(1)
    ordered = spread.sortWithinPartitions(ROW, "rank").drop(ROW)
    ordered.write.mode("overwrite").parquet(destination, compression="zstd")


def _of_table(table: DataFrame, had: DataFrame | None, num_results: int) -> dict[str, int]:
    lists = table.groupBy(USER).agg(F.collect_list(ITEM).alias("list"))
    if had is not None:
        lists = lists.join(had, USER, "left")
    length = F.size("list")
    found = lists.agg(
        _sum(length).alias("rows"),
        F.count(F.lit(1)).alias("users"),
        F.count(F.when(length >= num_results, True)).alias("full"),
        _sum(length - F.size(F.array_distinct("list"))).alias("repeated"),
        _sum(F.lit(0) if had is None else _size(F.array_intersect("list", "had"))).alias("seen"),
    )
    return {**found.collect()[0].asDict(), "items": table.select(ITEM).distinct().count()}


def _size(array: Column) -> Column:
    """0 for null."""
    return F.greatest(F.size(array), F.lit(0))


def _sum(numbers: Column) -> Column:
    """0 of nothing."""
    return F.coalesce(F.sum(numbers), F.lit(0))
