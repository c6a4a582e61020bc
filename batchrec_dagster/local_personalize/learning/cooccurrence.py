"""Item-item weights from what followed what: directional co-occurrence in a window.

An item met soon after another, by many users, is a good next item after it. The pair counts
distance^-0.5, so near pairs more than far ones, and both items' popularity is discounted, as in
cosine similarity. Related: Sarwar et al., "Item-based collaborative filtering" (WWW 2001); Garg et
al., "Sequence and time aware neighborhood for session-based recommendations" (SIGIR 2019).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, csr_matrix, vstack

from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.pruning import largest
from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.threads import ordered_map, pieces

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

WINDOW = 32
DISTANCE_POWER = 0.5
POPULARITY_POWER = 0.5
POPULARITY_SHIFT = 5.0

# Pairs counted at once, and sums kept meanwhile: a few MiB of each.
PAIRS = 1 << 20
SUMS = 1 << 20

# To add up a pair where it is sparse costs about as much as so many cells of dense sums.
CELLS = 64


def fit(
    history: History, *, window: int = WINDOW, kept: int, either_way: bool = False
) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item met, column = an item that may follow.

    `window` is how many of the next items count for each item of a history, and as many of those
    before it with `either_way`; the `kept` largest weights stay in each row, ties by column.
    """
    n = history.n_items
    counts = np.bincount(history.items, minlength=n)
    starts = np.concatenate([[0], np.cumsum(counts)])
    discount = ((counts + POPULARITY_SHIFT) ** -POPULARITY_POWER).astype(np.float32)
    line, places = _spaced(history, window)
    windows = np.lib.stride_tricks.sliding_window_view(line, window)
    at_once = max(1, PAIRS // window)
    near = (np.arange(1, window + 1) ** -DISTANCE_POWER).astype(np.float32)
    # Histories run from new to old, so what followed stands before.
    sides = [(-window, np.tile(near[::-1], at_once))]
    if either_way:
        sides.append((1, np.tile(near, at_once)))

    def near_pairs(part: slice) -> Iterator[tuple[Int32, Int32, Float32]]:
        """Some of a part's pairs: (k,) rows, (k, window) columns, what each of these counts."""
        met = places[starts[part.start] : starts[part.stop]]
        row = np.repeat(np.arange(part.stop - part.start, dtype=np.int32), counts[part])
        for first in range(0, len(met), at_once):
            some = slice(first, first + at_once)
            for shift, nearness in sides:
                columns = windows[met[some] + shift].astype(np.int32, copy=False)
                yield row[some], columns, nearness[: columns.size]

    def dense_rows(part: slice) -> csr_matrix:
        # Each item's sums have a stretch of one long vector, with a place for what is no item.
        sums = np.zeros((part.stop - part.start) * (n + 1), dtype=np.float32)
        for row, pairs, nearness in near_pairs(part):
            pairs += (row * np.int32(n + 1))[:, None]
            by_met = csc_matrix(
                (nearness, pairs.ravel(), np.arange(0, pairs.size + 1, window)),
                shape=(len(sums), len(pairs)),
            )
            sums += by_met @ np.ones(len(pairs), dtype=np.float32)
        weights = sums.reshape(-1, n + 1)[:, :n]
        weights *= discount[part, None]
        weights *= discount
        return _largest(weights, kept)

    def sparse_rows(part: slice) -> csr_matrix:
        sums = csr_matrix((part.stop - part.start, n + 1), dtype=np.float32)
        for row, pairs, nearness in near_pairs(part):
            places = np.repeat(row, window), pairs.ravel()
            sums = sums + csr_matrix((nearness, places), shape=sums.shape)
        weights = sums[:, :n].tocsr()
        weights.data *= np.repeat(discount[part], np.diff(weights.indptr))
        weights.data *= discount[weights.indices]
        return largest(weights, kept)

    if len(history.items) * window * len(sides) * CELLS < n * n:
        made = ordered_map(sparse_rows, pieces(starts, at_once))
    else:
        made = ordered_map(dense_rows, pieces(starts, at_once, max(1, SUMS // (n + 1))))
    out: csr_matrix = vstack([csr_matrix((0, n), dtype=np.float32), *made], format="csr")
    out.sort_indices()
    return out


def _spaced(history: History, window: int) -> tuple[Int32, npt.NDArray[np.signedinteger]]:
    """All histories in one line, `window` places of no item (n_items) before each, so that no
    window reaches into another user's; and where in it each item was met, item by item."""
    users, entries, n = len(history.lengths), len(history.items), history.n_items
    line = np.full(entries + window * (users + 1), n, dtype=np.int32)
    whole: npt.DTypeLike = np.int32 if len(line) <= np.iinfo(np.int32).max else np.int64
    gaps = (window * np.arange(1, users + 1)).astype(whole)
    places = np.arange(entries).astype(whole)
    places += np.repeat(gaps, history.lengths)
    line[places] = history.items
    by_item = csr_matrix((places, history.items, history.starts), shape=(users, n)).tocsc()
    return line, by_item.data


def _largest(weights: Float32, kept: int) -> csr_matrix:
    """The `kept` largest positive weights of each row, ties by column; columns in rising order."""
    weights[weights == 0] = -np.inf
    chosen = np.sort(top(weights, min(kept, weights.shape[1])), axis=1)
    real = chosen >= 0
    data = np.take_along_axis(weights, np.maximum(chosen, 0), axis=1)[real]
    ends = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    return csr_matrix((data, chosen[real], ends), shape=weights.shape)
