"""Interactions as sorted arrays of numbers, and the users' histories that models read.

Ids are turned into numbers here, once. Models number their items by falling popularity.
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
    """An error in data that cannot be trained on. The message is for the user."""


# Ids are objects, because NumPy's fixed-width strings drop trailing NULs and pad every id to the
# length of the longest id. As 256 characters are allowed, each id could take 1 KiB.
Ids = npt.NDArray[np.object_]
Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Log = Callable[[str], None]  # Takes a line about the progress of the training.

WEIGHT = "WEIGHT"  # The column of a frame with the weights of the events.

# The numbers of interactions to sort at once, and to build histories from at once. Meanwhile, each
# interaction takes some tens of bytes of memory.
SORTED_AT_ONCE = 4 << 20
ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Interactions:
    """Interactions, one row each, sorted by user, time and item id."""

    user_ids: Ids
    """Distinct user ids of shape (n_users,), sorted by code point."""

    item_ids: Ids
    """Distinct item ids of shape (n_items,), sorted by code point."""

    users: Int32
    """The user of each row, an index into `user_ids`, of shape (n,)."""

    items: Int32
    """The item of each row, an index into `item_ids`, of shape (n,)."""

    timestamps: Int64
    """The time of each row in epoch seconds, of shape (n,)."""

    weights: Float32 | None = None
    """The weight of each event, above 0 and at most 1, of shape (n,). None if all weights are 1."""

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | pl.LazyFrame) -> Interactions:
        """Return the interactions of a frame.

        frame: columns USER_ID and ITEM_ID (String) and TIMESTAMP (Int64), with rows in any order.
            The optional column WEIGHT (Float32) has the weights of the events. The strings of a
            lazy frame are never in memory all at once, so reading it takes 32 bytes a row.
        """
        rows = frame.lazy()
        user_ids = list_distinct_texts(rows, USER_ID)
        item_ids = list_distinct_texts(rows, ITEM_ID)
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
        """The bounds of the users' rows, of shape (n_users + 1,).

        User u has the rows starts[u]:starts[u + 1], oldest first.
        """
        return starts_of(np.bincount(self.users, minlength=len(self.user_ids)))

    @cached_property
    def item_counts(self) -> Int64:
        """The number of interactions of each item, of shape (n_items,)."""
        return np.bincount(self.items, minlength=len(self.item_ids)).astype(np.int64)

    def take(self, rows: Bool | npt.NDArray[np.intp]) -> Interactions:
        """Return some of the rows, with unchanged `user_ids` and `item_ids`.

        rows: a bool mask of shape (n,), or the indices of the rows in their new order.
        """
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            timestamps=self.timestamps[rows],
            weights=None if self.weights is None else self.weights[rows],
        )


def order_by_popularity(interactions: Interactions) -> npt.NDArray[np.intp]:
    """Return the indices of the items with interactions, by falling count, then rising id."""
    counts = interactions.item_counts
    return np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]


def find_positions(ids: Ids | pl.Series, wanted: Sequence[str] | Ids | pl.Series) -> Int32:
    """Return the index in `ids` of each wanted id, of shape (len(wanted),); -1 if it is missing.

    ids: distinct ids.
    """
    indexed_ids = pl.DataFrame(
        {"id": string_series(ids), "index": np.arange(len(ids), dtype=np.int32)}
    )
    wanted_ids = pl.DataFrame({"id": string_series(wanted)})
    joined = wanted_ids.join(indexed_ids, on="id", how="left", maintain_order="left")
    return joined["index"].fill_null(-1).to_numpy()


def string_series(values: Sequence[str] | Ids | pl.Series) -> pl.Series:
    """Return ids as a Polars series."""
    return values if isinstance(values, pl.Series) else pl.Series(list(values), dtype=pl.String)


def object_ids(ids: pl.Series) -> Ids:
    """Return ids as an array of objects, of shape (len(ids),)."""
    array = np.empty(len(ids), dtype=object)
    array[:] = ids.to_list()
    return array


def list_distinct_texts(rows: pl.LazyFrame, column: str) -> pl.Series:
    """Return the distinct texts of a column, sorted by code point."""
    return rows.select(pl.col(column).unique()).collect(engine="streaming")[column].sort()


def starts_of(lengths: npt.NDArray[np.integer]) -> Int64:
    """Return the start of each part and the end of the last part, of shape (len(lengths) + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)])


