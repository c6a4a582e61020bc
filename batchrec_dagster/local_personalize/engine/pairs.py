"""Weights between pairs of items: which follows which, which goes with which, which share users.

All are sums over pairs, divided by powers of how popular the items are; each item keeps its largest
weights. Sources: Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (WWW
2001); Deshpande, Karypis, "Item-based top-N recommendation algorithms" (TOIS 2004); for the order,
Garg et al., "Sequence and time aware neighborhood for session-based recommendations" (SIGIR 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, vstack
from scipy.sparse._sparsetools import csc_matvec

from .data import Float32, History, Int32, Int64, split_rows, starts_of
from .parallel import ordered_map

WINDOW = 32  # how many of the next items pair with an item; the hyperparameter bptt
DISTANCE_EXPONENT = 0.5
POPULARITY_EXPONENT = 0.5
POPULARITY_SHIFT = 5.0

PAIRS_AT_ONCE = 1 << 18
CELLS_AT_ONCE = 1 << 19

# The number of pairs grows with the square of a history. A few hundred items of a user give the
# same accuracy as all (Schelter, Boden, Markl, "Scalable similarity-based neighborhood methods with
# MapReduce", RecSys 2012). This is far more than that.
MAX_PAIRED = 5_000
FEW_USERS = 10  # if this many users have both items, their number counts one half


@dataclass(frozen=True)
class PairScorer:
    """Adds up the weights from each item of a history to all items."""

    weights: csr_matrix
    """(n_items, n_items) float32: a row is an item of a history, a column an item to score."""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """See `select.Scorer`."""
        recency = history.recency_weights(exponent).data * np.float32(weight)
        order = np.lexsort((-history.items, history.owners))
        rows = history.items[order]
        # As columns, the row of an item and what lies between two rows take turns. From the last
        # row to the first, the latter ends before it begins, so it is empty, and no row is copied.
        ends = np.stack([self.weights.indptr[rows], self.weights.indptr[rows + 1]], axis=1).ravel()
        factors = np.zeros(len(ends), np.float32)
        factors[::2] = recency[order]
        cells, values = self.weights.indices, self.weights.data
        for user in np.flatnonzero(history.lengths):
            first, end = 2 * history.starts[user], 2 * history.starts[user + 1]
            add_to_cells(scores[user], cells, values, ends[first:end], factors[first : end - 1])


def add_to_cells(
    sums: Float32, cells: Int32, values: Float32, ends: Int32, factors: Float32
) -> None:
    """Add values, times their factors, to the cells of `sums`.

    It is a sparse matrix times a vector, and `csc_matvec` is what SciPy calls for that. Its public
    product of two sparse matrices takes four times as long, which is a third of making all lists.
    pyproject.toml pins SciPy's version.

    sums: (cells,), contiguous.
    cells, values: (entries,) where a value is added, and the value.
    ends: (parts + 1,): part p has the entries ends[p]:ends[p + 1].
    factors: (parts,) what the values of a part are multiplied by.
    """
    csc_matvec(len(sums), len(factors), ends, cells, values, factors, sums)


def fit_following(history: History, *, neighbors: int, window: int) -> PairScorer:
    """What follows an item in histories: a row is an item, a column one of the next `window`.

    A pair counts distance^-0.5, so near pairs count more, times the weights of both events.

    neighbors: how many weights each row keeps.
    """
    n = history.n_items
    pairs = _WindowPairs.lay_out(history, window)
    popularity = (pairs.counts + POPULARITY_SHIFT) ** -POPULARITY_EXPONENT
    discount = popularity.astype(np.float32)

    # The pairs of the most popular items fill a share of a row. The others come by popularity too,
    # so that the rows of a block have about as many pairs.
    head = int(np.count_nonzero(8 * pairs.counts * window >= n))

    def fit_rows(block: slice) -> csr_matrix:
        if block.start < head:
            return _fit_dense_rows(pairs, block, discount, neighbors)
        return _fit_sparse_rows(pairs, block, discount, neighbors)

    entries = max(1, PAIRS_AT_ONCE // window)
    blocks = [
        *split_rows(pairs.starts[: head + 1], entries, max(1, CELLS_AT_ONCE // (n + 1))),
        *split_rows(pairs.starts[head:], entries, first_row=head),
    ]
    return PairScorer(_stack(ordered_map(fit_rows, blocks), n))


@dataclass(frozen=True)
class _WindowPairs:
    """The pairs of items within a window, item by item.

    All histories are laid out in one line, with `window` padding entries (n_items) between users,
    so that no window reaches into another user's history.
    """

    counts: Int64
    """(n_items,) the number of entries of each item."""

    starts: Int64
    """(n_items + 1,) where the entries of each item begin in `places`."""

    places: Int32 | Int64
    """(entries,) the place in the line of each entry, item by item."""

    line: Int32
    """(line,) the items, n_items for padding."""

    weights: Float32
    """(line,) the weights of the events, 0 for padding."""

    nearness: Float32
    """(window,) what a pair counts, by its place in the window before an entry."""

    @classmethod
    def lay_out(cls, history: History, window: int) -> _WindowPairs:
        n, users = history.n_items, len(history.lengths)
        counts = np.bincount(history.items, minlength=n)
        line = np.full(len(history.items) + window * (users + 1), n, np.int32)
        place_type = np.int32 if len(line) <= np.iinfo(np.int32).max else np.int64
        gaps = window * np.arange(1, users + 1, dtype=place_type)
        places = np.arange(len(history.items), dtype=place_type)
        places = places + np.repeat(gaps, history.lengths)
        line[places] = history.items
        weights = np.zeros(len(line), np.float32)
        weights[places] = history.weights
        by_item = csr_matrix((places, history.items, history.starts), shape=(users, n)).tocsc()
        starts = starts_of(counts)
        nearness = (np.arange(window, 0, -1) ** -DISTANCE_EXPONENT).astype(np.float32)
        return cls(counts, starts, by_item.data, line, weights, nearness)

    def of_items(self, block: slice) -> tuple[Int64, Int32, Float32, Float32]:
        """The pairs of a block of items, which have some entries each.

        They are the (entries,) row in the block, the (entries, window) items that follow, what each
        of these pairs counts, and what all pairs of an entry count besides.
        """
        places = self.places[self.starts[block.start] : self.starts[block.stop]]
        row = np.repeat(np.arange(block.stop - block.start), self.counts[block])
        window = len(self.nearness)
        # Histories run from new to old, so the later items are before an entry.
        first = places - window
        columns = np.lib.stride_tricks.sliding_window_view(self.line, window)[first]
        values = np.tile(self.nearness, (len(places), 1))
        if self.has_weights:
            values *= np.lib.stride_tricks.sliding_window_view(self.weights, window)[first]
        return row, columns, values, self.weights[places]

    @cached_property
    def has_weights(self) -> bool:
        """Whether events weigh differently."""
        return bool((self.weights[self.line < len(self.counts)] != 1).any())


def _fit_dense_rows(
    pairs: _WindowPairs, block: slice, discount: Float32, neighbors: int
) -> csr_matrix:
    """(rows of the block, n_items): the largest weights, summed in a cell for each item."""
    n, rows = len(discount), block.stop - block.start
    row, cells, values, factors = pairs.of_items(block)
    cells = cells + (row * (n + 1)).astype(np.int32)[:, None]  # a column more for the padding
    ends = np.arange(0, cells.size + 1, cells.shape[1], dtype=np.int32)
    sums = np.zeros(rows * (n + 1), np.float32)
    add_to_cells(sums, cells.ravel(), values.ravel(), ends, factors)
    weights = sums.reshape(rows, n + 1)[:, :n] * discount
    weights *= discount[block, None]
    row, column = np.divmod(np.flatnonzero(weights), n)
    starts = np.searchsorted(row, np.arange(rows + 1))
    return keep_largest(
        csr_matrix((weights[row, column], column.astype(np.int32), starts), shape=(rows, n)),
        neighbors,
    )


def _fit_sparse_rows(
    pairs: _WindowPairs, block: slice, discount: Float32, neighbors: int
) -> csr_matrix:
    """What `_fit_dense_rows` gives, in less time for items with few pairs."""
    n, rows = len(discount), block.stop - block.start
    row, columns, values, factors = pairs.of_items(block)
    values *= (factors * discount[block][row])[:, None]
    is_item = columns < n
    positions = np.broadcast_to(row[:, None], columns.shape)[is_item], columns[is_item]
    sums = coo_matrix((values[is_item], positions), shape=(rows, n)).tocsr()
    sums.data *= discount[sums.indices]
    return keep_largest(sums, neighbors)


def join_both_orders(following: PairScorer, neighbors: int) -> PairScorer:
    """What follows or precedes an item, for data whose order says little."""
    both = (following.weights + following.weights.T).tocsr()
    n = both.shape[0]
    blocks = split_rows(both.indptr, CELLS_AT_ONCE)
    return PairScorer(_stack((keep_largest(both[block], neighbors) for block in blocks), n))


def fit_related(
    history: History, *, neighbors: int, discount: float, least_users: int
) -> csr_matrix:
    """Similarities (n_items, n_items) float32: users of both items, over users(column)^discount.

    c users of both count as c² / (c + FEW_USERS), because few may be chance.

    discount: how much less similar popular items are.
    least_users: how many users of both a pair needs.
    """
    n = history.n_items
    by_user = history.keep_newest(MAX_PAIRED).recency_weights(0.0)
    by_user = csr_matrix(
        (np.ones_like(by_user.data), by_user.indices, by_user.indptr), by_user.shape
    )
    by_item = by_user.T.tocsr()
    divisor = np.maximum(np.bincount(history.items, minlength=n), 1) ** np.float32(discount)

    def fit_rows(block: slice) -> csr_matrix:
        common = by_item[block] @ by_user
        item = np.repeat(np.arange(block.start, block.stop), np.diff(common.indptr))
        common.data[(common.data < least_users) | (common.indices == item)] = 0
        common.data *= common.data / (common.data + np.float32(FEW_USERS))
        common.data /= divisor[common.indices]
        return keep_largest(common, neighbors)

    step = max(1, 4 * CELLS_AT_ONCE // max(1, n))
    blocks = [slice(first, min(first + step, n)) for first in range(0, n, step)]
    return _stack(ordered_map(fit_rows, blocks), n)


def keep_largest(rows: csr_matrix, k: int) -> csr_matrix:
    """The k largest entries of each row; of equal ones those of the lower columns.

    Overwrites `rows`, whose entries are not negative.
    """
    rows.eliminate_zeros()
    rows.sort_indices()
    lengths = np.diff(rows.indptr)
    long_rows = np.flatnonzero(lengths > k)
    if not len(long_rows):
        return rows
    place = np.arange(lengths.max())
    is_entry = place < lengths[long_rows, None]
    entries = np.where(is_entry, rows.indptr[long_rows, None] + place, 0)
    # What pads shorter rows differs, because np.partition takes long over equal numbers.
    values = np.where(is_entry, rows.data[entries], -1 - place).astype(np.float32)
    kth = np.partition(values, -k, axis=1)[:, -k, None]
    is_best, is_tie = values > kth, values == kth
    is_best |= is_tie & (np.cumsum(is_tie, axis=1) <= k - is_best.sum(axis=1, keepdims=True))
    is_kept = np.repeat(lengths <= k, lengths)
    is_kept[entries[is_best]] = True
    rows.data[~is_kept] = 0
    rows.eliminate_zeros()
    return rows


def _stack(blocks: Iterable[csr_matrix], n: int) -> csr_matrix:
    """The blocks of rows, one below the other, with n columns."""
    return vstack([csr_matrix((0, n), dtype=np.float32), *blocks], format="csr", dtype=np.float32)
