"""Generated interactions of any size, shaped like MovieLens, from a seed and block by block.

The number of interactions per user is lognormal, and the popularity of items is Zipf-Mandelbrot.
Both distributions are fitted to MovieLens. Items belong to clusters of taste. The interactions of a
user come in sessions. A session draws from a single cluster, which is mostly the user's first and
sometimes the user's second, or from all items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

USERS_AT_ONCE = 10_000
CLUSTERS = 24
SHELVES = 400  # values of a column of the Items dataset
ACTIVITY_SPREAD = 1.0  # standard deviation of the logarithm
ZIPF, SHIFT = 1.05, 0.01  # exponent; shift as a share of the items
# Shares of sessions. The remaining sessions draw from all items.
FIRST_TASTE, SECOND_TASTE = 0.55, 0.25
SESSION = 12  # interactions, on average
SPARE = 1.8  # draws per interaction, because an item that is drawn twice counts once
BEGIN, YEARS = 1_500_000_000, 3


@dataclass(frozen=True)
class Size:
    """The numbers of users, items and, approximately, interactions."""

    rows: int
    users: int
    items: int


# The sizes by millions of interactions. From size to size, the number of users grows linearly with
# the interactions, and the number of items grows with their square root.
SIZES = {
    1: Size(1_000_000, 7_000, 6_000),
    3: Size(3_000_000, 21_000, 10_400),
    5: Size(5_000_000, 35_000, 13_500),
    10: Size(10_000_000, 70_000, 19_000),
    20: Size(20_000_000, 138_000, 27_000),
    30: Size(30_000_000, 220_000, 36_000),
    100: Size(100_000_000, 1_000_000, 100_000),
}


def generate_blocks(size: Size, seed: int = 0) -> Iterator[pl.DataFrame]:
    """Yield, per block of users, USER_ID and ITEM_ID (str) and TIMESTAMP (i64, epoch seconds)."""
    rng = np.random.default_rng(seed)
    weight = (np.arange(size.items) + 1 + SHIFT * size.items) ** -ZIPF
    cluster = rng.integers(0, CLUSTERS, size.items)
    items_by_cluster = np.argsort(cluster, kind="stable")
    # The clusters are stretches of this line. A draw from all items is a draw from the whole line.
    line = np.concatenate([[0], np.cumsum(weight[items_by_cluster])])
    edges = line[np.searchsorted(cluster[items_by_cluster], np.arange(CLUSTERS + 1))]
    activity = np.exp(ACTIVITY_SPREAD * rng.standard_normal(size.users))
    counts = np.maximum(3, activity * (size.rows / activity.sum())).astype(np.int64)
    counts = np.minimum(counts, size.items // 4)
    for first in range(0, size.users, USERS_AT_ONCE):
        counts_of_block = counts[first : first + USERS_AT_ONCE]
        draws = (counts_of_block * SPARE).astype(np.int64) + 1
        user = np.repeat(np.arange(len(counts_of_block)), draws)
        session = np.cumsum(rng.random(len(user)) < 1 / SESSION)
        session = np.unique(session * len(counts_of_block) + user, return_inverse=True)[1]
        sessions = session.max() + 1
        owner = np.empty(sessions, dtype=np.int64)
        owner[session] = user
        tastes = rng.integers(0, CLUSTERS, (2, len(counts_of_block)))[:, owner]
        chance = rng.random(sessions)
        taste = np.where(chance < FIRST_TASTE, tastes[0], tastes[1])
        is_any_item = chance >= FIRST_TASTE + SECOND_TASTE
        low = np.where(is_any_item, 0, edges[taste])[session]
        high = np.where(is_any_item, line[-1], edges[taste + 1])[session]
        place = np.searchsorted(line, low + rng.random(len(user)) * (high - low), side="right") - 1
        item = items_by_cluster[np.minimum(place, size.items - 1)]
        session_start = BEGIN + (rng.random(sessions) * YEARS * 365 * 86_400).astype(np.int64)
        moment = session_start[session] + rng.integers(0, 3_600, len(user))
        first_of_pair = np.sort(np.unique(user * size.items + item, return_index=True)[1])
        user, item, moment = user[first_of_pair], item[first_of_pair], moment[first_of_pair]
        items_per_user = np.bincount(user, minlength=len(counts_of_block))
        is_within_count = (
            np.arange(len(user)) - (np.cumsum(items_per_user) - items_per_user)[user]
            < counts_of_block[user]
        )
        yield pl.DataFrame(
            {
                "USER_ID": pl.Series(user[is_within_count] + first + 1).cast(pl.String),
                "ITEM_ID": pl.Series(item[is_within_count] + 1).cast(pl.String),
                "TIMESTAMP": moment[is_within_count],
            }
        )


def write_items_csv(path: Path, size: Size, seed: int = 0) -> None:
    """Write the Items dataset, with the cluster of taste and a random shelf of each item."""
    cluster = np.random.default_rng(seed).integers(
        0, CLUSTERS, size.items
    )  # as in `generate_blocks`
    shelf = np.random.default_rng([seed, 1]).integers(0, SHELVES, size.items)
    ids = pl.int_range(1, size.items + 1, eager=True)
    pl.DataFrame({"ITEM_ID": ids, "CLUSTER": cluster, "SHELF": shelf}).write_csv(path)


def write_csv(path: Path, size: Size, seed: int = 0) -> int:
    """Write the interactions as the CSV file of an import job, and return their number."""
    rows = 0
    with path.open("wb") as file:
        for block in generate_blocks(size, seed):
            block.write_csv(file, include_header=rows == 0)
            rows += len(block)
    return rows
