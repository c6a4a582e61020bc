"""The rules that look at more than one row: window, duplicates, latest, minimum interactions.

Works from Parquet file to Parquet file. What has to be known of all rows at once is kept small:
duplicates are looked for in one part of the users at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.preparation.rules import (
    BEFORE_WINDOW,
    DUPLICATE,
    FEW_OF_ITEM,
    FEW_OF_USER,
    NOT_LATEST,
    Rules,
)

DAY = 86_400
# Rows of the users that are looked at together: some hundred megabytes.
PART_ROWS = 4_000_000
# The order of the source, so that it can be kept.
_ORDER = "order"
_PLACES = 1 << 40


def has_rules_across_rows(rules: Rules) -> bool:
    """Whether there is anything to do here."""
    return (
        rules.window_days is not None
        or rules.duplicates == "drop"
        or rules.latest_per_pair
        or bool(rules.min_interactions_per_user or rules.min_interactions_per_item)
    )


@dataclass
class RowFilter:
    """Applies the rules to the rows of a Parquet file, in their order, one after the other.

    `folder` takes what is written meanwhile. `left_out` counts rows by reason.
    """

    rules: Rules
    folder: Path

    def __post_init__(self) -> None:
        self.left_out: dict[str, int] = {}
        self._written = 0

    def apply(self, interactions: pl.LazyFrame) -> pl.LazyFrame:
        """The rows that are kept, in the order they came in."""
        rules, rows = self.rules, self.folder / "kept 0.parquet"
        interactions.sink_parquet(rows, compression="lz4")
        if rules.window_days is not None:
            newest = pl.scan_parquet(rows).select(pl.col(TIMESTAMP).max()).collect().item()
            earliest = (newest or 0) - DAY * rules.window_days
            inside = pl.scan_parquet(rows).filter(pl.col(TIMESTAMP) >= earliest)
            rows = self._step(rows, inside, BEFORE_WINDOW)
        if rules.duplicates == "drop":
            rows = self._by_part(rows, DUPLICATE)
        if rules.latest_per_pair:
            rows = self._by_part(rows, NOT_LATEST)
        least = {
            USER_ID: (rules.min_interactions_per_user or 0, FEW_OF_USER),
            ITEM_ID: (rules.min_interactions_per_item or 0, FEW_OF_ITEM),
        }
        before = -1
        while before != (before := sum(self.left_out.values())):
            for column, (count, reason) in least.items():
                if count > 1:
                    rows = self._enough(rows, column, count, reason)
        return pl.scan_parquet(rows)

    def _enough(self, rows: Path, column: str, least: int, reason: str) -> Path:
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
        kept = pl.scan_parquet(rows).join(few.lazy(), on=column, how="anti", maintain_order="left")
        return self._step(rows, kept, reason)

    def _by_part(self, rows: Path, reason: str) -> Path:
        """Leave out what repeats an earlier row, or is not the latest, of its user: users are
        dealt into parts, so that one part is in memory at a time."""
        numbered = pl.scan_parquet(rows).with_row_index(_ORDER)
        count = _rows(rows)
        parts = max(1, -(-count // PART_ROWS))
        keep = pl.zeros(count, dtype=pl.Boolean, eager=True).to_numpy().copy()
        for part in range(parts):
            users = numbered.filter(pl.col(USER_ID).hash(seed=0) % parts == part)
            keep[_stays(users, reason).get_column(_ORDER).to_numpy()] = True
        mask = pl.LazyFrame({"keep": keep})
        kept = pl.concat([pl.scan_parquet(rows), mask], how="horizontal").filter("keep")
        return self._step(rows, kept.drop("keep"), reason)

    def _step(self, rows: Path, kept: pl.LazyFrame, reason: str) -> Path:
        self._written += 1
        target = self.folder / f"kept {self._written}.parquet"
        kept.sink_parquet(target, compression="lz4")
        left_out = _rows(rows) - _rows(target)
        if left_out:
            self.left_out[reason] = self.left_out.get(reason, 0) + left_out
        rows.unlink()
        return target


def _stays(rows: pl.LazyFrame, reason: str) -> pl.DataFrame:
    """The order of the rows that are no duplicates, or the latest of their user and item."""
    if reason == DUPLICATE:
        columns = [name for name in rows.collect_schema().names() if name != _ORDER]
        first = rows.group_by(columns).agg(pl.col(_ORDER).min())
        return first.select(_ORDER).collect(engine="streaming")
    # Time and place in one number, so that the largest is the last of the latest.
    moment = pl.col(TIMESTAMP).cast(pl.Int128) * _PLACES + pl.col(_ORDER)
    latest = rows.group_by(USER_ID, ITEM_ID).agg(moment.max().alias(_ORDER))
    place = (pl.col(_ORDER) % _PLACES).cast(pl.Int64)
    return latest.select(place).collect(engine="streaming")


def _rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())
