"""Counts over the published tables: the users who get a list, and how it covers the catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.file_formats import USER_FIELD
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    VALUE_SEPARATOR,
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
    has_event_types = EVENT_TYPE in columns
    has_event_values = EVENT_VALUE in columns
    users, items, totals, event_counts, served, lists, longest = pl.collect_all(
        [
            interactions.group_by(user_id=USER_ID).agg(interactions=pl.len().cast(pl.Int64)),
            interactions.group_by(item=ITEM_ID).agg(interactions=pl.len().cast(pl.Int64)),
            interactions.select(
                pl.len().alias("interactions"),
                first=pl.col(TIMESTAMP).min(),
                last=pl.col(TIMESTAMP).max(),
                mean_value=pl.col(EVENT_VALUE).mean() if has_event_values else None,
            ),
            interactions.group_by(event=EVENT_TYPE if has_event_types else pl.lit(None)).agg(
                interactions=pl.len().cast(pl.Int64)
            ),
            recommendations.select(pl.col("user_id").unique()),
            recommendations.group_by(item="item_id").agg(lists=pl.len().cast(pl.Int64)),
            recommendations.select(pl.col("rank").max()),
        ],
        engine="streaming",
    )
    return ReportCounts(
        users=users.sort("user_id"),
        items=items,
        data=_describe_data(
            totals,
            users.height,
            items.height,
            event_counts if has_event_types else event_counts.clear(),
        ),
        served=served.to_series().sort(),
        lists=lists,
        longest=longest.item() or 0,
    )


def _describe_data(totals: pl.DataFrame, users: int, items: int, events: pl.DataFrame) -> DataFacts:
    """The facts about the interactions.

    `totals` has one row of interactions, first and last (epoch seconds) and mean_value. `events`
    has the columns event and interactions. `users` and `items` are their numbers.
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


# The lower ends of the groups of users by number of interactions. The last group has no upper end.
STEPS = (0, 1, 5, 10, 20, 50, 100, 200, 500)
# With fewer interactions, a recommender knows little about a user.
FEW = 5


@dataclass(frozen=True)
class Audience:
    """The users whom lists were made for, by how much is known about them."""

    requested: int
    """Users who were to get a list."""
    served: int
    """Users who got one."""
    cold: int
    """Requested users without interactions."""
    few: int
    """Requested users with 1 to 4 interactions."""
    median: float
    """The interactions of the median requested user."""
    lengths: list[tuple[str, int]]
    """The label of each group of requested users by number of interactions, and its size."""
    heaviest: float = 0.0
    """The share of all interactions that belong to the user with the most."""


def count_audience(tables: RunTables, counts: ReportCounts) -> Audience:
    """The audience of the lists in these tables."""
    lengths = (
        tables.users.select(user_id=pl.col(USER_FIELD).unique())
        .collect(engine="streaming")
        .join(counts.users, on="user_id", how="left")
        .get_column("interactions")
        .fill_null(0)
    )
    return Audience(
        requested=lengths.len(),
        served=counts.served.len(),
        cold=int((lengths == 0).sum()),
        few=int(lengths.is_between(1, FEW - 1).sum()),
        median=float(lengths.median() or 0),  # type: ignore[arg-type]
        lengths=[
            (_make_label(low, high), int(lengths.is_between(low, high - 1).sum()))
            for low, high in pairwise((*STEPS, 2**62))
        ],
        heaviest=(
            counts.users.select(pl.col("interactions").max().fill_null(0)).item()
            / max(1, counts.data.interactions)
        ),
    )


def _make_label(low: int, high: int) -> str:
    if high > STEPS[-1]:
        return f"{low}+"
    return str(low) if high == low + 1 else f"{low}-{high - 1}"


# The bands of items by popularity, each with the share of the catalogue at which it ends.
BANDS = {"Top 1%": 0.01, "Next 4%": 0.05, "Next 15%": 0.20, "Next 30%": 0.50, "Last 50%": 1.00}
# The long tail is all items but this most popular share of the catalogue.
HEAD = 0.20
MOST_RECOMMENDED = 15
MAX_VALUES = 12


@dataclass(frozen=True)
class Shares:
    """The share of a group of items in all interactions and in all recommendations."""

    label: str
    interactions: float
    recommendations: float


# The shares of the catalogue at which the exposure curve is drawn.
CURVE = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
# The share of the catalogue that the report's tile is about.
TOP = 0.01


@dataclass(frozen=True)
class Exposure:
    """How unevenly items appear in the lists and, for comparison, in the histories.

    Of a share of the catalogue, the most popular items count for the interactions, and the most
    recommended ones for the recommendations.
    """

    curve: list[Shares]
    """What the shares of CURVE take of all interactions and of all recommendations."""
    top: Shares
    """What the share TOP takes of them."""
    gini: Shares
    """The Gini coefficients of both: 0 if all items are equal, 1 if one item takes all."""


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
    places: int
    """Rows of all lists."""
    longest: int
    """Items in the longest list."""
    tail: Shares
    """The shares of the long tail."""
    bands: list[Shares]
    """The shares of the bands of popularity."""
    exposure: Exposure
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
        places=int(items.get_column("lists").sum()),
        longest=counts.longest,
        tail=_compute_shares(
            items, "Long tail", pl.col("popularity") > math.ceil(HEAD * items.height)
        ),
        bands=bands,
        exposure=measure_exposure(items),
        values={category: _count_values(items, tables, category) for category in tables.categories},
        most=[ListedItem(**row) for row in most.with_columns(title=titles).iter_rows(named=True)],
    )


def measure_exposure(items: pl.DataFrame) -> Exposure:
    """How unevenly the items appear.

    `items` has a row for each item of the catalogue, with its `interactions` and `lists`.
    """
    interactions = np.sort(items.get_column("interactions").to_numpy())[::-1]
    lists = np.sort(items.get_column("lists").to_numpy())[::-1]

    def take_top(label: str, share: float) -> Shares:
        number = math.ceil(share * items.height)
        return Shares(label, _share_of_first(interactions, number), _share_of_first(lists, number))

    return Exposure(
        curve=[take_top(f"{share:.1%}".replace(".0%", "%"), share) for share in CURVE],
        top=take_top("Top", TOP),
        gini=Shares("Gini", _compute_gini(interactions), _compute_gini(lists)),
    )


def _share_of_first(counts: npt.NDArray[np.int64], number: int) -> float:
    return float(counts[:number].sum() / max(1, counts.sum()))


def _compute_gini(descending: npt.NDArray[np.int64]) -> float:
    """The Gini coefficient of counts in descending order."""
    size = len(descending)
    total = descending.sum()
    weights = size + 1 - 2 * np.arange(1, size + 1)
    return float(weights @ descending / (size * total)) if total else 0.0


def _join_items(tables: RunTables, counts: ReportCounts) -> pl.DataFrame:
    """A row for each item of the catalogue, the most popular first.

    The columns are item, interactions, lists and popularity, the rank from 1.
    """
    items = counts.items.join(counts.lists, on="item", how="full", coalesce=True)
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
