"""Interactions as sorted arrays of numbers, and the histories of users that models read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID

from .threads import ordered_map, split_rows

if TYPE_CHECKING:
    from .item_features import ItemFeatures
    from .segment_attributes import SegmentAttributes


class TrainingError(ValueError):
    """The data cannot be trained on; the message is for the user."""


class ModelFileError(Exception):
    """A file of a saved model or of saved interactions is missing or damaged.

    The message names the file.
    """


# Ids are objects and not NumPy's fixed-width strings. Those drop trailing NULs, and pad every id to
# the longest one: 256 characters are allowed, which would take 1 KiB for each id.
Ids = npt.NDArray[np.object_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Entries = slice | npt.NDArray[np.bool_]

Log = Callable[[str], None]  # takes a line about what was done

WEIGHT = "WEIGHT"  # the column of a frame with the weights of events

# Interactions that are sorted at once, and of which histories are made at once. Each takes some
# tens of bytes meanwhile.
SORTED_AT_ONCE = 4 << 20
ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Interactions:
    """One row per interaction, sorted by user, time and item id.

    The order depends on the data alone, so shuffled input gives the same object.
    """

    user_ids: Ids
    """(n_users,) distinct str, sorted by code point."""

    item_ids: Ids
    """(n_items,) distinct str, sorted by code point."""

    users: Int32
    """(n,) indices into `user_ids`."""

    items: Int32
    """(n,) indices into `item_ids`."""

    timestamps: Int64
    """(n,) epoch seconds."""

    weights: Float32 | None = None
    """(n,) weights of the events, above 0 and at most 1. None means that all are 1."""

    features: ItemFeatures | None = None
    """The Items dataset, if the recipe reads it."""

    attributes: SegmentAttributes | None = None
    """What segments are measured for. None means that they are measured for each item."""

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | pl.LazyFrame) -> Interactions:
        """The interactions of a frame.

        frame: columns USER_ID and ITEM_ID (String) and TIMESTAMP (Int64), with rows in any order. A
            column WEIGHT (Float32), if there is one, has the weights of the events. The strings of
            a lazy frame are never in memory all at once: it takes 32 bytes a row.
        """
        rows = frame.lazy()
        user_ids = _distinct_ids(rows, USER_ID)
        item_ids = _distinct_ids(rows, ITEM_ID)
        weights = [pl.col(WEIGHT)] if WEIGHT in rows.collect_schema() else []
        # With sorted categories, the order of an Enum's codes is the order of the ids.
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
        """(n_users + 1,): user u has the rows starts[u]:starts[u + 1], oldest first."""
        counts = np.bincount(self.users, minlength=len(self.user_ids))
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def item_counts(self) -> Int64:
        """(n_items,): the number of interactions of each item."""
        return np.bincount(self.items, minlength=len(self.item_ids)).astype(np.int64)

    def filter(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Interactions:
        """Some of the rows, over the same ids.

        rows: (n,) bool mask, or the indices of the rows in the order that they are to have.
        """
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

    order: (n_items,) item indices, see `order_by_popularity`.
    """
    return np.log(np.maximum(interactions.item_counts[order], 0.5)).astype(np.float32)


def find_positions(ids: Ids | pl.Series, wanted: Sequence[str] | Ids) -> Int32:
    """(len(wanted),): the index of each wanted id in the distinct `ids`, -1 if it is not there."""
    indexed_ids = pl.DataFrame(
        {"id": _string_series(ids), "index": np.arange(len(ids), dtype=np.int32)}
    )
    wanted_ids = pl.DataFrame({"id": _string_series(wanted)})
    joined = wanted_ids.join(indexed_ids, on="id", how="left", maintain_order="left")
    return joined["index"].fill_null(-1).to_numpy()


def _distinct_ids(rows: pl.LazyFrame, column: str) -> pl.Series:
    return rows.select(pl.col(column).unique()).collect(engine="streaming")[column].sort()


