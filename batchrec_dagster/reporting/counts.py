"""What is counted over all interactions and all lists, in one pass over each."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.formats.interactions import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.tables import Tables


@dataclass(frozen=True)
class Counts:
    """users: user_id, interactions; items: item, interactions; first, last: of the interactions, in
    epoch seconds; served: ids of the users with a list, sorted; lists: item, lists that hold it;
    longest: items in the longest list."""

    users: pl.DataFrame
    items: pl.DataFrame
    first: int
    last: int
    served: pl.Series
    lists: pl.DataFrame
    longest: int


def counts(tables: Tables) -> Counts:
    """Count; large tables are read piece by piece."""
    had, shown = tables.interactions, tables.recommendations
    users, items, times, served, lists, longest = pl.collect_all(
        [
            had.group_by(user_id=USER_ID).agg(interactions=pl.len().cast(pl.Int64)),
            had.group_by(item=ITEM_ID).agg(interactions=pl.len().cast(pl.Int64)),
            had.select(first=pl.col(TIMESTAMP).min(), last=pl.col(TIMESTAMP).max()),
            shown.select(pl.col("user_id").unique()),
            shown.group_by(item="item_id").agg(lists=pl.len().cast(pl.Int64)),
            shown.select(pl.col("rank").max()),
        ],
        engine="streaming",
    )
    return Counts(
        users=users.sort("user_id"),
        items=items,
        first=times.item(0, "first"),
        last=times.item(0, "last"),
        served=served.to_series().sort(),
        lists=lists,
        longest=longest.item() or 0,
    )
