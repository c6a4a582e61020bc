"""Interactions as sorted arrays of numbers, and the histories of users that models read.

Ids become numbers once, here. Models number their items by falling popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID

from .parallel import ordered_map


class TrainingError(ValueError):
    """The data cannot be trained on; the message is for the user."""


# Ids are objects and not NumPy's fixed-width strings. Those drop trailing NULs, and pad every id to
# the longest one: 256 characters are allowed, which would take 1 KiB for each id.
Ids = npt.NDArray[np.object_]
Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Log = Callable[[str], None]  # takes a line about what was done

WEIGHT = "WEIGHT"  # the column of a frame with the weights of events

# Interactions that are sorted at once, and of which histories are made at once. Each takes some
# tens of bytes meanwhile.
SORTED_AT_ONCE = 4 << 20
ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Interactions:
    """One row per interaction, sorted by user, time and item id."""

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
        return starts_of(np.bincount(self.users, minlength=len(self.user_ids)))

    @cached_property
    def item_counts(self) -> Int64:
        """(n_items,): the number of interactions of each item."""
        return np.bincount(self.items, minlength=len(self.item_ids)).astype(np.int64)

    def take(self, rows: Bool | npt.NDArray[np.intp]) -> Interactions:
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
    """(items with interactions,) item indices by falling count, then rising id."""
    counts = interactions.item_counts
    return np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]


def find_positions(ids: Ids | pl.Series, wanted: Sequence[str] | Ids | pl.Series) -> Int32:
    """(len(wanted),): the index of each wanted id in the distinct `ids`, -1 if it is not there."""
    indexed_ids = pl.DataFrame(
        {"id": string_series(ids), "index": np.arange(len(ids), dtype=np.int32)}
    )
    wanted_ids = pl.DataFrame({"id": string_series(wanted)})
    joined = wanted_ids.join(indexed_ids, on="id", how="left", maintain_order="left")
    return joined["index"].fill_null(-1).to_numpy()


def string_series(values: Sequence[str] | Ids | pl.Series) -> pl.Series:
    """Ids as a series of Polars."""
    return values if isinstance(values, pl.Series) else pl.Series(list(values), dtype=pl.String)


def object_ids(ids: pl.Series) -> Ids:
    """(len(ids),): the same ids as an array of objects."""
    array = np.empty(len(ids), dtype=object)
    array[:] = ids.to_list()
    return array


def _distinct_ids(rows: pl.LazyFrame, column: str) -> pl.Series:
    return rows.select(pl.col(column).unique()).collect(engine="streaming")[column].sort()


def starts_of(lengths: npt.NDArray[np.integer]) -> Int64:
    """(len(lengths) + 1,): where each part begins, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths)])


def split_rows(
    starts: npt.NDArray[np.integer], entries: int, rows: int | None = None, first_row: int = 0
) -> list[slice]:
    """Ranges of rows with at most `entries` entries each, or of one row if that has more.

    starts: (n + 1,): row r has the entries starts[r]:starts[r + 1].
    rows: how many rows a range may have; without a limit if None.
    first_row: is added to the rows of all ranges.
    """
    ranges = []
    first, n = 0, len(starts) - 1
    while first < n:
        end = int(np.searchsorted(starts, starts[first] + entries, side="right")) - 1
        end = min(n, first + (rows or n), max(first + 1, end))
        ranges.append(slice(first_row + first, first_row + end))
        first = end
    return ranges