def sort_rows(coded: pl.DataFrame, n_users: int) -> tuple[Int32, Int32, Int64, Float32 | None]:
    """The columns users, items, timestamps and weights, sorted by user, time and item.

    They are sorted block by block: sorting all rows at once would take twice their memory.

    coded: columns users (Int32), timestamps (Int64), items (Int32), and perhaps WEIGHT (Float32);
        without WEIGHT the weights are None.
    """
    counts = np.bincount(coded["users"].to_numpy(), minlength=n_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    users = np.repeat(np.arange(n_users, dtype=np.int32), counts)
    items = np.empty(len(users), np.int32)
    timestamps = np.empty(len(users), np.int64)
    keys = [name for name in ("users", "timestamps", "items", WEIGHT) if name in coded.columns]
    weights = np.empty(len(users), np.float32) if WEIGHT in keys else None
    for block_users in split_rows(starts, SORTED_AT_ONCE):
        first, last = block_users.start, block_users.stop
        rows = slice(starts[first], starts[last])
        is_in_block = pl.col("users").is_between(first, last, closed="left")
        block = coded.filter(is_in_block).sort(keys)
        items[rows] = block["items"].to_numpy()
        timestamps[rows] = block["timestamps"].to_numpy()
        if weights is not None:
            weights[rows] = block[WEIGHT].to_numpy()
    return users, items, timestamps, weights


def _string_series(values: Sequence[str] | Ids | pl.Series) -> pl.Series:
    return values if isinstance(values, pl.Series) else pl.Series(list(values), dtype=pl.String)


def object_ids(ids: pl.Series) -> Ids:
    """(len(ids),): the same ids as an array of objects."""
    array = np.empty(len(ids), dtype=object)
    array[:] = ids.to_list()
    return array


@dataclass(frozen=True)
class History:
    """The histories of some users: the distinct items of each, newest first."""

    starts: Int64
    """(users + 1,): user u has the entries starts[u]:starts[u + 1]."""

    items: Int32
    """(entries,) indices into the model's items."""

    ranks: Float32
    """(entries,) places in the history: 0 is the newest. Items of the same second share their mean
    rank."""

    n_items: int
    """The number of the model's items."""

    counts: Float32 | None = None
    """(entries,) how often each item occurs. None means that all occur once."""

    weights: Float32 | None = None
    """(entries,) the largest weight of each item's events. None means that all are 1."""

    @property
    def lengths(self) -> Int64:
        """(users,): the number of distinct items of each."""
        return np.diff(self.starts)

    def slice(self, first: int, last: int) -> History:
        """The histories of the users from `first` to before `last`."""
        starts = self.starts[first : last + 1]
        return self._take(slice(starts[0], starts[-1]), starts - starts[0], self.n_items)

    def keep_items(self, n_items: int) -> History:
        """The histories without the items from index `n_items` on."""
        is_kept = self.items < n_items
        if is_kept.all():
            return replace(self, n_items=n_items)
        starts = np.concatenate([[0], np.cumsum(is_kept)])[self.starts]
        return self._take(is_kept, starts, n_items)

    def _take(self, entries: Entries, starts: Int64, n_items: int) -> History:
        """The histories of these entries, with the starts that they then have."""
        return History(
            starts,
            self.items[entries],
            self.ranks[entries],
            n_items,
            None if self.counts is None else self.counts[entries],
            None if self.weights is None else self.weights[entries],
        )

    @property
    def seen(self) -> csr_matrix:
        """(users, n_items) bool: the items of each history."""
        # A copy: where scipy sorts a matrix, it would sort `items` too, and not `ranks`.
        ones = np.ones(len(self.items), dtype=bool)
        shape = len(self.starts) - 1, self.n_items
        return csr_matrix((ones, self.items.copy(), self.starts), shape=shape)

    def recency_weights(self, exponent: float) -> csr_matrix:
        """(users, n_items) float32: (1 + rank)^-exponent for the items of a history, else 0.

        With an exponent of 0 all items weigh the same. The weights of events, if there are any, are
        multiplied with it. Recency applies to scoring, not to training. The matrix shares the array
        `items`, so it must not be sorted or compared.
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
        """Interactions with items that are not in `item_ids`, the model's items, are left out."""
        self._interactions = interactions
        self._items = find_positions(item_ids, interactions.item_ids)
        self._n_items = len(item_ids)

    def users(self, user_ids: Sequence[str] | Ids) -> Int32:
        """(len(user_ids),): the index of each user for `of_users`, -1 for an unknown user."""
        return find_positions(self._interactions.user_ids, user_ids)

    def of_users(self, users: Int32) -> History:
        """The histories of users, in the given order.

        users: (n,) indices of users; -1 has an empty history.
        """
        first, last = self._rows(users)
        starts = np.concatenate([[0], np.cumsum(last - first)])
        if starts[-1] <= ROWS_AT_ONCE:
            return self._history(first, last)

        def read_block(block: slice) -> History:
            return self._history(first[block], last[block])

        parts = list(ordered_map(read_block, split_rows(starts, ROWS_AT_ONCE)))
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
        """(n,) the first row of each user's interactions, and (n,) the row after the last."""
        starts = self._interactions.starts
        if len(starts) == 1:
            return np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        index = np.maximum(users, 0)
        return starts[index], np.where(users < 0, starts[index], starts[index + 1])

    def _history(self, first: Int64, last: Int64) -> History:
        """The histories of users whose interactions are the rows first[u]:last[u]."""
        data = self._interactions
        n_users = len(first)
        lengths = last - first
        owner = np.repeat(np.arange(n_users, dtype=np.int32), lengths)
        # Row numbers in `data`, newest first within each user.
        rows = np.repeat(last + np.cumsum(lengths) - lengths, lengths) - 1
        rows -= np.arange(len(owner))
        items = self._items[data.items[rows]]
        times = data.timestamps[rows]
        weights = None if data.weights is None else data.weights[rows]
        is_model_item = items >= 0
        if not is_model_item.all():
            owner, items, times = owner[is_model_item], items[is_model_item], times[is_model_item]
            weights = None if weights is None else weights[is_model_item]
        repeats, newest = _repeat_entries(owner, items, n_users, self._n_items)
        counts = None
        if len(repeats):
            if weights is not None:
                np.maximum.at(weights, newest, weights[repeats])
                weights = np.delete(weights, repeats)
            counts = np.bincount(newest, minlength=len(items)).astype(np.float32) + 1
            counts = np.delete(counts, repeats)
            owner = np.delete(owner, repeats)
            items = np.delete(items, repeats)
            times = np.delete(times, repeats)
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_users))])
        ranks = _mean_ranks(owner, times, starts)
        return History(starts, items, ranks, self._n_items, counts, weights)


