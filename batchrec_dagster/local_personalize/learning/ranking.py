"""The best k items of each row, exactly: ties go to the item that stands first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


def top(scores: Float32, k: int) -> Int32:
    """(rows, k) column indices by falling score, then rising column; -1 after a row's last.

    `scores` is (rows, n) float32 without NaN; -inf marks what must not be chosen.
    """
    rows, n = scores.shape
    out = np.full((rows, k), -1, dtype=np.int32)
    size = min(k, n)
    if not rows or not size:
        return out
    # The size-th best of each row; everything from there up is a candidate, ties included.
    threshold = np.partition(scores, n - size, axis=1)[:, n - size, None]
    row, column = np.nonzero((scores >= threshold) & (scores > -np.inf))
    order = np.lexsort((-scores[row, column], row))  # stable: columns stay in rising order
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    chosen = place < size
    out[row[chosen], place[chosen]] = column[chosen]
    return out
