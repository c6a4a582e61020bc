"""Counts which items are popular, and makes lists of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.config.recommendations import PopularBy
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.conditions import SECONDS_A_DAY
from batchrec_dagster.rules.pairs import Pairs, find_positions
from batchrec_dagster.steps.success import is_success
from batchrec_dagster.steps.user_attributes import read_user_attributes
from batchrec_dagster.steps.work import Work

# If people had fewer items in the last days, the most popular ones of all time follow, so that
# lists are full.
ENOUGH_ITEMS = 1_000
# Of the people of a group at least so many had an item that counts as popular there.
FEWEST_PEOPLE = 3
# Lists of popular items are made for this many users at once.
USERS_AT_ONCE = 20_000
# The reason of a row of such a list.
POPULAR = "popular"


Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
NO_GROUPS = pl.DataFrame(schema={"reason": pl.String, ITEM_ID: pl.String})


@dataclass(frozen=True)
class PopularItems:
    """The items that most people had in the last days."""

    items: pl.DataFrame
    """The columns ITEM_ID and popularity, the most popular first; ties are in the order of ids.
    The popularity is the number of people who had the item.
    Where few items were had in the last days, those of all time follow, with a popularity of 0."""
    days: int
    """Only interactions of this many days count."""
    of_groups: pl.DataFrame = field(default_factory=lambda: NO_GROUPS)
    """The columns reason and ITEM_ID: what is popular in groups of users, the most popular first.
    The reason names the group, as the rows of its users do."""
    groups: Sequence[str] = ()
    """The reasons of the groups that get lists, also those where nothing is popular."""

    @property
    def ids(self) -> pl.Series:
        """The items' ids, the most popular first."""
        return self.items.get_column(ITEM_ID)

    @property
    def by_reason(self) -> dict[str, pl.Series]:
        """The items' ids, the most popular first, by the reason of the users who get them.

        What is popular everywhere follows what is popular in a group.
        """
        items = {POPULAR: self.ids}
        for reason in self.groups:
            own = self.of_groups.filter(reason=reason).get_column(ITEM_ID)
            items[reason] = pl.concat([own, self.ids.filter(~self.ids.is_in(own.implode()))])
        return items

    def describe(self) -> dict[str, Any]:
        """What an edition's metadata say of them."""
        return {"days": self.days, "items": self.items.height}


def read_popular_items(work: Work, interactions: pl.LazyFrame, reasons: pl.Series) -> PopularItems:
    """The popular items of a pipeline. Raises StorageError.

    reasons: those of the users who get lists of popular items.
    """
    days, success = work.pipeline.popularity.days, work.pipeline.solution.success
    popular = find_popular_items(interactions, days, success)
    groups = reasons.filter(reasons != POPULAR).unique().sort()
    if not len(groups):
        return popular
    users = read_user_groups(work).filter(pl.col("reason").is_in(groups.implode()))
    items = count_popular_items_by_group(interactions, users, days, success)
    of_groups = items.select("reason", ITEM_ID)
    return replace(popular, of_groups=of_groups, groups=groups.to_list())


def read_popularity_versions(work: Work) -> list[str]:
    """What changes when users' attributes make other lists for newcomers. Raises StorageError."""
    if not isinstance(work.pipeline.recommendations.newcomers, PopularBy):
        return []
    return [work.storage.version(work.storage.uri(work.pipeline.storage_keys.users))]


def read_user_groups(work: Work) -> pl.DataFrame:
    """The users with the reason of newcomers of their group, such as `popular in AT`.

    The columns are USER_ID and reason. Raises StorageError.
    """
    policy = work.pipeline.recommendations.newcomers
    assert isinstance(policy, PopularBy)
    attributes = read_user_attributes(work)
    column = next(name for name in attributes.columns if name.upper() == policy.popular_by.upper())
    value = pl.col(column)
    return attributes.select(
        USER_ID,
        reason=pl.when(value.is_null() | (value == ""))
        .then(pl.lit(POPULAR))
        .otherwise(pl.format("{} in {}", pl.lit(POPULAR), value)),
    )


