"""Counts over a run's tables that several sections of the report share."""

from __future__ import annotations

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


@dataclass(frozen=True)
class ReportCounts:
    """Counts that several sections of the report share."""

    users: pl.DataFrame
    """user_id and interactions, in order of user."""
    items: pl.DataFrame
    """item and interactions."""
    days: pl.DataFrame
    """day, counted from 1970-01-01, and interactions."""
    data: DataFacts
    served: pl.Series
    """The ids of the users with a list, sorted."""
    lists: pl.DataFrame
    """item and lists, the number of lists that contain it."""
    longest: int
    """The number of items in the longest list."""


def count_tables(tables: RunTables) -> ReportCounts:
    """The counts, in one streaming pass over each table."""
    interactions = tables.interactions
    recommendations = tables.recommendations
    columns = interactions.collect_schema().names()
    has_event_types = EVENT_TYPE in columns
    has_event_values = EVENT_VALUE in columns
    row_count = pl.len().cast(pl.Int64)
    event_type = EVENT_TYPE if has_event_types else pl.lit(None)
    queries = {
        "users": interactions.group_by(user_id=USER_ID).agg(interactions=row_count),
        "items": interactions.group_by(item=ITEM_ID).agg(interactions=row_count),
        "totals": interactions.select(
            pl.len().alias("interactions"),
            first=pl.col(TIMESTAMP).min(),
            last=pl.col(TIMESTAMP).max(),
            mean_value=pl.col(EVENT_VALUE).mean() if has_event_values else None,
        ),
        "days": interactions.group_by(day=pl.col(TIMESTAMP) // 86_400).agg(interactions=row_count),
        "events": interactions.group_by(event=event_type).agg(interactions=row_count),
        "served": recommendations.select(pl.col("user_id").unique()),
        "lists": recommendations.group_by(item="item_id").agg(lists=row_count),
        "longest": recommendations.select(pl.col("rank").max()),
    }
    tables_counted = pl.collect_all(list(queries.values()), engine="streaming")
    results = dict(zip(queries, tables_counted, strict=True))
    users, items, events = results["users"], results["items"], results["events"]
    return ReportCounts(
        users=users.sort("user_id"),
        items=items,
        days=results["days"],
        data=_describe_data(
            results["totals"],
            users.height,
            items.height,
            events if has_event_types else events.clear(),
        ),
        served=results["served"].to_series().sort(),
        lists=results["lists"],
        longest=results["longest"].item() or 0,
    )


def _describe_data(totals: pl.DataFrame, users: int, items: int, events: pl.DataFrame) -> DataFacts:
    """The facts about the interactions.

    totals: one row of interactions, first and last (epoch seconds) and mean_value.
    users: how many users there are.
    items: how many items there are.
    events: the columns event and interactions.
    """
    interactions, first, last = totals.row(0)[:3]
    return DataFacts(
        interactions=interactions,
        users=users,
        items=items,
        first="" if first == last == CONSTANT_TIME else _format_day(first),
        last=_format_day(last),
        events={str(event): number / interactions for event, number in sorted(events.iter_rows())},
        mean_value=totals.item(0, "mean_value"),
    )


def _format_day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
