"""The inputs of a table's lists besides the lines of the batch job, and the facts rules look up.

To save memory, tables hold numbers in place of the ids of users and items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import polars as pl

from batchrec_dagster.config import ListTable, fingerprint
from batchrec_dagster.config.list_columns import REASON_TITLE
from batchrec_dagster.config.lists import PopularBy
from batchrec_dagster.config.rules import RuleSettings
from batchrec_dagster.personalize.conditions import add_age_column, find_matches
from batchrec_dagster.personalize.filters import parse_condition
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, USER_ID
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.items import (
    find_titled_items,
    read_attributes,
    read_item_columns,
    read_item_columns_versions,
    read_item_list,
    read_titles,
)
from batchrec_dagster.steps.data.popular_items import PopularItems, read_popular_items
from batchrec_dagster.steps.data.user_attributes import read_user_attributes
from batchrec_dagster.steps.lists.audience import Audience
from batchrec_dagster.steps.lists.counts import Histories

EXISTS = "exists"
"""The column of the catalogue that says whether an item has attributes or interactions.

It is false for an item that only a rule names."""


@dataclass(frozen=True)
class ListInputs:
    """The data that turn lines into rows of lists, and the facts that rules look up."""

    num_results: int
    """The number of items on a list."""
    subject_ids: pl.Series
    """The distinct ids that get a list. The number of a user is the index of the user's id."""
    interactions: pl.LazyFrame
    """The interactions, with the columns of Personalize's dataset. There may be interactions of
    other users too."""
    items_had: pl.Series
    """The distinct ids of the items in the interactions."""
    data_until: int
    """The time of the newest interaction, in epoch seconds. Periods of days end at this time, so
    that the same data give the same lists on any day."""
    today: date
    """The day of the run, in UTC. Settings with a last day are in effect up to that day."""
    items: pl.DataFrame | None = None
    """ITEM_ID and the columns of the Items dataset; None if no rule reads these columns."""
    users: pl.DataFrame | None = None
    """USER_ID and the columns of the Users dataset; None if no rule reads these columns."""
    blocked: pl.Series | None = None
    """The ids of the items that the rule `block` leaves out; None without this rule."""
    titled: pl.Series | None = None
    """The ids of the items with a title; None if lists may have items without a title."""
    pinned: Sequence[str] = ()
    """The ids that the rule `pin` names."""
    popular: PopularItems | None = None
    """The popular items; None if no list needs any."""
    fills_lists_of_model: bool = True
    """Whether popular items fill the model's lists too, not only make lists of their own."""
    item_columns: pl.DataFrame | None = None
    """The column item_id and the lists' columns of items; None if the lists have ids alone."""
    titles: pl.DataFrame | None = None
    """The columns item_id and title; None if no reason has a title."""

    @cached_property
    def catalogue(self) -> pl.DataFrame:
        """The items of the interactions, the Items dataset and the rules: a row for each item.

        An item's number is the index of its row. The columns are ITEM_ID, EXISTS and the
        attributes. The last row stands for any unknown item: its id and attributes are null.
        """
        item_columns = pl.DataFrame(schema={ITEM_ID: pl.String})
        if self.items is not None:
            item_columns = add_age_column(self.items, self.data_until).unique(ITEM_ID, keep="first")
        existing = pl.concat([self.items_had.sort(), item_columns.get_column(ITEM_ID)])
        named = [pl.Series(self.pinned, dtype=pl.String)]
        declared = (self.popular_ids, self.blocked, self.titled)
        named += [ids for ids in declared if ids is not None]
        ids = pl.concat([existing, *named]).drop_nulls().unique(maintain_order=True)
        rows = pl.DataFrame({ITEM_ID: pl.concat([ids, pl.Series([None], dtype=pl.String)])})
        exists = pl.col(ITEM_ID).is_in(existing.implode()).fill_null(value=False)
        return rows.with_columns(exists.alias(EXISTS)).join(
            item_columns, on=ITEM_ID, how="left", maintain_order="left"
        )

    @property
    def item_ids(self) -> pl.Series:
        """The ids of the catalogue's items, by number."""
        return self.catalogue.get_column(ITEM_ID).head(-1)

    @property
    def popular_ids(self) -> pl.Series | None:
        """The ids of popular items, the most popular first; None if no list needs any."""
        return None if self.popular is None else self.popular.ids

    def match_items(self, condition: str) -> pl.Series:
        """Return whether each row of the catalogue meets the condition."""
        return find_matches(parse_condition(condition), self.catalogue)

    def match_users(self, condition: str | None) -> pl.Series:
        """Return whether each user meets the condition, by the user's number.

        The last value is for any other user. All values are true if there is no condition.
        """
        if condition is None:
            return pl.Series([True]).new_from_index(0, len(self.subject_ids) + 1)
        matching = pl.Series(dtype=pl.String)
        if self.users is not None:
            meets = find_matches(parse_condition(condition), self.users)
            matching = self.users.filter(meets).get_column(USER_ID)
        return pl.concat([self.subject_ids.is_in(matching.implode()), pl.Series([False])])

    def find_items(self, ids: pl.Series) -> pl.Series:
        """Return whether each row of the catalogue is one of these items."""
        return self.catalogue.get_column(ITEM_ID).is_in(ids.implode()).fill_null(value=False)

    def read_column(self, name: str) -> pl.Series:
        """Return the column of the catalogue with this name, in upper or lower case.

        The index of a value is the number of the item.
        """
        return next(column for column in self.catalogue if column.name.upper() == name.upper())

    @cached_property
    def event_types(self) -> set[str] | None:
        """The event types of the interactions, in lower case; None if they have no types."""
        if EVENT_TYPE not in self.interactions.collect_schema():
            return None
        types = self.interactions.select(pl.col(EVENT_TYPE).str.to_lowercase().unique())
        return set(types.collect(engine="streaming").to_series().drop_nulls())


