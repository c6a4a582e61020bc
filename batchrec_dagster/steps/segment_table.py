"""Every segment's users, from the lines of a batch segment job to one table, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from batchrec_dagster.steps.checks import (
    Checked,
    every_segment_answered,
    no_duplicates,
    no_failed_lines,
)
from batchrec_dagster.steps.items import with_titles


class SegmentTable:
    """Makes the table, and counts what its checks ask for.

    The table has each user of each line as a row of segment, rank and user_id, in the lines' order.
    titles: item_id, title; None: the table has no titles.
    """

    def __init__(self, titles: pl.DataFrame | None = None) -> None:
        self.titles = titles
        self.rows = 0
        self.users = pl.Series(dtype=pl.String)
        # segment, len: how many users each has, in order; the empty ones are not there.
        self.sizes = pl.DataFrame()
        self.sample = pl.DataFrame()
        self._answered: list[pl.DataFrame] = []
        self._failed = self._repeated = 0
        self._first_failure: tuple[str, str] | None = None

    def write(self, pieces: Iterable[pl.DataFrame], path: Path) -> None:
        """Write the table as Parquet. pieces: at least one, as `formats.batch_segment` reads
        them."""
        writer: pq.ParquetWriter | None = None
        try:
            for lines in pieces:
                table = self.add(lines).to_arrow(compat_level=pl.CompatLevel.oldest())
                if writer is None:
                    writer = pq.ParquetWriter(path, table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()

    def add(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines. lines: item_id or item_attributes, users (best first), error."""
        lines = lines.select("users", "error", segment=pl.coalesce("item_id", "item_attributes"))
        self._answered.append(lines.select("segment"))
        failed = lines.filter(pl.col("error").is_not_null())
        if failed.height and self._first_failure is None:
            self._first_failure = failed.select("segment", "error").row(0)
        self._failed += failed.height
        table = (
            lines.filter(pl.col("users").list.len() > 0)
            .select("segment", user_id="users")
            .explode("user_id")
            .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("segment"))
            .select("segment", "rank", "user_id")
        )
        self._count(table)
        table = with_titles(table, self.titles, of="segment")
        self.sample = (
            pl.concat([self.sample, table.head(5)]).head(5) if self.rows else table.head(5)
        )
        self.rows += table.height
        return table

    def checks(self, queries: Sequence[str], setting: str) -> list[Checked]:
        """What was found; queries: what was asked for, by which setting."""
        answered = pl.concat(self._answered)
        return [
            every_segment_answered(queries, answered.get_column("segment")),
            no_failed_lines(
                self._failed, answered.height, self._first_failure, "segment", f"; fix {setting}"
            ),
            no_duplicates(self._repeated, "user"),
        ]

    def _count(self, table: pl.DataFrame) -> None:
        sizes = table.group_by("segment", maintain_order=True).agg(
            pl.len(), pl.col("user_id").n_unique().alias("users")
        )
        self._repeated += table.height - int(sizes.get_column("users").sum())
        sizes = sizes.select("segment", "len")
        self.sizes = pl.concat([self.sizes, sizes]) if self.rows else sizes
        self.users = pl.concat([self.users, table.get_column("user_id")]).unique()
