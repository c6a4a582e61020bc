"""Counting of popular items."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.lists import PopularBy
from batchrec_dagster.personalize.schemas import ITEM_ID, SECONDS_A_DAY, TIMESTAMP, USER_ID
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.success import is_of_types
from batchrec_dagster.steps.data.user_attributes import read_user_attributes

# If fewer items than this had interactions in the last days, the most popular items of all time
# follow, so that lists are full.
ENOUGH_ITEMS = 1_000
# The number of people in a group who must have had an item before it is popular in the group.
FEWEST_PEOPLE = 3
# The reason of a row with a popular item.
POPULAR = "popular"
NO_GROUPS = pl.DataFrame(schema={"reason": pl.String, ITEM_ID: pl.String})


@dataclass(frozen=True)
class PopularItems:
    """The most popular items of the last days.

    An item is more popular than another item if more people had it.
    """

    ids: pl.Series
    """The items' ids, the most popular first; ties are in the order of ids.

    If only few items had interactions in the last days, the popular items of all time follow."""
    days: int
    """The number of days over which interactions count."""
    of_groups: pl.DataFrame = field(default_factory=lambda: NO_GROUPS)
    """The items that are popular in groups of users: the columns reason, ITEM_ID and popularity.

    The reason names the group, and the rows of the group's users give the same reason. In a group,
    the most popular items come first."""
    groups: Sequence[str] = ()
    """The reasons of all groups that get lists, even if no item is popular in a group."""

    @property
    def by_reason(self) -> dict[str, pl.Series]:
        """The items' ids, the most popular first, by the reason of the users who get the items.

        The items of a group begin with the items that are popular in the group. The items that are
        popular everywhere follow.
        """
        items = {POPULAR: self.ids}
        for reason in self.groups:
            of_group = self.of_groups.filter(reason=reason).get_column(ITEM_ID)
            items[reason] = pl.concat(
                [of_group, self.ids.filter(~self.ids.is_in(of_group.implode()))]
            )
        return items

    def describe(self) -> dict[str, Any]:
        """Return the facts about the popular items for an edition's metadata."""
        return {"days": self.days, "items": len(self.ids)}


def read_popular_items(
    step: StepContext, published: ListTable, interactions: pl.LazyFrame, reasons: pl.Series
) -> PopularItems:
    """Count the popular items for a list, among all users and in groups. Raises UserError.

    reasons: the reasons of the users who get lists of popular items. A reason other than POPULAR
        names a group.
    """
    days, success = step.pipeline.popularity.days, step.pipeline.solution.success
    popular = find_popular_items(interactions, days, success)
    groups = reasons.filter(reasons != POPULAR).unique().sort()
    if not len(groups):
        return popular
    users = read_user_groups(step, published).filter(pl.col("reason").is_in(groups.implode()))
    of_groups = count_popular_items(interactions, days, success, by=users)
    return replace(popular, of_groups=of_groups, groups=groups.to_list())


def read_user_groups(step: StepContext, published: ListTable) -> pl.DataFrame:
    """Return the reason that a newcomer's popular items get, such as `popular in AT`, by user.

    The reason names the user's group: the value of the column that `newcomers.popular_by` names.
    Without a value the reason is POPULAR. The columns are USER_ID and reason. Raises UserError.
    """
    policy = published.settings.newcomers
    assert isinstance(policy, PopularBy)
    user_columns = read_user_attributes(step)
    column = next(
        name for name in user_columns.columns if name.upper() == policy.popular_by.upper()
    )
    value = pl.col(column)
    return user_columns.select(
        USER_ID,
        reason=pl.when(value.is_null() | (value == ""))
        .then(pl.lit(POPULAR))
        .otherwise(pl.format("{} in {}", pl.lit(POPULAR), value)),
    )


def find_popular_items(
    interactions: pl.LazyFrame,
    days: int,
    success: Collection[str],
    until: int | None = None,
) -> PopularItems:
    """Find the popular items of the last days.

    If there are fewer than ENOUGH_ITEMS, the popular items of all time follow.

    days: the number of days.
    success: the types of events that count; all types count if it is empty.
    until: the end of the days, in epoch seconds; None for the time of the newest interaction.
    """
    ids = count_popular_items(interactions, days, success, until=until).get_column(ITEM_ID)
    if len(ids) < ENOUGH_ITEMS:
        of_all_time = count_popular_items(interactions, None, success, until=until)
        ids = pl.concat([ids, of_all_time.get_column(ITEM_ID)]).unique(maintain_order=True)
    return PopularItems(ids, days)


def count_popular_items(
    interactions: pl.LazyFrame,
    days: int | None,
    success: Collection[str],
    *,
    by: pl.DataFrame | None = None,
    until: int | None = None,
) -> pl.DataFrame:
    """Count the people who had each item in the last days before a given time.

    The columns are ITEM_ID and popularity, the number of people who had the item. The most popular
    items come first, and ties are in the order of ids. With `by`, the column reason comes first,
    and the rows of a reason are together. Then an item is left out unless at least FEWEST_PEOPLE
    people had it, because otherwise a list would show the choices of a single person.

    days: the number of days; None for all time.
    success: the types of events that count; all types count if it is empty.
    by: the columns USER_ID and reason. The reason names a group of users who are counted together.
    until: the given time, in epoch seconds; None for the time of the newest interaction.
    """
    counted = interactions.filter(is_of_types(interactions, success))
    if until is not None:
        counted = counted.filter(pl.col(TIMESTAMP) <= until)
    if days is not None:
        newest = until
        if newest is None:
            newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        counted = counted.filter(pl.col(TIMESTAMP) > (newest or 0) - days * SECONDS_A_DAY)
    groups = []
    if by is not None:
        groups = ["reason"]
        counted = counted.join(by.lazy().select(USER_ID, "reason"), on=USER_ID)
    return (
        counted.group_by(*groups, ITEM_ID)
        .agg(popularity=pl.col(USER_ID).n_unique().cast(pl.Int64))
        .filter(pl.col("popularity") >= (1 if by is None else FEWEST_PEOPLE))
        .collect(engine="streaming")
        .sort(*groups, -pl.col("popularity"), ITEM_ID)
    )
