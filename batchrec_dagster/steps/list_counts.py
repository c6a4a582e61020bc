"""The figures of lists and of their data, which an edition has: whom lists reach, and with what.

They are counted while the lists are made, so that nobody has to read the tables again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    VALUE_SEPARATOR,
)
from batchrec_dagster.preparation.file_form import CONSTANT_TIME
from batchrec_dagster.steps.checks import format_day
from batchrec_dagster.storage.edition import CategoryShare, DataCounts, Edition, ListedItem

# With fewer interactions, a recommender knows little about a user.
FEW = 5
# The share of the catalogue whose share of lists and of histories is counted.
TOP = 0.01
MOST_RECOMMENDED = 10
# How many values of each category are named.
MOST_VALUES = 12


@dataclass(frozen=True)
class Histories:
    """The interactions that lists are made from, counted once."""

    rows: int
    first: int
    """The time of the first interaction, in epoch seconds."""
    last: int
    """That of the last."""
    users: pl.DataFrame
    """The columns subject and interactions: a row for each user."""
    items: pl.DataFrame
    """The columns item, interactions and first, the time of the first: a row for each item."""
    events: Mapping[str, int]
    """How many interactions there are of each type; empty without types."""
    mean_value: float | None
    """The mean value of the events; None without values."""

    @property
    def has_times(self) -> bool:
        """Whether the interactions have times that tell them apart."""
        return not self.first == self.last == CONSTANT_TIME

    def describe(self, before: Edition | None) -> DataCounts:
        """The figures of an edition that is made of them.

        before: the edition that is live; None if nothing is.
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
    """How many interactions users and items have, in one streaming pass."""
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
    """How much is known of those who were to have a list: the fields of ListCounts.

    requested: their ids.
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
    """How often the items of the catalogue are on lists and in histories."""

    listed: pl.DataFrame
    """The columns item and lists: how many lists have each item that is on any."""
    histories: Histories
    declared: pl.Series | None = None
    """The ids of the items file; None without one."""

    @cached_property
    def catalogue(self) -> pl.DataFrame:
        """The columns item, lists and interactions: a row for each item that there is."""
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
        """The fields of ListCounts about items.

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
        """The share of the column that the share TOP of the catalogue with the most of it takes."""
        counts = self.catalogue.get_column(column)
        number = math.ceil(TOP * len(counts))
        return int(counts.top_k(number).sum()) / max(1, int(counts.sum()))

    def _list_most_recommended(self, titles: pl.DataFrame | None) -> Iterator[ListedItem]:
        """The items that are on most lists, by the number of lists, then of ids."""
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
        """How much the most frequent values take. values_of_items: the columns item and value."""
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
