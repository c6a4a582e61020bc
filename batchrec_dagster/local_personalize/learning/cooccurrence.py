"""Item-item weights from which item followed which: directional co-occurrence in a window.

A pair of items in one history counts distance^-0.5, so near pairs count more, times the weights of
both events, if they have any. The popularity of both items is discounted, as in cosine similarity.
Related: Sarwar et al., "Item-based collaborative filtering" (WWW 2001); Garg et al., "Sequence and
time aware neighborhood for session-based recommendations" (SIGIR 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack
from scipy.sparse._sparsetools import csc_matvec

from .interactions import Float32, History, Int32
from .ranking import masked_entries, top_k_per_row
from .threads import ordered_map, split_rows

WINDOW = 32  # how many of the next items pair with an item; the hyperparameter bptt
DISTANCE_EXPONENT = 0.5
POPULARITY_EXPONENT = 0.5
POPULARITY_SHIFT = 5.0

# Pairs that are counted at once, and sums in memory meanwhile: a few MiB of each.
PAIRS = 1 << 20
SUMS = 1 << 20

# Adding a pair to a sparse matrix costs about as much as clearing this many cells of a dense one.
CELLS = 64
# In a catalogue with more items, the cheaper way is taken for each item, and not for all of them.
MANY_ITEMS = 20_000
CELLS_OF_MANY = 10


def fit(
    history: History, *, window: int = WINDOW, neighbors: int, symmetric: bool = False
) -> csr_matrix:
    """Weights (n_items, n_items) float32: a row is an item of a history, a column a later item.

    window: how many of the next items pair with each item of a history.
    neighbors: how many weights each row keeps, the largest ones; of equal ones the lower columns.
    symmetric: whether as many of the items before it pair with an item too.
    """
    n = history.n_items
    pairs = _WindowPairs.from_history(history, window, symmetric)
    discount = ((pairs.counts + POPULARITY_SHIFT) ** -POPULARITY_EXPONENT).astype(np.float32)

    def dense_rows(block: slice) -> csr_matrix:
        sums = _dense_sums(pairs, block, n)
        sums *= discount[block, None]
        sums *= discount
        return top_k_per_row(masked_entries(sums, sums > 0), neighbors)

    def sparse_rows(block: slice) -> csr_matrix:
        sums = _sparse_sums(pairs, block, n)
        sums.data *= np.repeat(discount[block], np.diff(sums.indptr))
        sums.data *= discount[sums.indices]
        return top_k_per_row(sums, neighbors)

    # The items before `tail`, which have most of the pairs, are counted in dense rows.
    cells = pairs.counts * (window * len(pairs.sides))
    if n > MANY_ITEMS:
        tail = int(np.flatnonzero(cells * CELLS_OF_MANY >= n).max(initial=-1)) + 1
    else:
        tail = 0 if cells.sum() * CELLS < n * n else n
    dense_blocks = split_rows(pairs.starts[: tail + 1], pairs.batch_size, max(1, SUMS // (n + 1)))
    sparse_blocks = [
        slice(tail + block.start, tail + block.stop)
        for block in split_rows(pairs.starts[tail:], pairs.batch_size)
    ]
    rows = chain(ordered_map(dense_rows, dense_blocks), ordered_map(sparse_rows, sparse_blocks))
    weights: csr_matrix = vstack([csr_matrix((0, n), dtype=np.float32), *rows], format="csr")
    weights.sort_indices()
    return weights


@dataclass(frozen=True)
class _WindowPairs:
    """The pairs of items within a window, item by item.

    All histories are laid out in one line, with `window` padding entries (n_items) between users,
    so that no window reaches into another user's history.
    """

    counts: npt.NDArray[np.intp]
    """(n_items,) the number of entries of each item."""

    starts: npt.NDArray[np.intp]
    """(n_items + 1,) where the entries of each item begin in `places`."""

    places: npt.NDArray[np.signedinteger]
    """(entries,) the place in the line of each entry, item by item."""

    windows: Int32
    """(places, window) sliding windows over the line."""

    sides: list[tuple[int, Float32]]
    """For the later items, and perhaps the earlier ones: the shift from an entry to its window, and
    (batch_size * window,) what each pair in it counts."""

    batch_size: int
    """How many entries are paired at once."""

    weights: Float32 | None
    """(line,) of the events, 0 for padding. None if there are none."""

    @classmethod
    def from_history(cls, history: History, window: int, symmetric: bool) -> _WindowPairs:
        counts = np.bincount(history.items, minlength=history.n_items)
        line, places = _padded_line(history, window)
        batch_size = max(1, PAIRS // window)
        nearness = (np.arange(1, window + 1) ** -DISTANCE_EXPONENT).astype(np.float32)
        # Histories run from new to old, so the later items are before an entry.
        sides = [(-window, np.tile(nearness[::-1], batch_size))]
        if symmetric:
            sides.append((1, np.tile(nearness, batch_size)))
        return cls(
            counts,
            np.concatenate([[0], np.cumsum(counts)]),
            places,
            np.lib.stride_tricks.sliding_window_view(line, window),
            sides,
            batch_size,
            _weights_of_line(history, line),
        )

    def batches(self, block: slice) -> Iterator[tuple[Int32, Int32, Float32]]:
        """Batches of the pairs of a block of items.

        Each has the (k,) rows in the block, (k, window) items in the window of each, and (k *
        window,) what each pair counts.
        """
        places = self.places[self.starts[block.start] : self.starts[block.stop]]
        row = np.repeat(np.arange(block.stop - block.start, dtype=np.int32), self.counts[block])
        for first in range(0, len(places), self.batch_size):
            batch = slice(first, first + self.batch_size)
            for shift, nearness in self.sides:
                columns = self.windows[places[batch] + shift].astype(np.int32, copy=False)
                pair_counts = self._weigh(nearness, places[batch], shift, columns.shape)
                yield row[batch], columns, pair_counts

    def _weigh(
        self, nearness: Float32, places: npt.NDArray[Any], shift: int, shape: tuple[int, ...]
    ) -> Float32:
        """(k * window,): the nearness of pairs, times the weights of both events, if any."""
        if self.weights is None:
            return nearness[: shape[0] * shape[1]]
        window_weights = np.lib.stride_tricks.sliding_window_view(self.weights, shape[1])
        products: Float32 = window_weights[places + shift] * self.weights[places][:, None]
        products *= nearness[: products.size].reshape(shape)
        return products.ravel()


def _weights_of_line(history: History, line: Int32) -> Float32 | None:
    """(line,): the weights of the events, 0 for padding; None if there are none."""
    if history.weights is None:
        return None
    weights = np.zeros(len(line), dtype=np.float32)
    weights[line < history.n_items] = history.weights
    return weights


def _padded_line(history: History, window: int) -> tuple[Int32, npt.NDArray[np.signedinteger]]:
    """The line of `_WindowPairs`, and the places of all entries in it, item by item."""
    users, entries, n = len(history.lengths), len(history.items), history.n_items
    line = np.full(entries + window * (users + 1), n, dtype=np.int32)
    place_type: npt.DTypeLike = np.int32 if len(line) <= np.iinfo(np.int32).max else np.int64
    gaps = (window * np.arange(1, users + 1)).astype(place_type)
    places = np.arange(entries).astype(place_type)
    places += np.repeat(gaps, history.lengths)
    line[places] = history.items
    by_item = csr_matrix((places, history.items, history.starts), shape=(users, n)).tocsc()
    return line, by_item.data


def _dense_sums(pairs: _WindowPairs, block: slice, n: int) -> Float32:
    """(rows of the block, n) sums of the pairs."""
    # All rows are one long vector, with a column n for padding.
    sums = np.zeros((block.stop - block.start) * (n + 1), dtype=np.float32)
    for row, columns, nearness in pairs.batches(block):
        columns += (row * np.int32(n + 1))[:, None]
        ends = np.arange(0, columns.size + 1, columns.shape[1], dtype=np.int32)
        ones = np.ones(len(columns), dtype=np.float32)
        csc_matvec(len(sums), len(columns), ends, columns.ravel(), nearness, ones, sums)
    return sums.reshape(-1, n + 1)[:, :n]


def _sparse_sums(pairs: _WindowPairs, block: slice, n: int) -> csr_matrix:
    """(rows of the block, n) sums of the pairs."""
    sums = csr_matrix((block.stop - block.start, n + 1), dtype=np.float32)
    for row, columns, nearness in pairs.batches(block):
        ends = np.arange(0, columns.size + 1, columns.shape[1])
        by_entry = csr_matrix((nearness, columns.ravel(), ends), shape=(len(columns), n + 1))
        ends = np.searchsorted(row, np.arange(sums.shape[0] + 1))
        ones = np.ones(len(row), dtype=np.float32)
        owner = csr_matrix((ones, np.arange(len(row)), ends), shape=(sums.shape[0], len(row)))
        sums = sums + owner @ by_entry
    return sums[:, :n].tocsr()
