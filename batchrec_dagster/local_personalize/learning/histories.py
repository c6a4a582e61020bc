"""User histories as models read them: distinct items, newest first, weighted by recency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.interactions import (
    Ids,
    Int32,
    Int64,
    Interactions,
    positions,
)
from batchrec_dagster.local_personalize.learning.threads import ordered_map, pieces

Float32 = npt.NDArray[np.float32]

# Interactions processed at once, at some tens of bytes each.
AT_ONCE = 1 << 20


@dataclass(frozen=True)
class History:
    """The histories of some users: the distinct items of each, newest first."""

    starts: Int64  # (users + 1,): user u has entries starts[u]:starts[u + 1]
    items: Int32  # (entries,) index into the model's items
    ranks: Float32  # (entries,) 0 is the newest; items of the same second share their mean rank
    n_items: int

    @property
    def lengths(self) -> Int64:
        """(users,): the number of distinct items of each."""
        return np.diff(self.starts)

    def slice(self, first: int, last: int) -> History:
        """The histories of the users from `first` to before `last`."""
        starts = self.starts[first : last + 1]
        entries = slice(starts[0], starts[-1])
        return History(starts - starts[0], self.items[entries], self.ranks[entries], self.n_items)

    def recency_weights(self, exponent: float) -> csr_matrix:
        """(users, n_items) float32: (1 + rank)^-exponent for the items of a history, else 0.

        Exponent 0 gives all items weight 1. Recency applies to scoring, not to training.
        """
        data = (1 + self.ranks) ** np.float32(-exponent)
        return csr_matrix(
            (data, self.items, self.starts), shape=(len(self.starts) - 1, self.n_items)
        )


class Histories:
    """Looks up histories of users in interactions, in the item order of a model."""

    def __init__(self, interactions: Interactions, item_ids: Ids) -> None:
        """Ignore interactions with items that are not in `item_ids`."""
        self._interactions = interactions
        self._items = positions(item_ids, interactions.item_ids)
        self._n_items = len(item_ids)

    def users(self, user_ids: Sequence[str] | Ids) -> Int32:
        """(len(user_ids),): the index of each user for `of_users`, -1 for an unknown user."""
        return positions(self._interactions.user_ids, user_ids)

    def of_users(self, users: Int32) -> History:
        """The histories of users given by index; empty for -1."""
        first, last = self._rows(users)
        starts = np.concatenate([[0], np.cumsum(last - first)])
        if starts[-1] <= AT_ONCE:
            return self._history(first, last)

        def block(part: slice) -> History:
            return self._history(first[part], last[part])

        parts = list(ordered_map(block, pieces(starts, AT_ONCE)))
        lengths = np.concatenate([part.lengths for part in parts])
        return History(
            np.concatenate([[0], np.cumsum(lengths)]),
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            self._n_items,
        )

    def _rows(self, users: Int32) -> tuple[Int64, Int64]:
        """The first row of each user's interactions, and the one after the last."""
        starts = self._interactions.starts
        if len(starts) == 1:
            return np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        known = np.maximum(users, 0)
        return starts[known], np.where(users < 0, starts[known], starts[known + 1])

    def _history(self, first: Int64, last: Int64) -> History:
        data = self._interactions
        lengths = last - first
        owner = np.repeat(np.arange(len(first), dtype=np.int32), lengths)
        # Row numbers in `data`, newest first within each user.
        rows = np.repeat(last + np.cumsum(lengths) - lengths, lengths) - 1
        rows -= np.arange(len(owner))
        items = self._items[data.items[rows]]
        times = data.timestamps[rows]
        keep = items >= 0
        if not keep.all():
            owner, items, times = owner[keep], items[keep], times[keep]
        again = _repeat_entries(owner, items, len(first), self._n_items)
        if len(again):
            owner, items, times = (np.delete(column, again) for column in (owner, items, times))
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(first)))])
        return History(starts, items, _mean_ranks(owner, times, starts), self._n_items)


def _repeat_entries(owner: Int32, items: Int32, users: int, n_items: int) -> Int64:
    """The entries whose item the same user has more recently: an item counts once."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=users))])
    entries = np.arange(len(items), dtype=np.int32)
    # A counting sort by item, then user, then entry.
    by_item = csr_matrix((entries, items, starts), shape=(users, n_items)).tocsc()
    same = np.diff(by_item.indices, prepend=-1) == 0
    opens = by_item.indptr[:-1]
    same[opens[opens < len(same)]] = False
    return np.asarray(by_item.data[same])


def _mean_ranks(owner: Int32, times: Int64, starts: Int64) -> Float32:
    """The rank of each entry within its owner; equal times share the mean rank."""
    if not len(owner):
        return np.zeros(0, dtype=np.float32)
    ranks = np.arange(len(owner)) - starts[owner]
    opens = np.concatenate([[True], (np.diff(owner) != 0) | (np.diff(times) != 0)])
    at = np.flatnonzero(opens)
    lengths = np.diff(np.concatenate([at, [len(owner)]]))
    return np.repeat(ranks[at] + (lengths - 1) / 2, lengths).astype(np.float32)