def find_popular_items(
    interactions: pl.LazyFrame,
    days: int,
    success: Collection[str],
) -> PopularItems:
    """The popular items of these interactions.

    days, success: as of `count_popular_items`.
    """
    items = count_popular_items(interactions, days, success)
    if items.height < ENOUGH_ITEMS:
        others = count_popular_items(interactions, None, success)
        others = others.join(items, on=ITEM_ID, how="anti", maintain_order="left")
        items = pl.concat([items, others.with_columns(pl.lit(0, pl.Int64).alias("popularity"))])
    return PopularItems(items, days)


def count_popular_items(
    interactions: pl.LazyFrame, days: int | None, success: Collection[str]
) -> pl.DataFrame:
    """The items that people had in the last days before the newest interaction.

    The columns are ITEM_ID and popularity, the most popular first; ties are in the order of ids.

    days: None for all time.
    success: the types of events that count; all if empty.
    """
    counted = _select_counted(interactions, days, success)
    users, items = pl.collect_all(
        [counted.select(pl.col(USER_ID).unique()), counted.select(pl.col(ITEM_ID).unique())],
        engine="streaming",
    )
    item_ids = items.to_series().sort()
    pairs = Pairs.read(
        counted.select(
            user=find_positions(USER_ID, users.to_series()),
            item=find_positions(ITEM_ID, item_ids),
        )
    )
    popularity = np.bincount(pairs.items, minlength=len(item_ids))
    return pl.DataFrame({ITEM_ID: item_ids, "popularity": popularity}).sort(
        "popularity", ITEM_ID, descending=[True, False]
    )


def count_popular_items_by_group(
    interactions: pl.LazyFrame,
    users: pl.DataFrame,
    days: int,
    success: Collection[str],
) -> pl.DataFrame:
    """The items that people of each group had, if at least FEWEST_PEOPLE of them had it.

    With fewer, a list would show what a single person chose. The columns are reason, ITEM_ID and
    popularity, by groups, the most popular first; ties are in the order of ids.

    users: the columns USER_ID and reason, which names the group.
    days, success: as of `count_popular_items`.
    """
    return (
        _select_counted(interactions, days, success)
        .join(users.lazy(), on=USER_ID)
        .select("reason", USER_ID, ITEM_ID)
        .unique()
        .group_by("reason", ITEM_ID)
        .agg(popularity=pl.len().cast(pl.Int64))
        .filter(pl.col("popularity") >= FEWEST_PEOPLE)
        .collect(engine="streaming")
        .sort("reason", "popularity", ITEM_ID, descending=[False, True, False])
    )


def _select_counted(
    interactions: pl.LazyFrame, days: int | None, success: Collection[str]
) -> pl.LazyFrame:
    """The interactions that count as success, in the last days before the newest of all."""
    counted = interactions.filter(is_success(interactions, success))
    if days is None:
        return counted
    newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
    return counted.filter(pl.col(TIMESTAMP) > (newest or 0) - days * SECONDS_A_DAY)


def make_popular_lines(
    users: pl.DataFrame, popular: Mapping[str, pl.Series]
) -> Iterator[pl.DataFrame]:
    """Lists of popular items, in the form of the lines of a batch inference job.

    The columns are user_id, items (best first), scores (empty), error (null) and reason. There is
    at least one piece.

    users: the columns user_id, reason, and length: how many items the line has at most.
    popular: the ids of popular items, by the reason of the users who get them.
    """
    for piece in users.iter_slices(USERS_AT_ONCE) if users.height else [users]:
        kinds = piece.select("reason", "length").unique()
        items = [popular[reason].head(length) for reason, length in kinds.iter_rows()]
        lists = kinds.with_columns(items=pl.Series(items, dtype=pl.List(pl.String)))
        yield piece.join(lists, on=["reason", "length"], how="left", maintain_order="left").select(
            "user_id",
            "items",
            scores=pl.lit([], dtype=pl.List(pl.Float64)),
            error=pl.lit(None, dtype=pl.String),
            reason="reason",
        )
