"""How new recommended items are, compared with the catalogue and with what people chose lately."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP, ITEM_ID
from batchrec_dagster.reporting.novelty import find_weighted_median
from batchrec_dagster.reporting.report_counts import ReportCounts
from batchrec_dagster.reporting.run_tables import RunTables

DAY = 86_400
# The groups of ages, each with the number of days at which it ends. The last has no end.
AGES = {
    "0-30 days": 30.0,
    "31-90 days": 90.0,
    "91-365 days": 365.0,
    "1-3 years": 1096.0,
    "3-10 years": 3653.0,
    "Over 10 years": np.inf,
}
# Times further from 1970 than this many seconds are not meant: they may be milliseconds.
LATEST_TIME = 10**11

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AgeGroups:
    """The ages of some items, each with a weight."""

    median: float
    """Half of the weight is on items of this age in days, or newer."""
    shares: list[float]
    """The share of each group of AGES."""


@dataclass(frozen=True)
class ItemAges:
    """How old items are, in days."""

    is_declared: bool
    """Whether ages count from the items' declared time of creation; else from their first
    interaction in the data."""
    items_with_age: int
    """How many items of the catalogue have an age."""
    lists: AgeGroups
    """At the end of the data, of the recommendations."""
    catalogue: AgeGroups
    """At the end of the data, of all items once each."""
    recent: AgeGroups | None
    """Of the interactions of the last RECENT_DAYS days, at the mean time of those with the same
    item; None without any."""


def measure_ages(tables: RunTables, counts: ReportCounts) -> ItemAges | None:
    """How old the items are; None without times, or if no recommended item has an age."""
    if not counts.data.first:
        return None
    created = _read_creation_times(tables)
    is_declared = created is not None
    if created is None:
        created = counts.items.select("item", created="first")
    chosen = counts.items.select("item", "recent", "recent_time")
    items = (
        created.join(counts.lists, on="item", how="left")
        .join(chosen, on="item", how="left")
        .with_columns(
            pl.col("lists", "recent").fill_null(0),
            age=_measure_days(pl.lit(counts.newest)),
            age_when_chosen=_measure_days(pl.col("recent_time")),
        )
    )
    recent = items.filter(pl.col("recent") > 0).select("recent", age="age_when_chosen")
    of_lists = _group_ages(items, "lists")
    of_catalogue = _group_ages(items.with_columns(weight=pl.lit(1)), "weight")
    if of_lists is None or of_catalogue is None:
        return None
    return ItemAges(
        is_declared=is_declared,
        items_with_age=items.height,
        lists=of_lists,
        catalogue=of_catalogue,
        recent=_group_ages(recent, "recent"),
    )


def _read_creation_times(tables: RunTables) -> pl.DataFrame | None:
    """The columns item and created, in epoch seconds; None if no item has a time."""
    if tables.items is None or CREATION_TIMESTAMP not in tables.items.columns:
        return None
    created = (
        tables.items.select(
            item=ITEM_ID, created=pl.col(CREATION_TIMESTAMP).cast(pl.Int64, strict=False)
        )
        .drop_nulls()
        .filter(pl.col("created").abs() < LATEST_TIME)
        .unique("item", keep="first", maintain_order=True)
    )
    return created if created.height else None


def _measure_days(until: pl.Expr) -> pl.Expr:
    """The days from the creation until a time in epoch seconds; 0 for what comes later."""
    return ((until - pl.col("created")) / DAY).clip(lower_bound=0.0)


def _group_ages(items: pl.DataFrame, weight_column: str) -> AgeGroups | None:
    """The groups of ages; None without any weight.

    items: the column age, in days, and one with the weight of each row.
    weight_column: the name of the column with the weights.
    """
    ages = items.get_column("age").to_numpy()
    weights = items.get_column(weight_column).to_numpy().astype(np.float64)
    median = find_weighted_median(ages, weights)
    if median is None:
        return None
    ends = pairwise([-1.0, *AGES.values()])
    sums = [float(weights[(ages > start) & (ages <= end)].sum()) for start, end in ends]
    return AgeGroups(median, [part / float(weights.sum()) for part in sums])
