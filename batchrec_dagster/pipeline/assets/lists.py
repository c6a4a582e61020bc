"""Every user's list, from the lines of a batch inference to one table, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from batchrec_dagster.pipeline.assets.items import with_titles
from batchrec_dagster.pipeline.assets.seen_items import SeenItems
from batchrec_dagster.pipeline.checks import (
    Checked,
    every_user_has_a_line,
    lines_failed,
    lists_full,
    none_seen,
    repeated,
)
from batchrec_dagster.table_files import TableFiles


class Lists:
    """Makes the table, and counts what its checks ask for.

    The table has the best `num_results` items of each line as rows of user_id, rank, item_id and
    score, users in the lines' order. Items that a user has seen are dropped; `seen` None drops
    none. titles: item_id, title; None: the table has no titles.
    """

    def __init__(
        self,
        num_results: int,
        seen: SeenItems | None = None,
        titles: pl.DataFrame | None = None,
    ) -> None:
        self.num_results, self.seen, self.titles = num_results, seen, titles
        self.rows = self.users = self.dropped = 0
        self.items = pl.Series(dtype=pl.String)
        self.sample = pl.DataFrame()
        self._answered: list[pl.Series] = []
        self._failed = self._repeated = self._seen = self._full = 0
        self._first_failure: tuple[str, str] | None = None

    def write(self, pieces: Iterable[pl.DataFrame], files: TableFiles) -> None:
        """Write the table's rows. pieces: at least one, as `formats.batch_inference` reads them."""
        for lines in pieces:
            files.write(self.add(lines).to_arrow(compat_level=pl.CompatLevel.oldest()))

    def add(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines. lines: user_id, items and scores (best first), error."""
        self._answered.append(lines.get_column("user_id"))
        failed = lines.filter(pl.col("error").is_not_null())
        if failed.height and self._first_failure is None:
            self._first_failure = failed.select("user_id", "error").row(0)
        self._failed += failed.height
        table = with_titles(self._table(lines), self.titles)
        self._count(table)
        return table

    def checks(self, users: pl.Series, *, filtered: bool) -> list[Checked]:
        """What was found; users: who was asked for, filtered: whether by a filter of one's own."""
        answered = pl.concat(self._answered)
        return [
            every_user_has_a_line(users, answered),
            lines_failed(self._failed, len(answered), self._first_failure),
            repeated(self._repeated),
            *([] if self.seen is None else [none_seen(self._seen)]),
            lists_full(self._full, len(users), self.num_results, filtered=filtered),
        ]

    def _table(self, lines: pl.DataFrame) -> pl.DataFrame:
        # Popularity-Count gives no scores: a list of nulls as long as the items stands in for them.
        scores = pl.coalesce("scores", pl.col("items").list.eval(pl.lit(None, dtype=pl.Float64)))
        offered = (
            lines.filter(pl.col("items").list.len() > 0)
            .select("user_id", item_id="items", score=scores)
            .explode("item_id", "score")
        )
        kept = offered if self.seen is None else offered.filter(~self.seen.among(offered))
        self.dropped += offered.height - kept.height
        return (
            kept.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
            .filter(pl.col("rank") <= self.num_results)
            .select("user_id", "rank", "item_id", "score")
        )

    def _count(self, table: pl.DataFrame) -> None:
        first = table.head(5)
        self.sample = first if not self.rows else pl.concat([self.sample, first]).head(5)
        lengths = table.group_by("user_id").agg(
            pl.len(), pl.col("item_id").n_unique().alias("items")
        )
        self.rows += table.height
        self.users += lengths.height
        self.items = pl.concat([self.items, table.get_column("item_id").unique()]).unique()
        self._full += lengths.filter(pl.col("len") >= self.num_results).height
        self._repeated += table.height - int(lengths.get_column("items").sum())
        if self.seen is not None:
            self._seen += int(self.seen.among(table).sum())
