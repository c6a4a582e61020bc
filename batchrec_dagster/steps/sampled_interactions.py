"""The interactions as numbers, of a part of the users if there are many."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.pairs import Mask, find_positions

# Of more interactions than this, only those of a part of the users count.
MOST_ROWS = 2_000_000


@dataclass(frozen=True)
class SampledInteractions:
    """Interactions of all users, or of a fixed part of them."""

    rows: pl.DataFrame
    """The columns user and item, which are numbers in the order of the ids, time, in epoch seconds,
    weight, which is 0 for events that do not count, and is_target, whether it is an event that
    counts as success."""
    user_ids: pl.Series
    items: int
    """How many items there are."""


def sample_interactions(
    interactions: pl.LazyFrame,
    weights: Mapping[str, float],
    most_rows: int = MOST_ROWS,
    targets: Collection[str] = (),
) -> SampledInteractions:
    """The interactions of all users, or of every n-th by a hash of the id if there are many.

    weights: as of `weigh_events`.
    most_rows: how many interactions it has at most, roughly.
    targets: the types of events that count as success, in lower case; none if all do.
    """
    size, users, items = pl.collect_all(
        [
            interactions.select(pl.len()),
            interactions.select(pl.col(USER_ID).unique()),
            interactions.select(pl.col(ITEM_ID).unique()),
        ],
        engine="streaming",
    )
    user_ids = users.to_series().sort()
    parts = -(-size.item() // most_rows)
    if parts > 1:
        user_ids = user_ids.filter(choose_users(user_ids, parts, "sample"))
    item_ids = items.to_series().sort()
    rows = (
        interactions.select(
            user=find_positions(USER_ID, user_ids),
            item=find_positions(ITEM_ID, item_ids),
            time=pl.col(TIMESTAMP),
            weight=weigh_events(interactions, weights),
            is_target=weigh_events(interactions, dict.fromkeys(targets, 1.0)) > 0,
        )
        .drop_nulls("user")
        .cast({"user": pl.UInt32, "item": pl.UInt32})
        .collect(engine="streaming")
    )
    return SampledInteractions(rows, user_ids, len(item_ids))


def choose_users(user_ids: pl.Series, parts: int, salt: str) -> pl.Series:
    """Whether each user is among about one in `parts`, by a hash of nothing but the id.

    salt: another one chooses other users.
    """
    chosen: Mask = np.fromiter(
        (crc32(f"{salt}\0{user}".encode()) % parts == 0 for user in user_ids), bool, len(user_ids)
    )
    return pl.Series(chosen)


def weigh_events(interactions: pl.LazyFrame, weights: Mapping[str, float]) -> pl.Expr:
    """The weight of each interaction, 0 for events that do not count.

    weights: those of the types of events, by their names in lower case; empty if all count alike.
    """
    if not weights:
        return pl.lit(1.0)
    if EVENT_TYPE not in interactions.collect_schema():
        return pl.lit(0.0)
    return (
        pl.col(EVENT_TYPE)
        .str.to_lowercase()
        .replace_strict(dict(weights), default=0.0, return_dtype=pl.Float64)
        .fill_null(0.0)
    )
