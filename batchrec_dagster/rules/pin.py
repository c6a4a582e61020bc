"""The rule pin: an item has a fixed rank, for everybody or for some users, until a day."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.rules.conditions import find_matches
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers
from batchrec_dagster.rules.rule import ItemFilter
from batchrec_dagster.rules.settings import Pin

NAME = "pin"
NO_ITEM = -1

PinnedRanks = np.ndarray[tuple[int, int], np.dtype[np.int32]]


class PinnedItems:
    """The rule, for the users and items of a run."""

    def __init__(
        self, pins: Sequence[Pin], context: RuleContext, filters: Sequence[ItemFilter]
    ) -> None:
        """Find the users of each pin.

        filters: the rules that pinned items obey.
        """
        self._pins = [pin for pin in pins if not pin.is_over(context.today)]
        self._filters = filters
        ids = pl.Series([pin.item for pin in self._pins], dtype=pl.String)
        self._items = context.catalogue.find_numbers(ids)
        self.exists = context.catalogue.exists[self._items]
        """Whether each item of `pins` is known."""
        self.is_allowed = self._find_allowed(context)
        """Whether the filters allow each item of `pins` for some user."""
        self._is_for = [
            _find_users(pin.users, context) & is_allowed
            for pin, is_allowed in zip(self._pins, self.is_allowed, strict=True)
        ]

    @property
    def pins(self) -> list[Pin]:
        """The pins that are not over."""
        return self._pins

    def place(self, users: Numbers, num_results: int) -> PinnedRanks:
        """The pinned item of each rank and list.

        users: the user of each list.
        Returns the items as rows of ranks, -1 where nothing is pinned.
        """
        pinned = np.full((num_results, len(users)), NO_ITEM, dtype=np.int32)
        for pin, item, is_for in zip(self._pins, self._items, self._is_for, strict=True):
            items = np.full(len(users), item)
            is_placed = is_for[users] & (pinned[pin.rank - 1] == NO_ITEM)
            is_placed &= ~(pinned == item).any(axis=0)
            for item_filter in self._filters:
                is_placed &= item_filter.allow(users, items)
            pinned[pin.rank - 1, is_placed] = item
        return pinned

    def _find_allowed(self, context: RuleContext) -> Mask:
        is_allowed = self.exists.copy()
        if context.service_filter is not None:
            is_allowed &= context.service_filter.may_allow[self._items]
        # Nobody has had an item, or a range of prices, who is not in the interactions.
        nobody = np.full(len(self._items), len(context.user_ids))
        for item_filter in self._filters:
            is_allowed &= item_filter.allow(nobody, self._items)
        return is_allowed


def _find_users(condition: str | None, context: RuleContext) -> Mask:
    """Which users meet the condition; the entry after the last is for any other user."""
    if condition is None:
        return np.ones(len(context.user_ids) + 1, dtype=bool)
    if context.users is None:
        return np.zeros(len(context.user_ids) + 1, dtype=bool)
    matching = context.users.filter(
        find_matches(parse_condition(condition), context.users)
    ).get_column(USER_ID)
    return np.append(context.user_ids.is_in(matching.implode()).to_numpy(), False)
