"""What each user met, as a model sees it: distinct items, newest first, weighted by recency."""

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

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class History:
    """The histories of some users: distinct items of each, newest first."""

    starts: Int64  # (users + 1,): user u has entries starts[u]:starts[u + 1]
    items: Int32  # (entries,) index into the model's items
    ranks: Float32  # (entries,) 0 is the newest; items met at the same second share their mean rank
    n_items: int

    @property
    def lengths(self) -> Int64:
        """(users,): how many distinct items each met."""
        return np.diff(self.starts)

    def slice(self, first: int, last: int) -> History:
        """The histories of the users from `first` to before `last`."""
        starts = self.starts[first : last + 1]
        entries = slice(starts[0], starts[-1])
        return History(starts - starts[0], self.items[entries], self.ranks[entries], self.n_items)

    def weights(self, power: float) -> csr_matrix:
        """(users, n_items) float32: (1 + rank)^-power where the user met the item, else 0.

        Power 0 weighs all alike. Recency at scoring time needs no training of its own.
        """
        data = (1 + self.ranks) ** np.float32(-power)
        return csr_matrix(
            (data, self.items, self.starts), shape=(len(self.starts) - 1, self.n_items)
        )


class Histories:
    """Looks up histories of users in interactions, in the item order of a model."""

    def __init__(self, interactions: Interactions, item_ids: Ids) -> None:
        """Items that are not in `item_ids` are as if they had never been met."""
        self._interactions = interactions
        self._items = positions(item_ids, interactions.item_ids)
        self._n_items = len(item_ids)

    def users(self, user_ids: Sequence[str] | Ids) -> Int32:
        """(len(user_ids),): each user's index for `of`, -1 when nothing is known of the user."""
        return positions(self._interactions.user_ids, user_ids)

    def of(self, users: Int32) -> History:
        """The histories of users given by index; that of -1 is empty."""
        data = self._interactions
        known = np.maximum(users, 0)
        first = data.starts[known] if len(data) else np.zeros(len(users), np.int64)
        last = np.where(users < 0, first, data.starts[known + 1] if len(data) else 0)
        lengths = last - first
        owner = np.repeat(np.arange(len(users)), lengths)
        # Row numbers in `data`, newest first within each user.
        newest_first = np.repeat(last + np.cumsum(lengths) - lengths, lengths) - 1
        rows = newest_first - np.arange(len(owner))
        items = self._items[data.items[rows]]
        keep = items >= 0
        owner, items, times = owner[keep], items[keep], data.timestamps[rows][keep]
        # A repeated item counts once, where it was met last.
        _, once = np.unique(owner * self._n_items + items, return_index=True)
        once.sort()
        owner, items, times = owner[once], items[once], times[once]
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(users)))])
        return History(starts, items, _shared_ranks(owner, times, starts), self._n_items)


def _shared_ranks(owner: Int64, times: Int64, starts: Int64) -> Float32:
    """Rank within each owner, in order; equal times share the mean, so a tie favours no item."""
    if not len(owner):
        return np.zeros(0, dtype=np.float32)
    ranks = np.arange(len(owner)) - starts[owner]
    opens = np.concatenate([[True], (np.diff(owner) != 0) | (np.diff(times) != 0)])
    at = np.flatnonzero(opens)
    lengths = np.diff(np.concatenate([at, [len(owner)]]))
    return np.repeat(ranks[at] + (lengths - 1) / 2, lengths).astype(np.float32)
