"""The rules that look at more than one row, on Spark: see `preparation.rules`."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation.polars.cells import ROW
from batchrec_dagster.preparation.polars.row_problems import SECONDS
from batchrec_dagster.preparation.rules import (
    BEFORE_WINDOW,
    DUPLICATE,
    FEW_OF_ITEM,
    FEW_OF_USER,
    NOT_LATEST,
    SECONDS_A_DAY,
    Rules,
)

# A column of numbers by which rows are kept or not.
_NUMBER = "number"


class SparkRowFilter:
    """Applies the rules across rows, one after the other in their order.

    output_columns: the columns of a row that are written, in which duplicates are equal.

    What a rule leaves is kept on the workers' disks, because it is counted and then read again.
    """

    def __init__(self, rules: Rules, output_columns: Sequence[str]) -> None:
        self.rules = rules
        self.output_columns = output_columns
        self.left_out: dict[str, int] = {}
        """How many rows were left out for each reason."""

    def apply(self, rows: DataFrame, count: int) -> tuple[DataFrame, int]:
        """The rows that are kept, and how many there are.

        count: how many rows are given.
        """
        rules = self.rules
        if rules.window_days is not None and count:
            newest = rows.agg(F.max(SECONDS)).collect()[0][0]
            in_window = rows.filter(F.col(SECONDS) >= newest - SECONDS_A_DAY * rules.window_days)
            rows, count = self._keep(rows, count, in_window, BEFORE_WINDOW)
        if rules.duplicates == "drop":
            first = _select_first_of_each(rows, self.output_columns, [F.col(ROW)])
            rows, count = self._keep(rows, count, first, DUPLICATE)
        if rules.latest_per_pair:
            order = [F.col(SECONDS).desc(), F.col(ROW).desc()]
            latest = _select_first_of_each(rows, ["user", "item"], order)
            rows, count = self._keep(rows, count, latest, NOT_LATEST)
        least_rows = {
            "user": (rules.min_interactions_per_user or 0, FEW_OF_USER),
            "item": (rules.min_interactions_per_item or 0, FEW_OF_ITEM),
        }
        # Leaving out users leaves items with fewer rows, and the other way round.
        count_before = -1
        while count_before != count:
            count_before = count
            for column, (least, reason) in least_rows.items():
                if least > 1:
                    frequent = _select_rows_of_frequent(rows, column, least)
                    rows, count = self._keep(rows, count, frequent, reason)
        return rows, count

    def _keep(
        self, rows: DataFrame, count: int, rows_kept: DataFrame, reason: str
    ) -> tuple[DataFrame, int]:
        """The rows that are kept, and how many there are; the others are counted as left out."""
        rows_kept = rows_kept.persist(StorageLevel.DISK_ONLY)
        kept_count = rows_kept.count()
        rows.unpersist()
        if count > kept_count:
            self.left_out[reason] = self.left_out.get(reason, 0) + count - kept_count
        return rows_kept, kept_count


def _select_first_of_each(
    rows: DataFrame, group_columns: Sequence[str], order: Sequence[Column]
) -> DataFrame:
    """The first row of each group, in this order."""
    number = F.row_number().over(Window.partitionBy(*group_columns).orderBy(*order))
    return rows.withColumn(_NUMBER, number).filter(F.col(_NUMBER) == 1).drop(_NUMBER)


def _select_rows_of_frequent(rows: DataFrame, column: str, least: int) -> DataFrame:
    """The rows of the users, or the items, that have at least this many."""
    row_count = F.count(F.lit(1)).over(Window.partitionBy(column))
    return rows.withColumn(_NUMBER, row_count).filter(F.col(_NUMBER) >= least).drop(_NUMBER)
