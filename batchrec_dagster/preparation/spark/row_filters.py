"""The rules that look at more than one row: window, duplicates, latest, minimum interactions."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation.rules import (
    BEFORE_WINDOW,
    DUPLICATE,
    FEW_OF_ITEM,
    FEW_OF_USER,
    NOT_LATEST,
    Rules,
)
from batchrec_dagster.preparation.spark.lines import ROW
from batchrec_dagster.preparation.spark.rows import SECONDS

DAY = 86_400
_PLACE = "place"


class Keeping:
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
