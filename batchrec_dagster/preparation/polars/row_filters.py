"""The rules that look at more than one row: window, duplicates, latest, minimum interactions.

Each rule reads a Parquet file and writes another one. Only a small part of the rows is in memory at
once: duplicates are sought among the rows of some users at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, SECONDS_A_DAY, TIMESTAMP, USER_ID
from batchrec_dagster.preparation.row_rules import (
    BEFORE_WINDOW,
    DUPLICATE,
    FEW_OF_ITEM,
    FEW_OF_USER,
    NOT_LATEST,
    RowRules,
)

# Duplicates are sought among about this many rows at a time, which take a few hundred megabytes.
PART_ROWS = 4_000_000
# The row's number in the order of the source, which the output keeps.
_ORDER = "order"
# A number above every possible number of rows.
_MOST_ROWS = 1 << 40


def has_rules_across_rows(rules: RowRules) -> bool:
    """Return whether any of the rules looks at more than one row."""
    return (
        rules.window_days is not None
        or rules.duplicates == "drop"
        or rules.latest_per_pair
        or bool(rules.min_interactions_per_user or rules.min_interactions_per_item)
    )


@dataclass
class RowFilter:
    """The rules across rows, which are applied one after the other in their order."""

    rules: RowRules

    folder: Path
    """The folder for intermediate files."""

    left_out: dict[str, int] = field(default_factory=dict)
    """The number of rows that were left out for each reason."""

    _files_written: int = 0

    def apply(self, interactions: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows that are kept, in the given order."""
        rules, rows = self.rules, self.folder / "kept 0.parquet"
        interactions.sink_parquet(rows, compression="lz4")
        if rules.window_days is not None:
            newest = pl.scan_parquet(rows).select(pl.col(TIMESTAMP).max()).collect().item()
            earliest = (newest or 0) - SECONDS_A_DAY * rules.window_days
            in_window = pl.scan_parquet(rows).filter(pl.col(TIMESTAMP) >= earliest)
            rows = self._keep(rows, in_window, BEFORE_WINDOW)
        if rules.duplicates == "drop":
            rows = self._keep_one_of_each(rows, DUPLICATE)
        if rules.latest_per_pair:
            rows = self._keep_one_of_each(rows, NOT_LATEST)
        least_rows = {
            USER_ID: (rules.min_interactions_per_user or 0, FEW_OF_USER),
            ITEM_ID: (rules.min_interactions_per_item or 0, FEW_OF_ITEM),
        }
        # Leaving out the rows of users leaves fewer rows of items, and the other way round.
        count_before = -1
        while count_before != sum(self.left_out.values()):
            count_before = sum(self.left_out.values())
            for column, (least, reason) in least_rows.items():
                if least > 1:
                    rows = self._keep_frequent(rows, column, least, reason)
        return pl.scan_parquet(rows)

    def _keep_frequent(self, rows: Path, column: str, least: int, reason: str) -> Path:
        """Keep the rows of the users, or the items, that have at least this many rows."""
        few = (
            pl.scan_parquet(rows)
            .group_by(column)
            .len()
            .filter(pl.col("len") < least)
            .select(column)
            .collect(engine="streaming")
        )
        if not few.height:
            return rows
        rows_kept = pl.scan_parquet(rows).join(
            few.lazy(), on=column, how="anti", maintain_order="left"
        )
        return self._keep(rows, rows_kept, reason)

    def _keep_one_of_each(self, rows: Path, reason: str) -> Path:
        """Keep the first row of each set of duplicates, or the latest row of each user and item.

        Users are divided into parts, so that only a single part's rows are in memory at a time.

        reason: DUPLICATE or NOT_LATEST, which selects the rule.
        """
        numbered = pl.scan_parquet(rows).with_row_index(_ORDER)
        count = _count_rows(rows)
        parts = max(1, -(-count // PART_ROWS))
        is_kept = pl.zeros(count, dtype=pl.Boolean, eager=True).to_numpy().copy()
        for part in range(parts):
            users = numbered.filter(pl.col(USER_ID).hash(seed=0) % parts == part)
            is_kept[_find_kept(users, reason).get_column(_ORDER).to_numpy()] = True
        mask = pl.LazyFrame({"keep": is_kept})
        rows_kept = pl.concat([pl.scan_parquet(rows), mask], how="horizontal").filter("keep")
        return self._keep(rows, rows_kept.drop("keep"), reason)

    def _keep(self, rows: Path, rows_kept: pl.LazyFrame, reason: str) -> Path:
        """Write the rows that are kept to a new file, which replaces `rows`, and return its path.

        The rows that are left out are counted under the reason.
        """
        self._files_written += 1
        target = self.folder / f"kept {self._files_written}.parquet"
        rows_kept.sink_parquet(target, compression="lz4")
        left_out = _count_rows(rows) - _count_rows(target)
        if left_out:
            self.left_out[reason] = self.left_out.get(reason, 0) + left_out
        rows.unlink()
        return target


def _find_kept(rows: pl.LazyFrame, reason: str) -> pl.DataFrame:
    """Return _ORDER of the rows that `_keep_one_of_each` keeps for this reason."""
    if reason == DUPLICATE:
        columns = [name for name in rows.collect_schema().names() if name != _ORDER]
        first = rows.group_by(columns).agg(pl.col(_ORDER).min())
        return first.select(_ORDER).collect(engine="streaming")
    # One number combines the time and the order. The largest number belongs to the row with the
    # latest time, and among rows with equal times to the last one.
    time_and_order = pl.col(TIMESTAMP).cast(pl.Int128) * _MOST_ROWS + pl.col(_ORDER)
    latest = rows.group_by(USER_ID, ITEM_ID).agg(time_and_order.max().alias(_ORDER))
    order = (pl.col(_ORDER) % _MOST_ROWS).cast(pl.Int64)
    return latest.select(order).collect(engine="streaming")


def _count_rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())
