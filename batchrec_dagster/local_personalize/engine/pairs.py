"""Weights of pairs of items that follow each other, occur together, or share users.

A weight is a sum over pairs of interactions, divided by powers of the items' popularity. Each item
keeps only its largest weights.

Sources: Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (WWW 2001);
Deshpande, Karypis, "Item-based top-N recommendation algorithms" (TOIS 2004); for the order of
items, Garg et al., "Sequence and time aware neighborhood for session-based recommendations" (SIGIR
2019).
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

WINDOW = 32  # An item pairs with this many next items. The hyperparameter bptt overrides it.
DISTANCE_EXPONENT = 0.5
POPULARITY_EXPONENT = 0.5
POPULARITY_SHIFT = 5.0

PAIRS_AT_ONCE = 1 << 18
CELLS_AT_ONCE = 1 << 19

# The number of pairs grows with the square of a history's length. A few hundred items of a user
# give the same accuracy as all items (Schelter, Boden, Markl, "Scalable similarity-based
# neighborhood methods with MapReduce", RecSys 2012). This limit is far above a few hundred.
MAX_PAIRED = 5_000
FEW_USERS = 10  # If this many users had both items of a pair, the pair counts half their number.


@dataclass(frozen=True)
class PairScorer:
    """A component that adds up the weights from each item of a history to all items."""

    weights: csr_matrix
    """Weights from items of a history (rows) to items to score (columns), float32 and square."""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """Add the weighted scores of all items to `scores`, in place."""
        recency = history.recency_weights(exponent).data * np.float32(weight)
        order = np.lexsort((-history.items, history.owners))
        rows = history.items[order]
        # `csc_matvec` takes adjacent `ends` as the bounds of a column. The columns alternate
        # between the row of an item and the gap to the next row. As rows are in falling order, a
        # gap ends before it begins, so csc_matvec takes it as empty. No row has to be copied.
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
    """Add values, times the factors of their parts, to the cells of `sums`, in place.

    This is the product of a sparse matrix and a vector, for which SciPy calls `csc_matvec`. SciPy's
    public product of two sparse matrices takes four times as long, and that is a third of the time
    to make all lists. pyproject.toml pins SciPy's version.

    sums: contiguous, of shape (cells,).
    cells, values: the cell to add to, and the value to add, both of shape (entries,).
    ends: shape (parts + 1,). Part p has the entries ends[p]:ends[p + 1].
    factors: the factor of each part's values, of shape (parts,).
    """
    csc_matvec(len(sums), len(factors), ends, cells, values, factors, sums)


def fit_following(history: History, *, neighbors: int, window: int) -> PairScorer:
    """Fit the weights from an item (row) to the `window` next items (columns) in histories.

    A pair counts distance^-0.5 times the weights of its two events, so near pairs count more.

    neighbors: the number of weights that each row keeps.
    """
    n = history.n_items
    pairs = _WindowPairs.lay_out(history, window)
    popularity = (pairs.counts + POPULARITY_SHIFT) ** -POPULARITY_EXPONENT
    discount = popularity.astype(np.float32)

    # The pairs of the most popular items fill a large share of a row, so dense rows are faster. The
    # remaining items are in the order of popularity too, so that the rows of a block have about the
    # same number of pairs.
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

    All histories are laid out in a single line, with `window` padding entries between users, so
    that no window reaches into another user's history.
    """

    counts: Int64
    """The number of entries of each item, of shape (n_items,)."""

    starts: Int64
    """The start of each item's entries in `places`, of shape (n_items + 1,)."""

    places: Int32 | Int64
    """The place of each entry in the line, item by item, of shape (entries,)."""

    line: Int32
    """The items of all histories, of shape (line,). Padding is n_items."""

    weights: Float32
    """The weights of the events, of shape (line,). Padding is 0."""

    nearness: Float32
    """The count of a pair by its place in the window before an entry, of shape (window,)."""

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
        """Return the pairs of a block of items, for all entries of the items.

        The four arrays are each entry's row in the block, of shape (entries,); the items that
        follow the entry, of shape (entries, window); the count of each pair, of shape (entries,
        window); and the weight of each entry's event, of shape (entries,), to multiply the counts
        by.
        """
        places = self.places[self.starts[block.start] : self.starts[block.stop]]
        row = np.repeat(np.arange(block.stop - block.start), self.counts[block])
        window = len(self.nearness)
        # Histories run from new to old, so the items that follow stand before an entry.
        first = places - window
        columns = np.lib.stride_tricks.sliding_window_view(self.line, window)[first]
        values = np.tile(self.nearness, (len(places), 1))
        if self.has_weights:
            values *= np.lib.stride_tricks.sliding_window_view(self.weights, window)[first]
        return row, columns, values, self.weights[places]

    @cached_property
    def has_weights(self) -> bool:
        """Whether any event has a weight other than 1."""
        return bool((self.weights[self.line < len(self.counts)] != 1).any())


def _fit_dense_rows(
    pairs: _WindowPairs, block: slice, discount: Float32, neighbors: int
) -> csr_matrix:
    """Return the largest weights of a block of items, of shape (rows of the block, n_items).

    The weights are summed in a dense array.
    """
    n, rows = len(discount), block.stop - block.start
    row, cells, values, factors = pairs.of_items(block)
    # Each row has an additional column for the padding.
    cells = cells + (row * (n + 1)).astype(np.int32)[:, None]
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
    """Return the result of `_fit_dense_rows`, in less time for items with few pairs."""
    n, rows = len(discount), block.stop - block.start
    row, columns, values, factors = pairs.of_items(block)
    values *= (factors * discount[block][row])[:, None]
    is_item = columns < n
    positions = np.broadcast_to(row[:, None], columns.shape)[is_item], columns[is_item]
    sums = coo_matrix((values[is_item], positions), shape=(rows, n)).tocsr()
    sums.data *= discount[sums.indices]
    return keep_largest(sums, neighbors)


def join_both_orders(following: PairScorer, neighbors: int) -> PairScorer:
    """Return the weights of items that follow or precede each other, for data with little order."""
    joined = (following.weights + following.weights.T).tocsr()
    n = joined.shape[0]
    blocks = split_rows(joined.indptr, CELLS_AT_ONCE)
    return PairScorer(_stack((keep_largest(joined[block], neighbors) for block in blocks), n))


def fit_related(
    history: History, *, neighbors: int, discount: float, least_users: int
) -> csr_matrix:
    """Return the similarities of items by common users, float32 of shape (n_items, n_items).

    If c users had both items of a pair, the similarity is c² / (c + FEW_USERS), divided by the
    number of the column item's users to the power `discount`. The fraction makes small numbers
    count less, because they may be chance.

    discount: with a larger discount, popular items are less similar to other items.
    least_users: the number of common users that a pair needs.
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
    """Return the k largest entries of each row. The lower column wins a tie.

    rows: without negative entries. The matrix is overwritten.
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
    # Shorter rows are padded with different numbers, because np.partition is slow on equal numbers.
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
    """Stack blocks of rows with n columns."""
    return vstack([csr_matrix((0, n), dtype=np.float32), *blocks], format="csr", dtype=np.float32)
