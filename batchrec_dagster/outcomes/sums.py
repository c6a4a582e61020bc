"""The sums, over groups of users, of what they did in a period. Estimates need nothing else.

`steps/outcome_sums.py` computes them from the interactions.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

# The columns that are sums over the users of a group:
# users: how many of them have a list, or are in the control arm.
# active: how many of them have a new interaction.
# interactions: their interactions in the period.
# new: their new interactions.
# hits: their new interactions with items on their list.
# hit_users: how many of them have a hit.
# recall: for each active user, hits divided by new interactions.
# popular_…: the same for popularity's lists.
# With events of success, all but `users` count these alone.
SUMS = (
    *("users", "active", "interactions", "new", "hits", "hit_users", "recall"),
    *("popular_hits", "popular_hit_users", "popular_recall"),
)
# The columns that are null unless there are events of success, and the interactions have an
# EVENT_VALUE.
# value: the sum of EVENT_VALUE over their interactions.
# hit_value: the same over those with the items of hits.
# popular_hit_value: the same for popularity's lists.
VALUES = ("value", "hit_value", "popular_hit_value")
SCHEMA: dict[str, pl.DataType] = {
    "edition": pl.Int64(),
    "name": pl.String(),
    "experiment": pl.String(),
    "since": pl.String(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "length": pl.Int64(),
    "arm": pl.String(),
    "group": pl.Int32(),
    # The types of events that count alone, as `format_events` has them; empty if all count.
    "success": pl.String(),
    **dict.fromkeys((*SUMS, *VALUES), pl.Float64()),
}


def format_events(events: Sequence[str]) -> str:
    """The types of events as one text, which is the same in any order and case."""
    return ", ".join(sorted(name.lower() for name in events))


def complete_sums(sums: pl.DataFrame) -> pl.DataFrame:
    """The sums with all columns of SCHEMA. Those of VALUES are null if they are missing."""
    missing = [pl.lit(None).alias(name) for name in VALUES if name not in sums.columns]
    return sums.with_columns(missing).select(
        pl.col(column).cast(kind) for column, kind in SCHEMA.items()
    )
