"""The sums, over groups of users, of what they did in a period. Estimates need nothing else.

`steps/outcome_sums.py` computes them from the interactions.
"""

from __future__ import annotations

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
SUMS = (
    *("users", "active", "interactions", "new", "hits", "hit_users", "recall"),
    *("popular_hits", "popular_hit_users", "popular_recall"),
)
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
    **dict.fromkeys(SUMS, pl.Float64()),
}
