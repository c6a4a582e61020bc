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


@dataclass(frozen=True)
class ReportCounts:
    """Counts that several sections of the report share."""

    users: pl.DataFrame
    """user_id and interactions, in order of user."""
    items: pl.DataFrame
    """item and interactions."""
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
    row_count = pl.len().cast(pl.Int64)
    time = pl.col(TIMESTAMP)
    queries = {
        "times": interactions.select(interactions=row_count, first=time.min(), last=time.max()),
        "users": interactions.group_by(user_id=USER_ID).agg(interactions=row_count),
        "items": interactions.group_by(item=ITEM_ID).agg(interactions=row_count),
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
        data=_describe_data(
            results["times"],
            users=users.height,
            items=items.height,
            events={} if events is None else dict(events.iter_rows()),
            mean_value=None if mean_value is None else mean_value.item(),
        ),
        served=results["served"].to_series().sort(),
        lists=results["lists"],
        longest=results["longest"].item() or 0,
    )


def _describe_data(
    times: pl.DataFrame,
    *,
    users: int,
    items: int,
    events: Mapping[str, int],
    mean_value: float | None,
) -> DataFacts:
    """The facts about the interactions.

    times: a row with interactions, their number, and first and last, in epoch seconds.
    users: how many users there are.
    items: how many items there are.
    events: the number of interactions of each type; empty if there is no such column.
    """
    interactions, first, last = times.row(0)
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