def read_blocked(step: StepContext, published: ListTable) -> pl.Series | None:
    """Return the ids of the items that the rule `block` leaves out; None without this rule.

    Raises UserError.
    """
    rules = published.settings.applied_rules
    if rules is None or rules.block is None:
        return None
    return read_item_list(step, rules.block, f"{published.setting}.rules.block")


def read_versions(
    step: StepContext, published: ListTable, blocked: pl.Series | None, today: date
) -> Mapping[str, str]:
    """Return a text for each input, by name, that changes when the input would make other lists.

    The versions are read before the inputs. If a file changes in between, the next run finds
    another version and publishes again.

    blocked: the ids that the rule `block` leaves out; None without this rule.
    Raises UserError.
    """
    settings = published.settings
    rules = settings.applied_rules or RuleSettings()
    versions = {
        "pins": fingerprint([pin.target for pin in rules.pin if not pin.is_over(today)]),
        "columns": fingerprint(*read_item_columns_versions(step, published)),
    }
    if settings.rules_read_items:
        versions["items"] = step.files.asset_version("items")
    if rules.reads_users or isinstance(settings.newcomers, PopularBy):
        versions["users"] = step.files.asset_version("users")
    if blocked is not None:
        versions["blocked"] = fingerprint(blocked.to_list())
    return versions


def read_inputs(
    step: StepContext,
    published: ListTable,
    audience: Audience,
    interactions: pl.LazyFrame,
    histories: Histories,
    blocked: pl.Series | None,
    today: date,
) -> ListInputs:
    """Return the data that turn lines into the rows of the lists. Raises UserError.

    audience: the users, items or segments, divided by the kind of list that they get.
    histories: the counts of the interactions.
    blocked: the ids that the rule `block` leaves out; None without this rule.
    today: the day of the run, in UTC.
    """
    settings = published.settings
    rules = settings.applied_rules or RuleSettings()
    popular, fills = None, published.is_for_people and settings.applied_rules is not None
    if fills or audience.popular.height:
        groups = audience.popular.get_column("reason")
        popular = read_popular_items(step, published, interactions, groups)
    return ListInputs(
        num_results=settings.num_results,
        subject_ids=audience.served,
        interactions=interactions,
        items_had=histories.items.get_column("item"),
        data_until=histories.last,
        today=today,
        items=read_attributes(step) if settings.rules_read_items else None,
        users=read_user_attributes(step) if rules.reads_users else None,
        blocked=blocked,
        titled=find_titled_items(step, published, interactions) if published.has_items else None,
        pinned=[pin.item for pin in rules.pin if pin.item is not None],
        popular=popular,
        fills_lists_of_model=fills,
        item_columns=read_item_columns(step, published) if published.has_item_columns else None,
        titles=read_titles(step) if REASON_TITLE in published.columns else None,
    )