def sort_rows(coded: pl.DataFrame, n_users: int) -> tuple[Int32, Int32, Int64, Float32 | None]:
    """The columns users, items, timestamps and weights, sorted by user, time and item.

    They are sorted block by block: sorting all rows at once would take twice their memory.

    coded: columns users (Int32), timestamps (Int64), items (Int32), and perhaps WEIGHT (Float32);
        without WEIGHT the weights are None.
    """
    counts = np.bincount(coded["users"].to_numpy(), minlength=n_users)
    starts = starts_of(counts)
    users = np.repeat(np.arange(n_users, dtype=np.int32), counts)
    items = np.empty(len(users), np.int32)
    timestamps = np.empty(len(users), np.int64)
    keys = [name for name in ("users", "timestamps", "items", WEIGHT) if name in coded.columns]
    weights = np.empty(len(users), np.float32) if WEIGHT in keys else None
    for block_users in split_rows(starts, SORTED_AT_ONCE):
        rows = slice(starts[block_users.start], starts[block_users.stop])
        is_in_block = pl.col("users").is_between(block_users.start, block_users.stop, closed="left")
        block = coded.filter(is_in_block).sort(keys)
        items[rows] = block["items"].to_numpy()
        timestamps[rows] = block["timestamps"].to_numpy()
        if weights is not None:
            weights[rows] = block[WEIGHT].to_numpy()
    return users, items, timestamps, weights


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

    counts: Float32
    """(entries,) how often each item occurs."""

    weights: Float32
    """(entries,) the largest weight of each item's events."""

    n_items: int
    """The number of the model's items."""

    @property
    def lengths(self) -> Int64:
        """(users,): the number of distinct items of each."""
        return np.diff(self.starts)

    @property
    def owners(self) -> Int64:
        """(entries,): the user of each entry."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def of_users(self, block: slice) -> History:
        """The histories of a range of the users."""
        starts = self.starts[block.start : block.stop + 1]
        return self.select(slice(starts[0], starts[-1]), starts - starts[0])

    def select(self, entries: slice | Bool, starts: Int64) -> History:
        """Some of the entries, with the starts that they then have."""
        return replace(
            self,
            starts=starts,
            items=self.items[entries],
            ranks=self.ranks[entries],
            counts=self.counts[entries],
            weights=self.weights[entries],
        )

    def keep(self, is_kept: Bool) -> History:
        """The entries of a (entries,) mask, for all users."""
        return self.select(is_kept, starts_of(is_kept.astype(np.int64))[self.starts])

    def keep_newest(self, entries: int) -> History:
        """The newest entries of each history, at most this many."""
        index = np.arange(len(self.items)) - self.starts[self.owners]
        return self.keep(index < entries)

    def keep_items(self, n_items: int) -> History:
        """The histories without the items from index `n_items` on."""
        if n_items == self.n_items:
            return self
        is_kept = self.items < n_items
        return replace(self.keep(is_kept), n_items=n_items)

    def recency_weights(self, exponent: float) -> csr_matrix:
        """(users, n_items) float32: (1 + rank)^-exponent times the weight for the items of a
        history, else 0.

        With an exponent of 0 all items weigh the same. Recency applies to scoring, not to training.
        """
        data = (1 + self.ranks) ** np.float32(-exponent) * self.weights
        shape = len(self.lengths), self.n_items
        # A copy: where SciPy sorts a matrix, it would sort `items` too, and not `ranks`.
        return csr_matrix((data, self.items.copy(), self.starts), shape=shape)


class HistoryReader:
    """Reads the histories of users, over the items of a model."""

    def __init__(self, interactions: Interactions, item_ids: Ids) -> None:
        """item_ids: the model's items. Interactions with others are left out."""
        self._interactions = interactions
        self._model_items = find_positions(item_ids, interactions.item_ids)
        self._n_items = len(item_ids)
        # One more than the users have, which the index -1 finds.
        self._starts = np.append(interactions.starts, interactions.starts[-1])

    def find_rows(self, users: Int32) -> tuple[Int64, Int64]:
        """The first row of the interactions of each user, and the one after the last."""
        first = self._starts[users]
        return first, np.where(users < 0, first, self._starts[users + 1])

    def read(self, users: Int32) -> History:
        """The histories of users, in the given order.

        users: (n,) indices into the interactions' users; -1 has an empty history.
        """
        first, last = self.find_rows(users)
        return _read_block(self._interactions, self._model_items, self._n_items, first, last)


