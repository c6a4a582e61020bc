"""The facts about users and items that the rules of lists need.

To save memory, tables hold numbers in place of the ids of users and items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.config.rules import ExcludeSeen, PriceRange
from batchrec_dagster.personalize.conditions import (
    add_age_column,
    find_matches,
)
from batchrec_dagster.personalize.filters import parse_condition
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    ITEM_ID,
    SECONDS_A_DAY,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.steps.numbered_ids import find_positions
from batchrec_dagster.steps.success import is_of_types

EXISTS = "exists"
"""The column of the catalogue that says whether an item has attributes or interactions.

It is false for an item that only a rule names."""


@dataclass(frozen=True)
class RuleContext:
    """The facts about users and items that rules need when they are applied."""

    num_results: int
    """The number of items on a list."""
    user_ids: pl.Series
    """The distinct ids of the users who get lists. A user's number is the index of the id."""
    interactions: pl.LazyFrame
    """The interactions, with the columns of Personalize's dataset. There may be interactions of
    other users too."""
    items_had: pl.Series
    """The distinct ids of the items in the interactions."""
    data_until: int
    """The time of the newest interaction, in epoch seconds. Periods of days end at this time, so
    that the same data give the same lists on any day."""
    today: date
    """The day of the run. Settings with a last day are in effect up to that day."""
    items: pl.DataFrame | None = None
    """ITEM_ID and the columns of the Items dataset; None if no rule reads these columns."""
    users: pl.DataFrame | None = None
    """USER_ID and the columns of the Users dataset; None if no rule reads these columns."""
    popular: pl.Series | None = None
    """The ids of popular items, the most popular first. They fill lists that are too short."""
    fills_lists_of_model: bool = True
    """Whether popular items fill the model's lists too. They do if lists have rules."""
    blocked: pl.Series | None = None
    """The ids that the rule `block` names; None without the rule."""
    titled: pl.Series | None = None
    """The ids of the items with a title; None if lists may have items without a title."""
    pinned: Sequence[str] = ()
    """The ids that the rule `pin` names."""

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
        declared = (self.popular, self.blocked, self.titled)
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

    def match_items(self, condition: str) -> pl.Series:
        """Return whether each row of the catalogue meets the condition."""
        return find_matches(parse_condition(condition), self.catalogue)

    def match_users(self, condition: str | None) -> pl.Series:
        """Return whether each user meets the condition, by the user's number.

        The last value is for any other user. All values are true if there is no condition.
        """
        if condition is None:
            return pl.Series([True]).new_from_index(0, len(self.user_ids) + 1)
        matching = pl.Series(dtype=pl.String)
        if self.users is not None:
            meets = find_matches(parse_condition(condition), self.users)
            matching = self.users.filter(meets).get_column(USER_ID)
        return pl.concat([self.user_ids.is_in(matching.implode()), pl.Series([False])])

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

    def read_histories(
        self, selections: Mapping[str, ExcludeSeen | PriceRange]
    ) -> dict[str, pl.Series]:
        """Read the items that each user had, separately for each of these rules.

        The result has a series for each rule, by the rule's name. The index of a history in the
        series is the user's number, and the last history, for any other user, is empty. A history
        holds the numbers of the user's distinct items, in order. The interactions are read only
        once for all rules, because reading takes longer than everything else before lists are
        made.
        """
        if not selections:
            return {}
        user, item = (
            find_positions(column, ids).cast(pl.UInt64)
            for column, ids in ((USER_ID, self.user_ids), (ITEM_ID, self.item_ids))
        )
        conditions = {
            name: is_selected(self.interactions, selection, self.data_until)
            for name, selection in selections.items()
        }
        pairs = (
            self.interactions.select(pair=user * 2**32 + item, **conditions)
            .filter(pl.any_horizontal(*conditions))
            .drop_nulls()
            .collect(engine="streaming")
        )
        codes = pairs.drop_in_place("pair").to_numpy(writable=True)
        histories = {}
        for name in conditions:
            is_selected_pair = pairs.drop_in_place(name)
            # The last rule needs no copy of the pairs if it selects all of them.
            is_copy_needed = pairs.width or not is_selected_pair.all()
            selected = codes[is_selected_pair.to_numpy()] if is_copy_needed else codes
            histories[name] = _list_items(selected, len(self.user_ids))
        return histories


def measure_history(
    interactions: pl.LazyFrame, users: pl.Series, seen: ExcludeSeen, data_until: int, share: float
) -> int:
    """Return a quantile over users of the number of items that exclude_seen leaves out.

    At least the given share of the users have at most this many such items.

    users: the distinct ids of the users to look at. A user without such items counts with 0.
    data_until: the time of the newest interaction, in epoch seconds.
    share: the share of users, from 0 to 1. With 1, the result is the largest number of any user.
    """
    lengths = (
        interactions.filter(is_selected(interactions, seen, data_until))
        .filter(pl.col(USER_ID).is_in(users.implode()))
        .group_by(USER_ID)
        .agg(items=pl.col(ITEM_ID).n_unique())
        .collect(engine="streaming")
        .get_column("items")
    )
    without = pl.Series([0], dtype=lengths.dtype).new_from_index(0, len(users) - len(lengths))
    return int(pl.concat([lengths, without]).quantile(share, "higher") or 0)


def is_selected(
    interactions: pl.LazyFrame, selection: ExcludeSeen | PriceRange, data_until: int
) -> pl.Expr:
    """Return an expression for whether an interaction counts for the rule.

    A rule may name event types, in upper or lower case. The rule exclude_seen may also name a
    number of last days.
    """
    condition = is_of_types(interactions, selection.events or ())
    if isinstance(selection, ExcludeSeen) and selection.days is not None:
        condition &= pl.col(TIMESTAMP) > data_until - selection.days * SECONDS_A_DAY
    return condition.fill_null(value=False)


def _list_items(pairs: npt.NDArray[np.uint64], users: int) -> pl.Series:
    """Return the numbers of the items of each user, as a list for each user.

    The index of a list is the user's number. The last list, for any other user, is empty.

    pairs: the number of a user times 2**32, plus the number of an item. The array is sorted in
        place, because sorting with Polars would take three times the memory.
    users: the number of users.
    """
    import pyarrow as pa  # Not imported when Dagster only loads the pipelines.

    pairs.sort()
    repeats = 1 + np.flatnonzero(pairs[1:] == pairs[:-1])
    starts = np.searchsorted(pairs, np.arange(users + 2, dtype=np.uint64) << np.uint64(32))
    starts -= np.searchsorted(repeats, starts)
    # The lower half of each pair is the item's number.
    items = np.delete(pairs.astype(np.uint32), repeats)
    return pl.Series(pa.LargeListArray.from_arrays(starts, items), dtype=pl.List(pl.UInt32))


def encode_pairs(rows: pl.DataFrame, column: str) -> pl.Series:
    """Return for each row a number that stands for its list and its value in the given column.

    The result is the number of the list times 2**32, plus the value.
    """
    pair = pl.col("list").cast(pl.UInt64) * 2**32 + pl.col(column)
    return rows.select(pair.alias("pair")).to_series()
