"""The assignment of candidates to the ranks of lists."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.steps.lists.max_per import find_refused


@dataclass(frozen=True)
class Ranks:
    """The ranks of every list. Candidates take the ranks in order."""

    num_results: int
    """The number of ranks of a list."""
    limits: pl.DataFrame | None = None
    """The limits of the rule max_per, as `max_per.read_limits` returns them; None without the
    rule."""

    def choose(
        self, candidates: pl.DataFrame, pinned: pl.DataFrame, lists: pl.DataFrame
    ) -> tuple[pl.DataFrame, int]:
        """Choose the first candidates that fit on each list.

        Also return the number of candidates that max_per refused while the list had a free rank.

        candidates: the columns list and item, in order. Further columns are kept.
        pinned: the pinned items: the columns list and item.
        lists: all lists, in the order of the column list, which counts from 0.
        """
        if pinned.height:
            candidates = candidates.join(pinned, on=["list", "item"], how="anti")
        is_refused = pl.Series([False]).new_from_index(0, candidates.height)
        if self.limits is not None:
            is_refused = find_refused(candidates, pinned, self.limits)
        free = self._count_free(pinned, lists)
        rows = candidates.with_columns(fits=~is_refused, free=free.gather(candidates["list"]))
        taken = pl.col("fits").cast(pl.Int64).cum_sum().over("list")
        rows = rows.with_columns(taken=taken)
        refused = rows.select((~pl.col("fits") & (pl.col("taken") < pl.col("free"))).sum())
        chosen = rows.filter(pl.col("fits") & (pl.col("taken") <= pl.col("free")))
        return chosen.select(candidates.columns), int(refused.item())

    def find_short(
        self, chosen: pl.DataFrame, pinned: pl.DataFrame, lists: pl.DataFrame
    ) -> pl.DataFrame:
        """Return the lists that have free ranks: the column list."""
        rows = pl.concat([chosen.select("list"), pinned.select("list")])
        return lists.select("list").filter(self._count_free(rows, lists) > 0)

    def _count_free(self, rows: pl.DataFrame, lists: pl.DataFrame) -> pl.Series:
        """Return how many ranks of each list these rows leave free, by the number of the list."""
        counts = rows.group_by("list").agg(items=pl.len().cast(pl.Int64))
        counted = lists.join(counts, on="list", how="left", maintain_order="left")
        return self.num_results - counted["items"].fill_null(0)


def rank_rows(chosen: pl.DataFrame, pinned: pl.DataFrame) -> pl.DataFrame:
    """Put the pinned items at their ranks, and return the rows of all lists in order.

    The columns are the columns of `chosen` and the rank. In the row of a pinned item, all columns
    but list, item and rank are null. If a list is too short for a pinned item's rank, the item
    comes last.

    chosen: the chosen candidates: the columns list, item, index and is_popular, in order.
    pinned: the pinned items: the columns list, item and rank.
    """
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("list")
    rows = chosen.with_columns(rank=rank)
    for pinned_rank in pinned["rank"].unique().sort():
        lists = pinned.filter(rank=pinned_rank)["list"]
        is_behind = pl.col("list").is_in(lists.implode()) & (pl.col("rank") >= pinned_rank)
        rows = rows.with_columns(rank=pl.col("rank") + is_behind.cast(pl.Int64))
    rows = pl.concat([rows, pinned], how="diagonal").sort("list", "rank")
    return rows.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("list"))
