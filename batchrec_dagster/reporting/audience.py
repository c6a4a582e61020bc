"""Whom the lists serve: how much is known of each user who was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from batchrec_dagster.reporting.counts import Counts
from batchrec_dagster.reporting.tables import Tables

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