def _concatenate_or_ones(
    values: Sequence[Float32 | None], parts: Sequence[History]
) -> Float32 | None:
    """The values of all parts; ones where a part has none, None if no part has any."""
    if all(array is None for array in values):
        return None
    return np.concatenate(
        [
            np.ones(len(part.items), np.float32) if array is None else array
            for array, part in zip(values, parts, strict=True)
        ]
    )


def _repeat_entries(owner: Int32, items: Int32, n_users: int, n_items: int) -> tuple[Int64, Int64]:
    """The entries whose item the same user has more recently, and the newest entry of each.

    An item counts once in a history, so these entries leave it.

    owner: (entries,) the user of each entry, sorted.
    items: (entries,) the item of each entry, newest first within a user.
    """
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_users))])
    entries = np.arange(len(items), dtype=np.int32)
    # A counting sort by item, then user, then entry.
    by_item = csr_matrix((entries, items, starts), shape=(n_users, n_items)).tocsc()
    is_repeat = np.diff(by_item.indices, prepend=-1) == 0
    item_starts = by_item.indptr[:-1]
    is_repeat[item_starts[item_starts < len(is_repeat)]] = False
    newest = by_item.data[~is_repeat][np.cumsum(~is_repeat) - 1]
    return np.asarray(by_item.data[is_repeat]), np.asarray(newest[is_repeat])


def _mean_ranks(owner: Int32, times: Int64, starts: Int64) -> Float32:
    """(entries,): the rank of each entry within its owner; equal times share the mean rank."""
    if not len(owner):
        return np.zeros(0, dtype=np.float32)
    ranks = np.arange(len(owner)) - starts[owner]
    is_first_of_time = np.concatenate([[True], (np.diff(owner) != 0) | (np.diff(times) != 0)])
    time_starts = np.flatnonzero(is_first_of_time)
    lengths = np.diff(np.concatenate([time_starts, [len(owner)]]))
    return np.repeat(ranks[time_starts] + (lengths - 1) / 2, lengths).astype(np.float32)
