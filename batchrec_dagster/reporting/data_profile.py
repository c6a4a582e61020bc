"""The data in numbers: interactions over time, how many each item has, what is known of items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID
from batchrec_dagster.reporting.report_counts import ReportCounts
from batchrec_dagster.reporting.run_tables import RunTables

# With more periods than this, the next longer ones are counted.
MOST_PERIODS = 36
# The first numbers of interactions of the groups of items. The last group has no upper end.
STEPS = (0, 1, 2, 5, 10, 100, 1_000, 10_000)
# More interactions than any item has.
NO_END = 2**62


@dataclass(frozen=True)
class DataProfile:
    """The data in numbers."""

    periods: list[tuple[str, int]]
    """The interactions of each day, month or year from the first to the last; empty without
    times."""
    items: list[tuple[str, int]]
    """The label of each group of items by number of interactions, and its size."""
    known: list[tuple[str, int]]
    """How many items of the catalogue have each declared attribute, by its name."""


def count_profile(tables: RunTables, counts: ReportCounts) -> DataProfile:
    """The profile of the data in these tables."""
    catalogue = _list_catalogue(tables, counts)
    interactions = (
        catalogue.join(counts.items, on="item", how="left").get_column("interactions").fill_null(0)
    )
    return DataProfile(
        periods=count_periods(counts.days) if counts.data.first else [],
        items=[
            (_make_label(low, high), int(interactions.is_between(low, high).sum()))
            for low, high in zip(STEPS, [*(step - 1 for step in STEPS[1:]), NO_END], strict=True)
        ],
        known=[*_count_known(tables, catalogue)],
    )


def count_periods(days: pl.DataFrame) -> list[tuple[str, int]]:
    """The interactions of each period, also of those that have none in between.

    days: the columns day, counted from 1970-01-01, and interactions.
    """
    epoch = date(1970, 1, 1)
    by_day = {
        epoch + timedelta(days=day): number
        for day, number in days.select("day", "interactions").iter_rows()
    }
    if not by_day:
        return []
    first, last = min(by_day), max(by_day)
    for labels in (_list_days, _list_months, _list_years):
        totals = dict.fromkeys(labels(first, last), 0)
        if len(totals) <= MOST_PERIODS:
            break
    length = len(next(iter(totals)))
    for day, number in by_day.items():
        totals[day.isoformat()[:length]] += number
    return [*totals.items()]


def _list_days(first: date, last: date) -> Iterator[str]:
    for number in range((last - first).days + 1):
        yield (first + timedelta(days=number)).isoformat()


def _list_months(first: date, last: date) -> Iterator[str]:
    for month in range(first.year * 12 + first.month - 1, last.year * 12 + last.month):
        yield f"{month // 12:04}-{month % 12 + 1:02}"


def _list_years(first: date, last: date) -> Iterator[str]:
    for year in range(first.year, last.year + 1):
        yield f"{year:04}"


def _list_catalogue(tables: RunTables, counts: ReportCounts) -> pl.DataFrame:
    """The ids of all items, in the column item: of the interactions, the lists and the items."""
    parts: Sequence[pl.DataFrame] = [
        counts.items.select("item"),
        counts.lists.select("item"),
        *([tables.items.select(item=ITEM_ID)] if tables.items is not None else []),
        *([tables.titles.select(item="item_id")] if tables.titles is not None else []),
    ]
    return pl.concat(parts).unique()


def _count_known(tables: RunTables, catalogue: pl.DataFrame) -> Iterator[tuple[str, int]]:
    """The name of each declared attribute, and how many items have it."""
    columns: list[tuple[str, pl.DataFrame]] = []
    if tables.titles is not None:
        names = [name for name in ("title", "image", "link") if name in tables.titles.columns]
        columns += [(name, tables.titles.select(item="item_id", value=name)) for name in names]
    if tables.items is not None:
        columns += [
            (name, tables.items.select(item=ITEM_ID, value=pl.col(name).cast(pl.String)))
            for name in tables.categories
        ]
    for name, values in columns:
        filled = values.filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
        yield name, catalogue.join(filled.select("item").unique(), on="item", how="semi").height


def _make_label(low: int, high: int) -> str:
    if high == NO_END:
        return f"{low:,}+"
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
