"""Whom the lists serve: how much is known of each user who was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from batchrec_dagster.personalize.datasets import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.published import Tables


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


# Lower ends of the groups by interactions; the last is open.
STEPS = (0, 1, 5, 10, 20, 50, 100, 200, 500)
# Below this a recommender has little to go by.
FEW = 5


@dataclass(frozen=True)
class Audience:
    """Numbers of users, by what they were asked, given and known for.

    asked: who should get a list; served: who got one; of those asked, cold: without an interaction,
    few: with one to four, median: interactions of the median user, lengths: users by how many
    interactions they have, as (label, users).
    """

    asked: int
    served: int
    cold: int
    few: int
    median: float
    lengths: list[tuple[str, int]]


def audience(tables: Tables, counts: Counts) -> Audience:
    """Counts of the users who were asked for."""
    lengths = (
        tables.users.select(user_id=pl.col("userId").unique())
        .collect(engine="streaming")
        .join(counts.users, on="user_id", how="left")
        .get_column("interactions")
        .fill_null(0)
    )
    return Audience(
        asked=lengths.len(),
        served=counts.served.len(),
        cold=int((lengths == 0).sum()),
        few=int(lengths.is_between(1, FEW - 1).sum()),
        median=float(lengths.median() or 0),  # type: ignore[arg-type]
        lengths=[
            (_label(low, high), int(lengths.is_between(low, high - 1).sum()))
            for low, high in pairwise((*STEPS, 2**62))
        ],
    )


def _label(low: int, high: int) -> str:
    if high > STEPS[-1]:
        return f"{low}+"
    return str(low) if high == low + 1 else f"{low}-{high - 1}"
