"""What people ordered last, which lists about it are made of and explained by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, ORDER_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.conditions import SECONDS_A_DAY

# The metadata of an edition that was made of last orders, as `OrderSettings.to_json` writes them.
LAST_ORDER = "last_order"


@dataclass(frozen=True)
class OrderSettings:
    """What the last order of a person is."""

    events: list[str] | None
    """The types of events that are orders; None for all."""
    has_numbers: bool = False
    """Whether orders have numbers, in the column ORDER_ID of the interactions."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The settings that `to_json` wrote."""
        return cls(values["events"], values.get("has_numbers", False))

    def to_json(self) -> dict[str, Any]:
        return {"events": self.events, "has_numbers": self.has_numbers}

    @property
    def fingerprint_parts(self) -> list[Any]:
        """What fingerprints have of them. Earlier versions knew no numbers."""
        return [self.events, *(["has_numbers"] if self.has_numbers else [])]


def find_last_orders(
    interactions: pl.LazyFrame,
    users: pl.Series,
    settings: OrderSettings,
    until: int | None = None,
) -> pl.DataFrame:
    """What each of these users bought last: the columns user_id and item_id, by users.

    If the newest event that counts has the number of an order, it is what has the same number. If
    not, it is what they had within a day before that event, including it. Of several orders at
    the same second it is the one with the highest number. Users without such an event are left out.

    until: only what happened until then counts, in epoch seconds; None for all.
    """
    if until is not None:
        interactions = interactions.filter(pl.col(TIMESTAMP) <= until)
    if settings.events is not None:
        interactions = select_events(interactions, settings.events)
    columns = interactions.collect_schema()
    has_numbers = settings.has_numbers and ORDER_ID in columns
    # Rows without a number are read as null, and those of a quoted empty cell as an empty text.
    number = pl.col(ORDER_ID).replace("", None) if has_numbers else pl.lit(None, pl.String)
    interactions_of_users = interactions.filter(pl.col(USER_ID).is_in(users.implode())).select(
        USER_ID, ITEM_ID, TIMESTAMP, number=number
    )
    newest = interactions_of_users.group_by(USER_ID).agg(newest=pl.col(TIMESTAMP).max())
    rows = interactions_of_users.join(newest, on=USER_ID)
    # "10" is higher than "9".
    highest = pl.col("number").sort_by(pl.col("number").str.len_chars(), "number").last()
    last_numbers = (
        rows.filter(pl.col("number").is_not_null(), pl.col(TIMESTAMP) == pl.col("newest"))
        .group_by(USER_ID)
        .agg(last_number=highest)
    )
    is_recent = pl.col(TIMESTAMP) > pl.col("newest") - SECONDS_A_DAY
    is_in_order = (pl.col("number") == pl.col("last_number")).fill_null(value=False)
    return (
        rows.join(last_numbers, on=USER_ID, how="left")
        .filter(pl.when(pl.col("last_number").is_null()).then(is_recent).otherwise(is_in_order))
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