def read_histories(interactions: Interactions, item_ids: Ids, users: Int32) -> History:
    """The histories of many users, as of a `HistoryReader`, on all cores."""
    reader = HistoryReader(interactions, item_ids)
    first, last = reader.find_rows(users)
    blocks = split_rows(starts_of(last - first), ROWS_AT_ONCE) or [slice(0, 0)]
    parts = list(ordered_map(lambda block: reader.read(users[block]), blocks))
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    return History(
        starts_of(lengths),
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.ranks for part in parts]),
        _join([part.counts for part in parts]),
        _join([part.weights for part in parts]),
        len(item_ids),
    )


def _ones(size: int) -> Float32:
    """(size,) ones that take no memory; not to be written to."""
    return np.broadcast_to(np.float32(1), (size,))


def _join(parts: Sequence[Float32]) -> Float32:
    """All parts in one; without memory if none of them takes any."""
    if all(part.strides == (0,) for part in parts):
        return _ones(sum(len(part) for part in parts))
    return np.concatenate(parts)


def _read_block(
    data: Interactions, model_items: Int32, n_items: int, first: Int64, last: Int64
) -> History:
    """The histories of users whose interactions are the rows first[u]:last[u]."""
    lengths = last - first
    owner = np.repeat(np.arange(len(first), dtype=np.int32), lengths)
    # Row numbers in `data`, newest first within each user.
    rows = np.repeat(last + np.cumsum(lengths) - lengths, lengths) - 1 - np.arange(len(owner))
    items = model_items[data.items[rows]]
    is_model_item = items >= 0
    owner, items, rows = owner[is_model_item], items[is_model_item], rows[is_model_item]
    newest = _find_newest_entries(owner, items, len(first), n_items)
    is_newest = newest == np.arange(len(newest))
    owner, items = owner[is_newest], items[is_newest]
    counts, weights = _ones(len(items)), _ones(len(items))
    if not is_newest.all():
        counts = np.bincount(newest, minlength=len(newest))[is_newest].astype(np.float32)
    if data.weights is not None:
        all_weights = data.weights[rows]
        np.maximum.at(all_weights, newest, all_weights.copy())
        weights = all_weights[is_newest]
    starts = starts_of(np.bincount(owner, minlength=len(first)))
    ranks = _mean_ranks(owner, data.timestamps[rows[is_newest]], starts)
    return History(starts, items, ranks, counts, weights, n_items)


def _find_newest_entries(owner: Int32, items: Int32, n_users: int, n_items: int) -> Int64:
    """(entries,): the first entry with the same owner and item, as an item counts once.

    owner: (entries,) the user of each entry, sorted.
    items: (entries,) the item of each entry, newest first within a user.
    """
    starts = starts_of(np.bincount(owner, minlength=n_users))
    entries = np.arange(len(items), dtype=np.int32)
    # A counting sort by item, then user, then entry.
    by_item = csr_matrix((entries, items, starts), shape=(n_users, n_items)).tocsc()
    is_first = np.diff(by_item.indices, prepend=-1) != 0
    item_starts = by_item.indptr[:-1]
    is_first[item_starts[item_starts < len(is_first)]] = True
    newest = np.empty(len(items), np.int64)
    newest[by_item.data] = by_item.data[is_first][np.cumsum(is_first) - 1]
    return newest


def _mean_ranks(owner: Int32, times: Int64, starts: Int64) -> Float32:
    """(entries,): the rank of each entry within its owner; equal times share the mean rank."""
    if not len(owner):
        return np.zeros(0, dtype=np.float32)
    ranks = np.arange(len(owner)) - starts[owner]
    is_first_of_time = (np.diff(owner, prepend=-1) != 0) | (np.diff(times, prepend=times[0]) != 0)
    time_starts = np.flatnonzero(is_first_of_time)
    lengths = np.diff(time_starts, append=len(owner))
    return np.repeat(ranks[time_starts] + (lengths - 1) / 2, lengths).astype(np.float32)
