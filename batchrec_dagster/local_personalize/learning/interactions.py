"""Interactions as sorted arrays of numbers, and the histories of users that models read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID

from .threads import ordered_map, row_ranges

if TYPE_CHECKING:
    from .item_features import ItemFeatures


class TrainingError(ValueError):
    """The data cannot be trained on; the message is for the user."""


class ModelFileError(Exception):
    """A file of a saved model or of saved interactions is missing or damaged; names the file."""


Ids = npt.NDArray[np.object_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Entries = slice | npt.NDArray[np.bool_]

WEIGHT = "WEIGHT"

SORTED_AT_ONCE = 4 << 20
ROWS_AT_ONCE = 1 << 20  # interactions made histories at once, at some tens of bytes each


@dataclass(frozen=True)
class Interactions:
    """One row per interaction, sorted by user, time and item id.

    The order depends on the data alone, so shuffled input gives the same object.
    """

    user_ids: Ids  # (n_users,) distinct str, sorted by code point
    item_ids: Ids  # (n_items,) distinct str, sorted by code point
    users: Int32  # (n,) index into user_ids
    items: Int32  # (n,) index into item_ids
    timestamps: Int64  # (n,) epoch seconds
    weights: Float32 | None = None  # (n,) of the events, above 0 and at most 1; None: all 1
    rewards: Float64 | None = None  # (n_items,) of the solution's optimizationObjective, if any
    features: ItemFeatures | None = None  # of the Items dataset, if the recipe reads it

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | pl.LazyFrame) -> Interactions:
        """From a frame with USER_ID and ITEM_ID (String) and TIMESTAMP (Int64), in any order.

        A column WEIGHT (Float32), if any, has the weights of the events. Of a lazy frame, the
        strings are never in memory all at once; memory is 32 bytes a row.
        """
        rows = frame.lazy()
        # With sorted categories, the order of an Enum's codes is the order of the ids.
        user_ids, item_ids = _distinct_ids(rows, USER_ID), _distinct_ids(rows, ITEM_ID)
        weights = [pl.col(WEIGHT)] if WEIGHT in rows.collect_schema() else []
        coded = rows.select(
            *weights,
            users=pl.col(USER_ID).cast(pl.Enum(user_ids)).to_physical().cast(pl.Int32),
            timestamps=pl.col(TIMESTAMP).cast(pl.Int64),
            items=pl.col(ITEM_ID).cast(pl.Enum(item_ids)).to_physical().cast(pl.Int32),
        ).collect(engine="streaming")
        return cls(object_ids(user_ids), object_ids(item_ids), *sort_rows(coded, len(user_ids)))

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def starts(self) -> Int64:
        """(n_users + 1,): the rows of user u are starts[u]:starts[u + 1], oldest first."""
        counts = np.bincount(self.users, minlength=len(self.user_ids))
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def item_counts(self) -> Int64:
        """(n_items,): the number of interactions of each item."""
        return np.bincount(self.items, minlength=len(self.item_ids)).astype(np.int64)

    def filter(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Interactions:
        """The rows of a (n,) mask, or of an order, over the same ids."""
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            timestamps=self.timestamps[rows],
            weights=None if self.weights is None else self.weights[rows],
        )


def order_by_popularity(interactions: Interactions) -> npt.NDArray[np.intp]:
    """(n_items,) item indices by falling count, then rising id: the order of every model's items.

    Ties between scores go to the lower index, so to the more popular item.
    """
    return np.argsort(-interactions.item_counts, kind="stable")


def log_popularity(
    interactions: Interactions, order: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """(n_items,): log of each item's count, so that a softmax gives its share of all interactions.

    Items without interactions count 0.5.
    """
    return np.log(np.maximum(interactions.item_counts[order], 0.5)).astype(np.float32)


def find_positions(ids: Ids | pl.Series, wanted: Sequence[str] | Ids) -> Int32:
    """(len(wanted),): the index of each wanted id in the distinct `ids`, -1 if it is not there."""
    known = pl.DataFrame({"id": _strings(ids), "at": np.arange(len(ids), dtype=np.int32)})
    found = pl.DataFrame({"id": _strings(wanted)}).join(
        known, on="id", how="left", maintain_order="left"
    )
    return found["at"].fill_null(-1).to_numpy()


def _distinct_ids(rows: pl.LazyFrame, column: str) -> pl.Series:
    return rows.select(pl.col(column).unique()).collect(engine="streaming")[column].sort()


def sort_rows(coded: pl.DataFrame, n_users: int) -> tuple[Int32, Int32, Int64, Float32 | None]:
    """The columns users, items, timestamps and, if there, WEIGHT, sorted by user, time and item.

    Block by block: sorting all rows at once would take twice their memory.
    """
    counts = np.bincount(coded["users"].to_numpy(), minlength=n_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    users = np.repeat(np.arange(n_users, dtype=np.int32), counts)
    items, timestamps = np.empty(len(users), np.int32), np.empty(len(users), np.int64)
    keys = [name for name in ("users", "timestamps", "items", WEIGHT) if name in coded.columns]
    weights = np.empty(len(users), np.float32) if WEIGHT in keys else None
    for users_block in row_ranges(starts, SORTED_AT_ONCE):
        first, last = users_block.start, users_block.stop
        rows = slice(starts[first], starts[last])
        in_block = pl.col("users").is_between(first, last, closed="left")
        block = coded.filter(in_block).sort(keys)
        items[rows], timestamps[rows] = block["items"].to_numpy(), block["timestamps"].to_numpy()
        if weights is not None:
            weights[rows] = block[WEIGHT].to_numpy()
    return users, items, timestamps, weights


def _strings(values: Sequence[str] | Ids | pl.Series) -> pl.Series:
    return values if isinstance(values, pl.Series) else pl.Series(list(values), dtype=pl.String)


def object_ids(ids: pl.Series) -> Ids:
    # Not numpy's fixed-width strings: they drop trailing NULs and pad every id to the longest
    # (256 characters are allowed, 1 KiB each).
    out = np.empty(len(ids), dtype=object)
    out[:] = ids.to_list()
    return out


@dataclass(frozen=True)
class History:
    """The histories of some users: the distinct items of each, newest first."""

    starts: Int64  # (users + 1,): user u has entries starts[u]:starts[u + 1]
    items: Int32  # (entries,) index into the model's items
    ranks: Float32  # (entries,) 0 is the newest; items of the same second share their mean rank
    n_items: int
    counts: Float32 | None = None  # (entries,) how often each occurs; None: all once
    weights: Float32 | None = None  # (entries,) the largest of its events; None: all 1

    @property
    def lengths(self) -> Int64:
        """(users,): the number of distinct items of each."""
        return np.diff(self.starts)

    def slice(self, first: int, last: int) -> History:
        """The histories of the users from `first` to before `last`."""
        starts = self.starts[first : last + 1]
        return self._with(slice(starts[0], starts[-1]), starts - starts[0], self.n_items)

    def keep_items(self, n_items: int) -> History:
        """The histories without items from `n_items` on."""
        kept = self.items < n_items
        if kept.all():
            return replace(self, n_items=n_items)
        return self._with(kept, np.concatenate([[0], np.cumsum(kept)])[self.starts], n_items)

    def _with(self, entries: Entries, starts: Int64, n_items: int) -> History:
        counts, weights = (
            None if one is None else one[entries] for one in (self.counts, self.weights)
        )
        items, ranks = self.items[entries], self.ranks[entries]
        return History(starts, items, ranks, n_items, counts, weights)

    @property
    def seen(self) -> csr_matrix:
        """(users, n_items) bool: the items of each history."""
        # A copy: where scipy sorts a matrix, it would sort `items` too, and not `ranks`.
        ones = np.ones(len(self.items), dtype=bool)
        shape = len(self.starts) - 1, self.n_items
        return csr_matrix((ones, self.items.copy(), self.starts), shape=shape)

    def weight_by_counts(self, exponent: float) -> History:
        """The histories in which an item that occurs n times weighs n^exponent times as much."""
        if not exponent or self.counts is None:
            return self
        weights = self.counts ** np.float32(exponent)
        return replace(self, weights=weights if self.weights is None else weights * self.weights)

    def recency_weights(self, exponent: float) -> csr_matrix:
        """(users, n_items) float32: (1 + rank)^-exponent for the items of a history, else 0.

        Times the weights of events, if any. Exponent 0 gives all items the same. Recency applies
        to scoring, not to training. It has the array `items`: do not sort or compare it.
        """
        data = (1 + self.ranks) ** np.float32(-exponent)
        if self.weights is not None:
            data *= self.weights
        return csr_matrix(
            (data, self.items, self.starts), shape=(len(self.starts) - 1, self.n_items)
        )


class Histories:
    """Looks up histories of users in interactions, in the item order of a model."""

    def __init__(self, interactions: Interactions, item_ids: Ids) -> None:
        """Ignore interactions with items that are not in `item_ids`."""
        self._interactions = interactions
        self._items = find_positions(item_ids, interactions.item_ids)
        self._n_items = len(item_ids)

    def users(self, user_ids: Sequence[str] | Ids) -> Int32:
        """(len(user_ids),): the index of each user for `of_users`, -1 for an unknown user."""
        return find_positions(self._interactions.user_ids, user_ids)

    def of_users(self, users: Int32) -> History:
        """The histories of users given by index; empty for -1."""
        first, last = self._rows(users)
        starts = np.concatenate([[0], np.cumsum(last - first)])
        if starts[-1] <= ROWS_AT_ONCE:
            return self._history(first, last)

        def block(part: slice) -> History:
            return self._history(first[part], last[part])

        parts = list(ordered_map(block, row_ranges(starts, ROWS_AT_ONCE)))
        lengths = np.concatenate([part.lengths for part in parts])
        return History(
            np.concatenate([[0], np.cumsum(lengths)]),
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            self._n_items,
            _concatenate_or_ones([part.counts for part in parts], parts),
            _concatenate_or_ones([part.weights for part in parts], parts),
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
        weights = None if data.weights is None else data.weights[rows]
        keep = items >= 0
        if not keep.all():
            owner, items, times = owner[keep], items[keep], times[keep]
            weights = None if weights is None else weights[keep]
        again, newest = _repeat_entries(owner, items, len(first), self._n_items)
        counts = None
        if len(again):
            if weights is not None:
                np.maximum.at(weights, newest, weights[again])
                weights = np.delete(weights, again)
            counts = np.bincount(newest, minlength=len(items)).astype(np.float32) + 1
            owner, items, times, counts = (
                np.delete(column, again) for column in (owner, items, times, counts)
            )
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(first)))])
        ranks = _mean_ranks(owner, times, starts)
        return History(starts, items, ranks, self._n_items, counts, weights)


def _concatenate_or_ones(
    values: Sequence[Float32 | None], parts: Sequence[History]
) -> Float32 | None:
    """The values of all parts; ones where a part has none, None if no part has any."""
    if all(value is None for value in values):
        return None
    ones = [np.ones(len(part.items), np.float32) for part in parts]
    return np.concatenate([o if v is None else v for v, o in zip(values, ones, strict=True)])


def _repeat_entries(owner: Int32, items: Int32, users: int, n_items: int) -> tuple[Int64, Int64]:
    """The entries whose item the same user has more recently, and the newest entry of each.

    An item counts once in a history.
    """
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=users))])
    entries = np.arange(len(items), dtype=np.int32)
    # A counting sort by item, then user, then entry.
    by_item = csr_matrix((entries, items, starts), shape=(users, n_items)).tocsc()
    same = np.diff(by_item.indices, prepend=-1) == 0
    opens = by_item.indptr[:-1]
    same[opens[opens < len(same)]] = False
    newest = by_item.data[~same][np.cumsum(~same) - 1]
    return np.asarray(by_item.data[same]), np.asarray(newest[same])


def _mean_ranks(owner: Int32, times: Int64, starts: Int64) -> Float32:
    """The rank of each entry within its owner; equal times share the mean rank."""
    if not len(owner):
        return np.zeros(0, dtype=np.float32)
    ranks = np.arange(len(owner)) - starts[owner]
    opens = np.concatenate([[True], (np.diff(owner) != 0) | (np.diff(times) != 0)])
    at = np.flatnonzero(opens)
    lengths = np.diff(np.concatenate([at, [len(owner)]]))
    return np.repeat(ranks[at] + (lengths - 1) / 2, lengths).astype(np.float32)
