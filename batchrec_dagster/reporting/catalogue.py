"""How the lists cover the catalogue, and how unevenly items appear in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, VALUE_SEPARATOR
from batchrec_dagster.reporting.report_counts import ReportCounts
from batchrec_dagster.reporting.run_tables import RunTables

# The bands of items by popularity, each with the share of the catalogue at which it ends.
BANDS = {"Top 1%": 0.01, "Next 4%": 0.05, "Next 15%": 0.20, "Next 30%": 0.50, "Last 50%": 1.00}
MOST_RECOMMENDED = 9
MAX_VALUES = 12


@dataclass(frozen=True)
class Shares:
    """The share of a group of items in all interactions and in all recommendations."""

    label: str
    interactions: float
    recommendations: float


# The share of the catalogue that the report's tile is about.
TOP = 0.01


@dataclass(frozen=True)
class ListedItem:
    """An item that is recommended often."""

    item: str
    title: str | None
    lists: int
    """The number of lists that contain it."""
    interactions: int
    popularity: int
    """Its rank by number of interactions, from 1."""


@dataclass(frozen=True)
class Catalogue:
    """How the lists cover the catalogue."""

    items: int
    """Items in the interactions, the metadata or the lists."""
    recommended: int
    """Items in at least one list."""
    longest: int
    """Items in the longest list."""
    bands: list[Shares]
    """The shares of the bands of popularity."""
    top: Shares
    """What the share TOP of the catalogue takes: of the interactions its most popular items, of the
    recommendations its most recommended ones."""
    values: dict[str, list[Shares]]
    """The most frequent values of each category."""
    most: list[ListedItem]
    """The items in most lists."""


def count_catalogue(tables: RunTables, counts: ReportCounts) -> Catalogue:
    """How the lists in these tables cover the catalogue."""
    items = _join_items(tables, counts)
    ends = [math.ceil(share * items.height) for share in BANDS.values()]
    bands = [
        _compute_shares(items, label, pl.col("popularity").is_between(start + 1, end))
        for label, (start, end) in zip(BANDS, pairwise([0, *ends]), strict=True)
    ]
    recommended = items.filter(pl.col("lists") > 0)
    most = recommended.sort("lists", "item", descending=[True, False]).head(MOST_RECOMMENDED)
    titles = pl.Series(tables.look_up(most["item"], "title"), dtype=pl.String)
    return Catalogue(
        items=items.height,
        recommended=recommended.height,
        longest=counts.longest,
        bands=bands,
        top=measure_top(items),
        values={category: _count_values(items, tables, category) for category in tables.categories},
        most=[ListedItem(**row) for row in most.with_columns(title=titles).iter_rows(named=True)],
    )


def measure_top(items: pl.DataFrame) -> Shares:
    """What the share TOP of the catalogue takes of the interactions and the recommendations.

    items: a row for each item of the catalogue, with its `interactions` and `lists`.
    """
    number = math.ceil(TOP * items.height)

    def share_of_largest(column: str) -> float:
        counts = items.get_column(column)
        return int(counts.top_k(number).sum()) / max(1, int(counts.sum()))

    return Shares("Top", share_of_largest("interactions"), share_of_largest("lists"))


def _join_items(tables: RunTables, counts: ReportCounts) -> pl.DataFrame:
    """A row for each item of the catalogue, the most popular first.

    The columns are item, interactions, lists and popularity, the rank from 1.
    """
    items = counts.items.select("item", "interactions")
    items = items.join(counts.lists, on="item", how="full", coalesce=True)
    if tables.items is not None:
        declared_items = tables.items.select(item=ITEM_ID).unique()
        items = items.join(declared_items, on="item", how="full", coalesce=True)
    return (
        items.with_columns(pl.col("interactions", "lists").fill_null(0))
        .sort("interactions", "item", descending=[True, False])
        .with_columns(popularity=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    )


def _compute_shares(items: pl.DataFrame, label: str, group: pl.Expr) -> Shares:
    """The shares of the items for which the expression holds."""
    shares = items.select(
        pl.col(column).filter(group).sum() / pl.max_horizontal(pl.col(column).sum(), 1)
        for column in ("interactions", "lists")
    )
    return Shares(label, *shares.row(0))


def _count_values(items: pl.DataFrame, tables: RunTables, category: str) -> list[Shares]:
    """The most frequent values of a category. An item with several values counts for each."""
    if tables.items is None:
        return []
    totals = [max(1, items.get_column(name).sum()) for name in ("interactions", "lists")]
    values = (
        tables.items.select(
            item=ITEM_ID, value=pl.col(category).cast(pl.String).str.split(VALUE_SEPARATOR)
        )
        .explode("value")
        .filter(pl.col("value") != "")
        .unique()
        .join(items, on="item")
        .group_by("value")
        .agg(
            interactions=pl.col("interactions").sum() / totals[0],
            lists=pl.col("lists").sum() / totals[1],
        )
        .sort(pl.col("interactions") + pl.col("lists"), "value", descending=[True, False])
        .head(MAX_VALUES)
    )
    return [Shares(*row) for row in values.select("value", "interactions", "lists").iter_rows()]