def split_rows(
    starts: npt.NDArray[np.integer], entries: int, rows: int | None = None, first_row: int = 0
) -> list[slice]:
    """Split rows into ranges with at most `entries` entries each.

    A row with more entries gets a range of its own.

    starts: shape (n + 1,). Row r has the entries starts[r]:starts[r + 1].
    rows: the largest number of rows in a range; None for no limit.
    first_row: the number of the first row. It is added to the bounds of all ranges.
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
    """Return users, items, timestamps and weights, sorted by user, time and item.

    The rows are sorted block by block, because sorting all rows at once would take twice their
    memory.

    coded: columns users (Int32), timestamps (Int64), items (Int32), and optionally WEIGHT
        (Float32). Without WEIGHT, the returned weights are None.
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
    """The histories of some users: each user's distinct items, newest first."""

    starts: Int64
    """The bounds of the histories, of shape (users + 1,).

    User u has the entries starts[u]:starts[u + 1].
    """

    items: Int32
    """The item of each entry, an index into the model's items, of shape (entries,)."""

    ranks: Float32
    """The place of each entry in its history, of shape (entries,).

    The newest item has rank 0. Items with the same timestamp share their mean rank.
    """

    counts: Float32
    """The number of the user's interactions with each entry's item, of shape (entries,)."""

    weights: Float32
    """The largest weight of the user's events with each entry's item, of shape (entries,)."""

    n_items: int
    """The number of the model's items."""

    @property
    def lengths(self) -> Int64:
        """The number of distinct items of each user, of shape (users,)."""
        return np.diff(self.starts)

    @property
    def owners(self) -> Int64:
        """The user of each entry, of shape (entries,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def of_users(self, block: slice) -> History:
        """Return the histories of a range of the users."""
        starts = self.starts[block.start : block.stop + 1]
        return self.select(slice(starts[0], starts[-1]), starts - starts[0])

    def select(self, entries: slice | Bool, starts: Int64) -> History:
        """Return some of the entries.

        starts: the bounds of the histories among the selected entries.
        """
        return replace(
            self,
            starts=starts,
            items=self.items[entries],
            ranks=self.ranks[entries],
            counts=self.counts[entries],
            weights=self.weights[entries],
        )

    def keep(self, is_kept: Bool) -> History:
        """Return the entries selected by a mask of shape (entries,), for all users."""
        return self.select(is_kept, starts_of(is_kept.astype(np.int64))[self.starts])

    def keep_newest(self, entries: int) -> History:
        """Return the newest entries of each history, at most `entries` per user."""
        index = np.arange(len(self.items)) - self.starts[self.owners]
        return self.keep(index < entries)

    def keep_items(self, n_items: int) -> History:
        """Return the histories with only the model's first `n_items` items."""
        if n_items == self.n_items:
            return self
        is_kept = self.items < n_items
        return replace(self.keep(is_kept), n_items=n_items)

    def recency_weights(self, exponent: float) -> csr_matrix:
        """Return the histories as a matrix of weights, float32 of shape (users, n_items).

        The weight of an item in the history is (1 + rank)^-exponent times the weight of its events.
        All other items have the weight 0. With an exponent of 0, recency makes no difference.
        Recency applies to scoring, not to training.
        """
        data = (1 + self.ranks) ** np.float32(-exponent) * self.weights
        shape = len(self.lengths), self.n_items
        # Without the copy, SciPy would sort `items`, but not `ranks`, when it sorts the matrix.
        return csr_matrix((data, self.items.copy(), self.starts), shape=shape)


class HistoryReader:
    """A reader of users' histories, over the items of a model."""

    def __init__(self, interactions: Interactions, item_ids: Ids) -> None:
        """Prepare to read from the interactions.

        item_ids: the model's items. Interactions with other items are left out.
        """
        self._interactions = interactions
        self._model_items = find_positions(item_ids, interactions.item_ids)
        self._n_items = len(item_ids)
        # The index -1 of an unknown user finds the additional last entry.
        self._starts = np.append(interactions.starts, interactions.starts[-1])

    def find_rows(self, users: Int32) -> tuple[Int64, Int64]:
        """Return, for each user, the first row of the interactions and the row after the last.

        users: indices of the interactions' users; -1 for an unknown user, who has no rows.
        """
        first = self._starts[users]
        return first, np.where(users < 0, first, self._starts[users + 1])

    def read(self, users: Int32) -> History:
        """Return the histories of users, in the given order.

        users: indices of the interactions' users, of shape (n,); -1 for an unknown user, who has
            an empty history.
        """
        first, last = self.find_rows(users)
        return _read_block(self._interactions, self._model_items, self._n_items, first, last)


def read_histories(interactions: Interactions, item_ids: Ids, users: Int32) -> History:
    """Read the histories of many users on all cores, as a `HistoryReader` does."""
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
    """Return a read-only array of ones that takes no memory, of shape (size,)."""
    return np.broadcast_to(np.float32(1), (size,))


def _join(parts: Sequence[Float32]) -> Float32:
    """Concatenate the parts. If all parts come from `_ones`, the result takes no memory either."""
    if all(part.strides == (0,) for part in parts):
        return _ones(sum(len(part) for part in parts))
    return np.concatenate(parts)


def _read_block(
    data: Interactions, model_items: Int32, n_items: int, first: Int64, last: Int64
) -> History:
    """Return the histories of users. User u has the interactions first[u]:last[u]."""
    lengths = last - first
    owner = np.repeat(np.arange(len(first), dtype=np.int32), lengths)
    # These are row numbers in `data`, with the newest row of each user first.
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
    """Return, for each entry, the index of the user's newest entry with the same item.

    The result has shape (entries,). A history keeps only the newest entry of each item.

    owner: the user of each entry, sorted, of shape (entries,).
    items: the item of each entry, newest first within a user, of shape (entries,).
    """
    starts = starts_of(np.bincount(owner, minlength=n_users))
    entries = np.arange(len(items), dtype=np.int32)
    # The conversion to CSC is a counting sort by item, then user, then entry.
    by_item = csr_matrix((entries, items, starts), shape=(n_users, n_items)).tocsc()
    is_first = np.diff(by_item.indices, prepend=-1) != 0
    item_starts = by_item.indptr[:-1]
    is_first[item_starts[item_starts < len(is_first)]] = True
    newest = np.empty(len(items), np.int64)
    newest[by_item.data] = by_item.data[is_first][np.cumsum(is_first) - 1]
    return newest


def _mean_ranks(owner: Int32, times: Int64, starts: Int64) -> Float32:
    """Return the rank of each entry within its user's entries, of shape (entries,).

    Entries with equal times share their mean rank.
    """
    if not len(owner):
        return np.zeros(0, dtype=np.float32)
    ranks = np.arange(len(owner)) - starts[owner]
    is_first_of_time = (np.diff(owner, prepend=-1) != 0) | (np.diff(times, prepend=times[0]) != 0)
    time_starts = np.flatnonzero(is_first_of_time)
    lengths = np.diff(time_starts, append=len(owner))
    return np.repeat(ranks[time_starts] + (lengths - 1) / 2, lengths).astype(np.float32)
