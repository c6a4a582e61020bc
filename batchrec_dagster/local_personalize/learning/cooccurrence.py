"""Item-item weights from what followed what: directional co-occurrence in a window.

An item met soon after another, by many users, is a good next item after it. The pair counts
distance^-0.5, so near pairs more than far ones, and both items' popularity is discounted, as in
cosine similarity. Related: Sarwar et al., "Item-based collaborative filtering" (WWW 2001); Garg et
al., "Sequence and time aware neighborhood for session-based recommendations" (SIGIR 2019).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, vstack

from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.threads import ordered_map

WINDOW = 32
DISTANCE_POWER = 0.5
POPULARITY_POWER = 0.5
POPULARITY_SHIFT = 5.0

# Pairs counted at once: some tens of bytes each while they are.
PAIRS = 4 << 20


def fit(history: History, *, window: int = WINDOW, kept: int) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item met, column = an item that may follow.

    `window` is how many of the next items count for each item of a history; the `kept` largest
    weights stay in each row.
    """
    n = history.n_items
    counts = np.bincount(history.items, minlength=n)
    discount = ((counts + POPULARITY_SHIFT) ** -POPULARITY_POWER).astype(np.float32)
    by_item = np.argsort(history.items, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    opens = np.repeat(history.starts[:-1], history.lengths)
    near = np.arange(1, window + 1)
    nearness = (near**-DISTANCE_POWER).astype(np.float32)

    def rows(part: slice) -> csr_matrix:
        entries = by_item[starts[part.start] : starts[part.stop]]
        # Histories run from new to old, so what followed an entry stands before it.
        following = entries[:, None] - near
        real = following >= opens[entries, None]
        lengths = real.sum(axis=1)
        after = csr_matrix(
            (
                np.broadcast_to(nearness, real.shape)[real],
                history.items[following[real]],
                np.concatenate([[0], np.cumsum(lengths)]),
            ),
            shape=(len(entries), n),
        )
        firsts = starts[part.start : part.stop + 1] - starts[part.start]
        ones = np.ones(len(entries), np.float32)
        of = csr_matrix(
            (ones, np.arange(len(entries)), firsts), shape=(len(firsts) - 1, len(after.indptr) - 1)
        )
        sums = (of @ after).tocsr()
        sums.data *= np.repeat(discount[part], np.diff(sums.indptr)) * discount[sums.indices]
        return _largest(sums, kept)

    parts = _pieces(starts, max(1, PAIRS // window))
    out: csr_matrix = vstack(list(ordered_map(rows, parts)), format="csr", dtype=np.float32)
    return out


def _pieces(starts: np.ndarray, size: int) -> list[slice]:
    """Ranges of items with about `size` entries each, at least one item."""
    pieces, first, n = [], 0, len(starts) - 1
    while first < n:
        last = int(np.searchsorted(starts, starts[first] + size, side="right")) - 1
        last = min(n, max(first + 1, last))
        pieces.append(slice(first, last))
        first = last
    return pieces


def _largest(rows: csr_matrix, kept: int) -> csr_matrix:
    """The `kept` largest entries of each row, ties by column; columns in rising order.

    All entries are positive, so their bits read as whole numbers have their order, and one sort of
    row and bits together finds the smallest to keep of every row.
    """
    rows.sort_indices()
    lengths = np.diff(rows.indptr)
    long = np.flatnonzero(lengths > kept)
    if len(long):
        bits = rows.data.view(np.int32).astype(np.int64)
        owner = np.repeat(np.arange(rows.shape[0]), lengths)
        falling = np.sort((owner << 32) - bits)
        least = np.zeros(rows.shape[0], dtype=np.int64)
        least[long] = (long << 32) - falling[rows.indptr[long] + kept - 1]
        above, level = bits > least[owner], bits == least[owner]
        room = kept - np.bincount(owner[above], minlength=rows.shape[0])
        so_far = np.cumsum(level)
        before = np.concatenate([[0], so_far])[rows.indptr[:-1]]
        rows.data[~above & ~(level & (so_far - before[owner] <= room[owner]))] = 0
        rows.eliminate_zeros()
    return rows
