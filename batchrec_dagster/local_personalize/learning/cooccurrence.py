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
from .threads import ordered_map, row_ranges

WINDOW = 32
DISTANCE_EXPONENT = 0.5
POPULARITY_EXPONENT = 0.5
POPULARITY_SHIFT = 5.0

# Pairs counted at once, and sums kept meanwhile: a few MiB of each.
PAIRS = 1 << 20
SUMS = 1 << 20

# Adding a pair to a sparse matrix costs about as much as clearing this many cells of a dense one.
CELLS = 64
# In a large catalogue each item has the cheaper way.
MANY_ITEMS = 20_000
CELLS_OF_MANY = 10


def fit(
    history: History, *, window: int = WINDOW, neighbors: int, symmetric: bool = False
) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item of a history, column = a later item.

    `window` is how many of the next items pair with each item of a history; `symmetric` pairs as
    many of the items before it too. Each row keeps its `neighbors` largest weights, ties to the
    lower column.
    """
    n = history.n_items
    pairs = _WindowPairs.from_history(history, window, symmetric)
    discount = ((pairs.counts + POPULARITY_SHIFT) ** -POPULARITY_EXPONENT).astype(np.float32)

    def dense_rows(block: slice) -> csr_matrix:
        weights = _dense_sums(pairs, block, n)
        weights *= discount[block, None]
        weights *= discount
        return top_k_per_row(masked_entries(weights, weights > 0), neighbors)

    def sparse_rows(block: slice) -> csr_matrix:
        weights = _sparse_sums(pairs, block, n)
        weights.data *= np.repeat(discount[block], np.diff(weights.indptr))
        weights.data *= discount[weights.indices]
        return top_k_per_row(weights, neighbors)

    cells = pairs.counts * (window * len(pairs.sides))
    if n > MANY_ITEMS:  # the items before `tail` have most of the pairs
        tail = int(np.flatnonzero(cells * CELLS_OF_MANY >= n).max(initial=-1)) + 1
    else:
        tail = 0 if cells.sum() * CELLS < n * n else n
    head = row_ranges(pairs.starts[: tail + 1], pairs.at_once, max(1, SUMS // (n + 1)))
    rest = [
        slice(tail + block.start, tail + block.stop)
        for block in row_ranges(pairs.starts[tail:], pairs.at_once)
    ]
    rows = chain(ordered_map(dense_rows, head), ordered_map(sparse_rows, rest))
    out: csr_matrix = vstack([csr_matrix((0, n), dtype=np.float32), *rows], format="csr")
    out.sort_indices()
    return out


@dataclass(frozen=True)
class _WindowPairs:
    """The pairs of items within a window, item by item.

    All histories are laid out in one line, with `window` padding entries (n_items) between users,
    so that no window reaches into another user's history.
    """

    counts: npt.NDArray[np.intp]  # (n_items,) entries of each item
    starts: npt.NDArray[np.intp]  # (n_items + 1,) where the entries of each item begin
    places: npt.NDArray[np.signedinteger]  # (entries,) places in the line, item by item
    windows: Int32  # (places, window) sliding windows over the line
    sides: list[tuple[int, Float32]]  # shift of the window, what each pair in it counts
    at_once: int
    weights: Float32 | None  # (line,) of the events

    @classmethod
    def from_history(cls, history: History, window: int, symmetric: bool) -> _WindowPairs:
        counts = np.bincount(history.items, minlength=history.n_items)
        line, places = _padded_line(history, window)
        at_once = max(1, PAIRS // window)
        near = (np.arange(1, window + 1) ** -DISTANCE_EXPONENT).astype(np.float32)
        # Histories run from new to old, so later items come before.
        sides = [(-window, np.tile(near[::-1], at_once))]
        if symmetric:
            sides.append((1, np.tile(near, at_once)))
        return cls(
            counts,
            np.concatenate([[0], np.cumsum(counts)]),
            places,
            np.lib.stride_tricks.sliding_window_view(line, window),
            sides,
            at_once,
            _weights_of_line(history, line),
        )

    def batches(self, block: slice) -> Iterator[tuple[Int32, Int32, Float32]]:
        """Batches of a block's pairs: (k,) rows, (k, window) columns, (k * window,) counts."""
        places = self.places[self.starts[block.start] : self.starts[block.stop]]
        row = np.repeat(np.arange(block.stop - block.start, dtype=np.int32), self.counts[block])
        for first in range(0, len(places), self.at_once):
            some = slice(first, first + self.at_once)
            for shift, nearness in self.sides:
                columns = self.windows[places[some] + shift].astype(np.int32, copy=False)
                yield row[some], columns, self._count(nearness, places[some], shift, columns.shape)

    def _count(
        self, nearness: Float32, places: npt.NDArray[Any], shift: int, shape: tuple[int, ...]
    ) -> Float32:
        if self.weights is None:
            return nearness[: shape[0] * shape[1]]
        of_columns = np.lib.stride_tricks.sliding_window_view(self.weights, shape[1])
        both: Float32 = of_columns[places + shift] * self.weights[places][:, None]
        both *= nearness[: both.size].reshape(shape)
        return both.ravel()


def _weights_of_line(history: History, line: Int32) -> Float32 | None:
    if history.weights is None:
        return None
    weights = np.zeros(len(line), dtype=np.float32)
    weights[line < history.n_items] = history.weights
    return weights


def _padded_line(history: History, window: int) -> tuple[Int32, npt.NDArray[np.signedinteger]]:
    """The line of `_WindowPairs`, and the places of all entries in it, item by item."""
    users, entries, n = len(history.lengths), len(history.items), history.n_items
    line = np.full(entries + window * (users + 1), n, dtype=np.int32)
    whole: npt.DTypeLike = np.int32 if len(line) <= np.iinfo(np.int32).max else np.int64
    gaps = (window * np.arange(1, users + 1)).astype(whole)
    places = np.arange(entries).astype(whole)
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
