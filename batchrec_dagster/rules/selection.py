"""Lists of a piece of users, filled item by item, all lists at once.

The lists stand in columns: `items[3, 7]` is the fourth candidate of the eighth list. A loop over
the candidates' places, not over users, asks the rules about one candidate of each list at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from batchrec_dagster.rules.max_per import CategoryCounter
from batchrec_dagster.rules.pairs import Mask, Masks, Matrix, Numbers
from batchrec_dagster.rules.pin import NO_ITEM, PinnedRanks

# The place of a popular item among the candidates is this and its rank, after all of the model's.
FIRST_POPULAR = 1_000_000
# What stands at a rank without a candidate: after all places.
EMPTY = np.iinfo(np.int32).max


class ListSelection:
    """The candidates that are chosen for each list.

    pinned: the pinned items, as `PinnedItems.place` returns them. They take places from the start.
    limits: counts for max_per what is on each list, the pinned items first; None without the rule.
    unknown: the number of all items that are not in the catalogue.
    """

    def __init__(self, pinned: PinnedRanks, limits: CategoryCounter | None, unknown: int) -> None:
        self._pinned = pinned
        self._unknown = unknown
        self._limits = limits
        num_results, lists = pinned.shape
        self._places = np.full((num_results, lists), EMPTY, dtype=np.int32)
        self._items = np.full((num_results, lists), NO_ITEM, dtype=np.int32)
        self._sizes = np.zeros(lists, dtype=np.int64)
        self._capacities = num_results - (pinned != NO_ITEM).sum(axis=0)
        self.refused = 0
        """How many of the model's candidates max_per did not admit to a list with free places."""
        for items in pinned:
            lists_pinned = np.flatnonzero(items != NO_ITEM)
            if limits is not None:
                limits.add(lists_pinned, items[lists_pinned].astype(np.int64))

    @property
    def open_lists(self) -> Numbers:
        """The numbers of the lists with free places."""
        return self._keep_open(np.arange(len(self._sizes)))

    def fill(self, items: Matrix, allowed: Masks) -> None:
        """Fill the lists from the model's candidates, in their order.

        allowed: which candidates may be on a list.
        """
        lists = self.open_lists
        for place in range(len(items)):
            lists = self._keep_open(lists)
            if not len(lists):
                break
            offered = lists[allowed[place, lists]]
            self._offer(offered, items[place, offered].astype(np.int64), place)

    def fill_from_popular(self, items: Numbers, allow: Callable[[Numbers, Numbers], Mask]) -> None:
        """Fill lists that are too short from popular items, in their order.

        allow: whether the user of each list may get the item, by the numbers of both.
        """
        lists = self.open_lists
        for rank, item in enumerate(items):
            lists = self._keep_open(lists)
            if not len(lists):
                break
            offered = lists[~self._have(lists, np.full(len(lists), item))]
            offered = offered[allow(offered, np.full(len(offered), item))]
            self._offer(offered, np.full(len(offered), item), FIRST_POPULAR + rank)

    def rank_places(self) -> Matrix:
        """The place of the candidate of each rank and list.

        It is -1 - ITEM for a pinned item, and EMPTY below the end of a list. All other items are in
        the order of the candidates, so popular items come last.
        """
        ordered = np.sort(self._places, axis=0)
        is_pinned = self._pinned != NO_ITEM
        with_pins = np.flatnonzero(is_pinned.any(axis=0))
        if len(with_pins):
            pins = is_pinned[:, with_pins]
            free_ranks = np.maximum(np.cumsum(~pins, axis=0) - 1, 0)
            others = np.take_along_axis(ordered[:, with_pins], free_ranks, axis=0)
            merged = np.where(pins, -1 - self._pinned[:, with_pins], others)
            # On a list that is too short for a pinned item's rank, the item comes last.
            order = np.argsort(merged == EMPTY, axis=0, kind="stable")
            ordered[:, with_pins] = np.take_along_axis(merged, order, axis=0)
        return ordered

    def _keep_open(self, lists: Numbers) -> Numbers:
        """Those of the lists that have free places."""
        is_open: Mask = self._sizes[lists] < self._capacities[lists]
        return lists[is_open]

    def _offer(self, lists: Numbers, items: Numbers, place: int) -> None:
        """Put the item on each of these lists, if max_per admits it."""
        if self._limits is not None:
            admitted = self._limits.admit(lists, items)
            if place < FIRST_POPULAR:
                self.refused += int(len(admitted) - admitted.sum())
            lists, items = lists[admitted], items[admitted]
            self._limits.add(lists, items)
        self._places[self._sizes[lists], lists] = place
        self._items[self._sizes[lists], lists] = items
        self._sizes[lists] += 1

    def _have(self, lists: Numbers, items: Numbers) -> Mask:
        """Whether each list has the item already."""
        chosen = (self._items[:, lists] == items).any(axis=0)
        pinned = (self._pinned[:, lists] == items).any(axis=0)
        # Different items have the number of unknown ones.
        has_item: Mask = (chosen | pinned) & (items != self._unknown)
        return has_item
