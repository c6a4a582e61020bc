"""Counts over a run's tables that several sections of the report share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.preparation.layout import CONSTANT_TIME
from batchrec_dagster.reporting.drift import DataFacts
from batchrec_dagster.reporting.run_tables import RunTables

# What people chose lately is what they chose in this many days before the newest interaction.
RECENT_DAYS = 30
DAY = 86_400


@dataclass(frozen=True)
class ReportCounts:
    """Counts that several sections of the report share."""

    users: pl.DataFrame
    """user_id and interactions, in order of user."""
    items: pl.DataFrame
    """item, interactions, first, the time of its first one in epoch seconds, recent, how many it
    has of the last RECENT_DAYS days of the data, and recent_time, the mean time of these."""
    days: pl.DataFrame
    """day, counted from 1970-01-01, and interactions."""
    data: DataFacts
    served: pl.Series
    """The ids of the users with a list, sorted."""
    lists: pl.DataFrame
    """item and lists, the number of lists that contain it."""
    longest: int
    """The number of items in the longest list."""
    newest: int
    """The time of the newest interaction, in epoch seconds."""


def count_tables(tables: RunTables) -> ReportCounts:
    """The counts, in one streaming pass over each table."""
    interactions = tables.interactions
    recommendations = tables.recommendations
    columns = interactions.collect_schema().names()
    row_count = pl.len().cast(pl.Int64)
    day = pl.col(TIMESTAMP) // DAY
    # The days come first, because the newest time is in them. All else is one pass.
    days = (
        interactions.group_by(day=day)
        .agg(interactions=row_count, first=pl.col(TIMESTAMP).min(), last=pl.col(TIMESTAMP).max())
        .collect(engine="streaming")
    )
    newest = days.select(pl.col("last").max()).item() or 0
    time = pl.col(TIMESTAMP)
    is_recent = time > newest - RECENT_DAYS * DAY
    queries = {
        "users": interactions.group_by(user_id=USER_ID).agg(interactions=row_count),
        "items": interactions.group_by(item=ITEM_ID).agg(
            interactions=row_count,
            first=time.min(),
            recent=is_recent.sum().cast(pl.Int64),
            recent_time=time.filter(is_recent).mean(),
        ),
        # Each user has one item of rank 1.
        "served": recommendations.filter(pl.col("rank") == 1).select("user_id"),
        "lists": recommendations.group_by(item="item_id").agg(lists=row_count),
        "longest": recommendations.select(pl.col("rank").max()),
    }
    if EVENT_TYPE in columns:
        queries["events"] = interactions.group_by(event=EVENT_TYPE).agg(interactions=row_count)
    if EVENT_VALUE in columns:
        queries["mean_value"] = interactions.select(pl.col(EVENT_VALUE).mean())
    tables_counted = pl.collect_all(list(queries.values()), engine="streaming")
    results = dict(zip(queries, tables_counted, strict=True))
    users, items = results["users"], results["items"]
    events, mean_value = results.get("events"), results.get("mean_value")
    return ReportCounts(
        users=users.sort("user_id"),
        items=items,
        days=days.select("day", "interactions"),
        data=_describe_data(
            days,
            users=users.height,
            items=items.height,
            events={} if events is None else dict(events.iter_rows()),
            mean_value=None if mean_value is None else mean_value.item(),
        ),
        served=results["served"].to_series().sort(),
        lists=results["lists"],
        longest=results["longest"].item() or 0,
        newest=newest,
    )


def _describe_data(
    days: pl.DataFrame,
    *,
    users: int,
    items: int,
    events: Mapping[str, int],
    mean_value: float | None,
) -> DataFacts:
    """The facts about the interactions.

    days: the columns interactions, first and last (epoch seconds), with a row for each day.
    users: how many users there are.
    items: how many items there are.
    events: the number of interactions of each type; empty if there is no such column.
    """
    interactions, first, last = days.select(
        pl.col("interactions").sum(), pl.col("first").min(), pl.col("last").max()
    ).row(0)
    return DataFacts(
        interactions=interactions,
        users=users,
        items=items,
        first="" if first == last == CONSTANT_TIME else _format_day(first),
        last=_format_day(last),
        events={str(event): number / interactions for event, number in sorted(events.items())},
        mean_value=mean_value,
    )


def _format_day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
