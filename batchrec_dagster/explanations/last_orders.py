"""What people ordered last, which lists about it are made of and explained by."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.conditions import SECONDS_A_DAY

# The metadata of an edition that was made of last orders: the types of events that are orders.
LAST_ORDER = "last_order"


def find_last_orders(
    interactions: pl.LazyFrame, users: pl.Series, events: list[str] | None
) -> pl.DataFrame:
    """What each of these users bought last: the columns user_id and item_id, by users.

    It is what they had within a day before their newest event that counts, that included. Users
    without one are left out.

    events: the types of events that are orders; None for all.
    """
    if events is not None:
        interactions = select_events(interactions, events)
    newest = interactions.group_by(USER_ID).agg(newest=pl.col(TIMESTAMP).max())
    return (
        interactions.filter(pl.col(USER_ID).is_in(users.implode()))
        .join(newest, on=USER_ID)
        .filter(pl.col(TIMESTAMP) > pl.col("newest") - SECONDS_A_DAY)
        .select(user_id=USER_ID, item_id=ITEM_ID)
        .unique()
        .collect(engine="streaming")
        .sort("user_id", "item_id")
    )


def select_events(interactions: pl.LazyFrame, events: Sequence[str]) -> pl.LazyFrame:
    """The interactions of these types, in any case; none if they have no types."""
    if EVENT_TYPE not in interactions.collect_schema():
        return interactions.clear()
    names = [event.lower() for event in events]
    return interactions.filter(pl.col(EVENT_TYPE).str.to_lowercase().is_in(names))
