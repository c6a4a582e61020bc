"""Says in the lists why each item is there, where the declaration asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import polars as pl

from batchrec_dagster.config import PublishedList
from batchrec_dagster.config.list_columns import REASON, REASONS
from batchrec_dagster.explanations.list_reasons import POPULAR, ListReasons
from batchrec_dagster.outcomes.arms import MODEL
from batchrec_dagster.storage.extras import require


class RowReasons:
    """Adds the columns reason and reason_item to the rows of lists, and counts the reasons.

    reasons: what the histories say.
    """

    def __init__(self, reasons: ListReasons) -> None:
        self._reasons = reasons
        self.counts: Counter[str] = Counter()
        """How many rows have each reason so far."""

    def start(self) -> None:
        """Count from the start, for a table that is made again."""
        self.counts.clear()

    def add(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with both columns. What its column reason says already, as of rules, stays.

        table: the columns user_id, item_id, score and, in an experiment, arm.
        """
        given = pl.col(REASON) if REASON in table.columns else pl.lit(None, pl.String)
        # Personalize adds popular items, without a score, where a filter leaves too few.
        is_popular = pl.col("score").is_null() & pl.col("score").is_not_null().any()
        if "arm" in table.columns:
            is_popular |= pl.col("arm") != MODEL
        popular = pl.when(is_popular).then(pl.lit(POPULAR))
        reasons = table.select(pl.coalesce(given, popular).alias(REASON)).to_series()
        explained = self._reasons.explain(table, reasons)
        for reason, count in explained.get_column(REASON).drop_nulls().value_counts().iter_rows():
            self.counts[reason] += count
        return table.with_columns(explained.get_columns())


def prepare_reasons(
    published: PublishedList, interactions: pl.LazyFrame, users: pl.Series
) -> RowReasons | None:
    """What says why items are on the lists of these users; None if the declaration does not ask.

    Raises UserError if the extra `report` is not installed.
    """
    declared = [name for name in published.columns if name in REASONS]
    if not declared:
        return None
    require("report", f"{published.setting}.columns: {', '.join(declared)}")
    return RowReasons(ListReasons(interactions, users))


def merge_pieces(pieces: Iterable[pl.DataFrame], least_results: int) -> Iterator[pl.DataFrame]:
    """The same lines in pieces with at least this many results, but for the last.

    pieces: lines with the column items.
    """
    parts: list[pl.DataFrame] = []
    results = 0
    for piece in pieces:
        parts.append(piece)
        results += piece.select(pl.col("items").list.len().sum()).item() or 0
        if results >= least_results:
            yield pl.concat(parts)
            parts, results = [], 0
    if parts:
        yield pl.concat(parts)
