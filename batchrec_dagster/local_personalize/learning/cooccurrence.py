"""Item-item weights from what followed what: directional co-occurrence in a window.

An item met soon after another, by many users, is a good next item after it. The pair counts
distance^-0.5, so near pairs more than far ones, and both items' popularity is discounted, as in
cosine similarity. Related: Sarwar et al., "Item-based collaborative filtering" (WWW 2001); Garg et
al., "Sequence and time aware neighborhood for session-based recommendations" (SIGIR 2019).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, csr_matrix, vstack

from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.threads import ordered_map, pieces

WINDOW = 32
DISTANCE_POWER = 0.5
POPULARITY_POWER = 0.5
POPULARITY_SHIFT = 5.0

# Pairs counted at once, and sums kept meanwhile: a few MiB of each.
PAIRS = 1 << 20
SUMS = 1 << 20


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
    ones = np.ones(at_once, dtype=np.float32)

    def rows(part: slice) -> csr_matrix:
        met = places[starts[part.start] : starts[part.stop]]
        # Each item's sums have a stretch of one long vector, with a place for what is no item.
        stretch = np.repeat(np.arange(part.stop - part.start) * (n + 1), counts[part])
        sums = np.zeros((part.stop - part.start) * (n + 1), dtype=np.float32)
        for first in range(0, len(met), at_once):
            for shift, nearness in sides:
                pairs = windows[met[first : first + at_once] + shift].astype(np.int32, copy=False)
                pairs += stretch[first : first + at_once, None].astype(np.int32)
                by_met = csc_matrix(
                    (nearness[: pairs.size], pairs.ravel(), np.arange(0, pairs.size + 1, window)),
                    shape=(len(sums), len(pairs)),
                )
                sums += by_met @ ones[: len(pairs)]
        weights = sums.reshape(-1, n + 1)[:, :n]
        weights *= discount[part, None]
        weights *= discount
        return _largest(weights, kept)

    parts = pieces(starts, at_once, max(1, SUMS // (n + 1)))
    out: csr_matrix = vstack(
        [csr_matrix((0, n), dtype=np.float32), *ordered_map(rows, parts)], format="csr"
    )
    return out


def _spaced(
    history: History, window: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.signedinteger]]:
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


def _largest(weights: npt.NDArray[np.float32], kept: int) -> csr_matrix:
    """The `kept` largest positive weights of each row, ties by column; columns in rising order."""
    weights[weights == 0] = -np.inf
    chosen = np.sort(top(weights, min(kept, weights.shape[1])), axis=1)
    real = chosen >= 0
    data = np.take_along_axis(weights, np.maximum(chosen, 0), axis=1)[real]
    ends = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    return csr_matrix((data, chosen[real], ends), shape=weights.shape)
