"""The figures of an edition: the counts of its lists, their users and items, and their data.

The figures are counted while the lists are made, so the tables need not be read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from batchrec_dagster.editions.edition import CategoryShare, DataCounts, Edition, ListedItem
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    VALUE_SEPARATOR,
)
from batchrec_dagster.preparation.file_form import CONSTANT_TIME
from batchrec_dagster.steps.findings import format_day

# A recommender knows little about a user with fewer interactions than this.
FEW = 5
# The share of the catalogue for which the concentration of lists and histories is measured.
TOP = 0.01
MOST_RECOMMENDED = 10
# The figures of a category have at most this many of its values.
MOST_VALUES = 12


@dataclass(frozen=True)
class Histories:
    """The counts of the interactions that lists are made from."""

    rows: int
    first: int
    """The time of the first interaction, in epoch seconds."""
    last: int
    """The time of the last interaction, in epoch seconds."""
    users: pl.DataFrame
    """A row for each user, with the columns subject (the user's id) and interactions."""
    items: pl.DataFrame
    """A row for each item: item, interactions and first (the time of the first interaction)."""
    events: Mapping[str, int]
    """The number of interactions of each event type; empty without types."""
    mean_value: float | None
    """The mean value of the events; None without values."""

    @property
    def has_times(self) -> bool:
        """Whether the interactions have real times, not one constant time."""
        return not self.first == self.last == CONSTANT_TIME

    def describe(self, before: Edition | None) -> DataCounts:
        """Return the figures of the data for an edition that is made from these interactions.

        before: the live edition; None if nothing is published.
        """
        heaviest = self.users.get_column("interactions").max() or 0
        new_items = vanished_items = None
        data_before = before.data if before is not None and self.has_times else None
        if before is not None and data_before is not None and before.data_until is not None:
            new_items = self.items.filter(pl.col("first") > before.data_until).height
            vanished_items = max(0, data_before.items + new_items - self.items.height)
        return DataCounts(
            interactions=self.rows,
            users=self.users.height,
            items=self.items.height,
            first_day=format_day(self.first) if self.has_times else "",
            last_day=format_day(self.last) if self.has_times else "",
            events={name: count / self.rows for name, count in sorted(self.events.items())},
            mean_value=self.mean_value,
            heaviest_share=heaviest / max(1, self.rows),  # type: ignore[operator]
            new_items=new_items,
            vanished_items=vanished_items,
        )


def count_histories(interactions: pl.LazyFrame) -> Histories:
    """Count the interactions of users, items and event types, in one streaming pass."""
    columns = interactions.collect_schema().names()
    row_count, time = pl.len().cast(pl.Int64), pl.col(TIMESTAMP)
    queries = {
        "rows": interactions.select(rows=row_count, first=time.min(), last=time.max()),
        "users": interactions.group_by(subject=USER_ID).agg(interactions=row_count),
        "items": interactions.group_by(item=ITEM_ID).agg(interactions=row_count, first=time.min()),
    }
    if EVENT_TYPE in columns:
        queries["events"] = interactions.group_by(event=EVENT_TYPE).agg(interactions=row_count)
    if EVENT_VALUE in columns:
        queries["mean_value"] = interactions.select(pl.col(EVENT_VALUE).mean())
    results = pl.collect_all([*queries.values()], engine="streaming")
    tables = dict(zip(queries, results, strict=True))
    events, mean_value = tables.get("events"), tables.get("mean_value")
    rows, first, last = tables["rows"].row(0)
    return Histories(
        rows=rows,
        first=int(first or 0),
        last=int(last or 0),
        users=tables["users"],
        items=tables["items"],
        events={} if events is None else {str(event): count for event, count in events.iter_rows()},
        mean_value=None if mean_value is None else mean_value.item(),
    )


def count_audience(requested: pl.Series, histories: Histories) -> dict[str, Any]:
    """Return the fields of ListCounts on the histories of the requested users.

    requested: the ids of the users who were to have a list.
    """
    lengths = (
        requested.alias("subject")
        .to_frame()
        .join(histories.users, on="subject", how="left")
        .get_column("interactions")
        .fill_null(0)
    )
    return {
        "cold": int((lengths == 0).sum()),
        "few": int(lengths.is_between(1, FEW - 1).sum()),
        "median_history": float(lengths.median() or 0),  # type: ignore[arg-type]
    }


@dataclass(frozen=True)
class CountedItems:
    """The numbers of lists and of interactions that each item of the catalogue has."""

    listed: pl.DataFrame
    """A row for each listed item: item and lists (the number of lists with the item)."""
    histories: Histories
    declared: pl.Series | None = None
    """The ids in the items file; None without an items file."""

    @cached_property
    def catalogue(self) -> pl.DataFrame:
        """A row for each item of the lists, the interactions or the items file.

        The columns are item, lists and interactions.
        """
        items = self.histories.items.select("item", "interactions")
        items = items.join(self.listed, on="item", how="full", coalesce=True)
        if self.declared is not None:
            declared = self.declared.unique().alias("item").to_frame()
            items = items.join(declared, on="item", how="full", coalesce=True)
        return items.with_columns(pl.col("interactions", "lists").fill_null(0))

    def describe(
        self,
        titles: pl.DataFrame | None = None,
        item_columns: pl.DataFrame | None = None,
        categories: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return the fields of ListCounts about items.

        titles: the columns item_id and title; None if the items have no titles.
        item_columns: ITEM_ID and the columns of the categories; None without categories.
        """
        return {
            "items": self.listed.height,
            "catalogue": self.catalogue.height,
            "top_lists": self._measure_top("lists"),
            "top_histories": self._measure_top("interactions"),
            "most_recommended": tuple(self._list_most_recommended(titles)),
            "categories": {
                name: tuple(self._count_values(item_columns.select(item=ITEM_ID, value=name)))
                for name in categories
                if item_columns is not None
            },
        }

    def _measure_top(self, column: str) -> float:
        """Return the share of the column's sum that belongs to the top items.

        The top items are the share TOP of the catalogue with the highest values.
        """
        counts = self.catalogue.get_column(column)
        number = math.ceil(TOP * len(counts))
        return int(counts.top_k(number).sum()) / max(1, int(counts.sum()))

    def _list_most_recommended(self, titles: pl.DataFrame | None) -> Iterator[ListedItem]:
        """Yield the items on most lists, sorted by the number of lists and then by id."""
        most = (
            self.catalogue.filter(pl.col("lists") > 0)
            .sort("lists", "item", descending=[True, False])
            .head(MOST_RECOMMENDED)
        )
        if titles is not None:
            titles = titles.unique("item_id", keep="first").select(item="item_id", title="title")
            most = most.join(titles, on="item", how="left", maintain_order="left")
        for row in most.iter_rows(named=True):
            yield ListedItem(**row)

    def _count_values(self, values_of_items: pl.DataFrame) -> Iterator[CategoryShare]:
        """Yield the most frequent values of a category, with their shares of lists and histories.

        values_of_items: the columns item and value.
        """
        sums = self.catalogue.select("lists", "interactions").sum().row(0, named=True)
        totals = {name: max(1, total) for name, total in sums.items()}
        values = (
            values_of_items.with_columns(pl.col("value").str.split(VALUE_SEPARATOR))
            .explode("value")
            .filter(pl.col("value") != "")
            .unique()
            .join(self.catalogue, on="item")
            .group_by("value")
            .agg(
                lists=pl.col("lists").sum() / totals["lists"],
                histories=pl.col("interactions").sum() / totals["interactions"],
            )
            .sort(pl.col("lists") + pl.col("histories"), "value", descending=[True, False])
            .head(MOST_VALUES)
        )
        for row in values.iter_rows(named=True):
            yield CategoryShare(**row)
