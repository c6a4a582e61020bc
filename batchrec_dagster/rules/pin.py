"""The rule pin: an item, or the best one of a condition, has a fixed rank on the list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl

from batchrec_dagster.config.rules import Pin
from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Masks, Matrix, Numbers
from batchrec_dagster.rules.rule import ItemFilter

NAME = "pin"
NO_ITEM = -1

PinnedRanks = Matrix


class PinnedItems:
    """The rule, for the users and items of a run."""

    def __init__(
        self, pins: Sequence[Pin], context: RuleContext, filters: Sequence[ItemFilter]
    ) -> None:
        """Find the items and the users of each pin.

        filters: the rules that pinned items obey.
        """
        self._pins = [pin for pin in pins if not pin.is_over(context.today)]
        self._filters = filters
        self._items = [_find_items(pin, context) for pin in self._pins]
        self.exists = [bool(len(items)) for items in self._items]
        """Whether there is an item for each of `pins`."""
        self.is_allowed = [self._is_any_allowed(items, context) for items in self._items]
        """Whether the filters allow such an item for some user."""
        self._is_for = [_find_users(pin.users, context) for pin in self._pins]
        self._matches = [_mark_items(items, context) for items in self._items]
        self._shares = [context.catalogue.measure_share(matches) for matches in self._matches]

    @property
    def pins(self) -> list[Pin]:
        """The pins that are not over."""
        return self._pins

    def place(
        self, users: Numbers, num_results: int, candidates: Matrix, allowed: Masks
    ) -> tuple[PinnedRanks, Mask]:
        """The pinned item of each rank and list.

        users: the user of each list.
        candidates: the model's results of each list.
        allowed: which of them the filters allow.
        Returns the items as rows of ranks, -1 where nothing is pinned; and whether each list has no
        candidate that meets a pin's condition.
        """
        pinned = np.full((num_results, len(users)), NO_ITEM, dtype=np.int32)
        unmet = np.zeros(len(users), dtype=bool)
        for number, pin in enumerate(self._pins):
            is_open = self._is_for[number][users] & (pinned[pin.rank - 1] == NO_ITEM)
            if pin.item is None:
                items = self._choose_best(number, candidates, allowed, pinned)
                is_placed = is_open & (items != NO_ITEM)
                unmet |= is_open & ~is_placed
            elif self.exists[number]:
                items = np.full(len(users), self._items[number][0])
                is_placed = is_open & ~(pinned == items).any(axis=0)
                for item_filter in self._filters:
                    is_placed &= item_filter.allow(users, items)
            else:
                continue
            pinned[pin.rank - 1, is_placed] = items[is_placed]
        return pinned, unmet

    def count_more_results(self, num_results: int) -> int:
        """Enough to find twice as many as the pins' conditions take among the results."""
        pins_of = Counter(pin.only for pin in self._pins)
        needed = [
            2 * pins_of[pin.only] / share
            for pin, share in zip(self._pins, self._shares, strict=True)
            if pin.only is not None and share
        ]
        return max(0, round(min(1e6, max(needed, default=0.0))) - num_results)

    def _choose_best(
        self, number: int, candidates: Matrix, allowed: Masks, pinned: PinnedRanks
    ) -> Numbers:
        """The first candidate of each list that meets the pin's condition and is not pinned."""
        best = np.full(candidates.shape[1], NO_ITEM, dtype=np.int64)
        for items, may_have in zip(candidates, allowed, strict=True):
            is_best = may_have & self._matches[number][items] & (best == NO_ITEM)
            is_best &= ~(pinned == items).any(axis=0)
            best[is_best] = items[is_best]
        return best

    def _is_any_allowed(self, items: Numbers, context: RuleContext) -> bool:
        is_allowed = np.ones(len(items), dtype=bool)
        # Nobody has had an item, or a range of prices, who is not in the interactions.
        nobody = np.full(len(items), len(context.user_ids))
        for item_filter in self._filters:
            is_allowed &= item_filter.allow(nobody, items)
        return bool(is_allowed.any())


def _find_items(pin: Pin, context: RuleContext) -> Numbers:
    """The numbers of the items that a pin may put on lists."""
    catalogue = context.catalogue
    if pin.only is not None:
        return np.flatnonzero(catalogue.match(parse_condition(pin.only)) & catalogue.exists)
    items = catalogue.find_numbers(pl.Series([pin.item], dtype=pl.String))
    existing: Numbers = items[catalogue.exists[items]]
    return existing


def _mark_items(items: Numbers, context: RuleContext) -> Mask:
    """Whether each item of the catalogue, and any other, is one of these."""
    is_one = np.zeros(context.catalogue.other + 1, dtype=bool)
    is_one[items] = True
    return is_one


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
