"""What the lists show, beside what people have: popular or rare, of which kind; the items most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from batchrec_dagster.personalize.datasets import ITEM_ID, VALUE_SEPARATOR
from batchrec_dagster.reporting.counts import Counts
from batchrec_dagster.reporting.published import Tables

# Items by popularity: the share of the catalogue at which each band ends.
BANDS = {
    "Top 1%": 0.01,
    "Next 4%": 0.05,
    "Next 15%": 0.20,
    "Next 30%": 0.50,
    "Last 50%": 1.00,
}
# The long tail are the items after the most popular fifth.
HEAD = 0.20
MOST_SHOWN = 15
MOST_VALUES = 12


@dataclass(frozen=True)
class Shares:
    """A group of items: its share of all interactions, and of all places in the lists."""

    label: str
    had: float
    shown: float


@dataclass(frozen=True)
class Shown:
    """An item, in how many lists it is, and how many interactions it has; `popularity` is its
    place when items are ordered by that, from 1."""

    item: str
    title: str | None
    lists: int
    interactions: int
    popularity: int


@dataclass(frozen=True)
class Offer:
    """catalogue: items known from interactions, metadata or lists; shown: those in any list;
    places: rows of the lists; longest: items in the longest list; tail: of items outside the most
    popular fifth; kinds: by the name of a category, its values that are had or shown most."""

    catalogue: int
    shown: int
    places: int
    longest: int
    tail: Shares
    bands: list[Shares]
    kinds: dict[str, list[Shares]]
    most: list[Shown]


def offer(tables: Tables, counts: Counts) -> Offer:
    """Counts over all interactions and all lists."""
    counted = _items(tables, counts)
    catalogue = counted.height
    ends = [math.ceil(share * catalogue) for share in BANDS.values()]
    starts = [0, *ends[:-1]]
    bands = [
        _shares(counted, label, pl.col("popularity").is_between(start + 1, end))
        for label, start, end in zip(BANDS, starts, ends, strict=True)
    ]
    most = counted.sort("lists", "item", descending=[True, False]).head(MOST_SHOWN)
    return Offer(
        catalogue=catalogue,
        shown=counted.filter(pl.col("lists") > 0).height,
        places=int(counted.get_column("lists").sum()),
        longest=counts.longest,
        tail=_shares(counted, "Long tail", pl.col("popularity") > math.ceil(HEAD * catalogue)),
        bands=bands,
        kinds={category: _kinds(counted, tables, category) for category in tables.categories},
        most=[
            Shown(**row)
            for row in _titled(most, tables)
            .filter(pl.col("lists") > 0)
            .select("item", "title", "lists", "interactions", "popularity")
            .iter_rows(named=True)
        ],
    )


def _items(tables: Tables, counts: Counts) -> pl.DataFrame:
    """item, interactions, lists, popularity: a row for each item of the catalogue."""
    counted = counts.items.join(counts.lists, on="item", how="full", coalesce=True)
    if tables.items is not None:
        known = tables.items.select(item=ITEM_ID).unique()
        counted = counted.join(known, on="item", how="full", coalesce=True)
    return (
        counted.with_columns(pl.col("interactions", "lists").fill_null(0))
        .sort("interactions", "item", descending=[True, False])
        .with_columns(popularity=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    )


def _shares(counted: pl.DataFrame, label: str, which: pl.Expr) -> Shares:
    sums = counted.select(
        pl.col(column).filter(which).sum() / pl.max_horizontal(pl.col(column).sum(), 1)
        for column in ("interactions", "lists")
    )
    return Shares(label, *sums.row(0))


def _kinds(counted: pl.DataFrame, tables: Tables, category: str) -> list[Shares]:
    """The values of a category: an item that has several counts for each."""
    if tables.items is None:
        return []
    of_items = tables.items.select(
        item=ITEM_ID, kind=pl.col(category).cast(pl.String).str.split(VALUE_SEPARATOR)
    )
    had, shown = (max(1, counted.get_column(name).sum()) for name in ("interactions", "lists"))
    kinds = (
        of_items.explode("kind")
        .filter(pl.col("kind") != "")
        .unique()
        .join(counted, on="item")
        .group_by("kind")
        .agg(had=pl.col("interactions").sum() / had, shown=pl.col("lists").sum() / shown)
        .sort(pl.col("had") + pl.col("shown"), "kind", descending=[True, False])
        .head(MOST_VALUES)
    )
    return [Shares(*row) for row in kinds.select("kind", "had", "shown").iter_rows()]


def _titled(items: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    if tables.titles is None:
        return items.with_columns(title=pl.lit(None, dtype=pl.String))
    titles = tables.titles.rename({"item_id": "item"})
    return items.join(titles, on="item", how="left", maintain_order="left")
