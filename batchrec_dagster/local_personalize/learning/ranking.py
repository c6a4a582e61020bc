"""The best k items of each row, exactly: ties go to the item that stands first.

Reading a row once must do, so the row is cut into about sqrt(k n) groups and only the largest of
each group is found, at the speed of memory. The k-th largest of these maxima is a bound that at
least k scores reach, and only the few groups that reach it can hold one of the best.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Index = npt.NDArray[np.intp]

LANES = 16  # groups come in multiples of what one instruction compares
LOWEST = np.iinfo(np.int64).min
LEAST = np.finfo(np.float32).min


def top(scores: Float32, k: int) -> Int32:
    """(rows, k) column indices by falling score, then rising column; -1 after a row's last.

    `scores` is (rows, n) float32 without NaN; -inf marks what must not be chosen.
    """
    rows, n = scores.shape
    groups = int(np.sqrt(k * n)) // LANES * LANES
    if not rows or not 0 < 2 * k < groups:
        return _plainly(scores, k)
    maxima = _group_maxima(scores, groups)
    bound = np.partition(maxima, groups - k, axis=1)[:, groups - k, None]
    # Where a filter has left little, less than k maxima are finite; only their groups count.
    bound = np.maximum(bound, LEAST)
    reached = maxima >= bound
    # Of a row full of ties no group can be left out; _plainly drops ties before it sorts.
    tied = reached.sum(axis=1) > 2 * k
    reached[tied] = False
    row, column = _candidates(scores, reached, bound)
    out = _best(scores, row, column, k)
    if tied.any():
        out[tied] = _plainly(scores[tied], k)
    return out


def _group_maxima(scores: Float32, groups: int) -> Float32:
    """(rows, groups): group g holds the columns g, g + groups, g + 2 groups and so on."""
    rows, n = scores.shape
    whole = n // groups * groups
    maxima = scores[:, :whole].reshape(rows, -1, groups).max(axis=1)
    rest = maxima[:, : n - whole]
    np.maximum(rest, scores[:, whole:], out=rest)
    return np.asarray(maxima)


def _candidates(
    scores: Float32, reached: npt.NDArray[np.bool_], bound: Float32
) -> tuple[Index, Index]:
    """Row and column of the scores that reach the bound, row by row, in the groups that do."""
    (rows, n), groups = scores.shape, reached.shape[1]
    whole = n // groups * groups
    row, group = np.nonzero(reached)
    found = scores[:, :whole].reshape(rows, -1, groups)[row, :, group]
    at = np.flatnonzero(found >= bound[row])  # much faster than nonzero of two dimensions
    which, step = np.divmod(at, found.shape[1])
    # What is left of the columns: one more of the first groups.
    rest = np.nonzero((scores[:, whole:] >= bound) & reached[:, : n - whole])
    row = np.concatenate([row[which], rest[0]])
    column = np.concatenate([group[which] + step * groups, rest[1] + whole])
    order = np.argsort(row, kind="stable")
    return row[order], column[order]


def _plainly(scores: Float32, k: int) -> Int32:
    """What `top` gives, by a partition of whole rows."""
    rows, n = scores.shape
    size = min(k, n)
    if not rows or not size:
        return np.full((rows, k), -1, dtype=np.int32)
    threshold = np.partition(scores, n - size, axis=1)[:, n - size, None]
    above, level = scores > threshold, scores == threshold
    room = size - above.sum(axis=1, keepdims=True)
    level &= np.cumsum(level, axis=1, dtype=np.int32) <= room
    row, column = np.nonzero((above | level) & (scores > -np.inf))
    return _best(scores, row, column, k)


def _best(scores: Float32, row: Index, column: Index, k: int) -> Int32:
    """The k best of the candidates, which come row by row.

    Score and column make one whole number that sorts as they do, which sorts fastest.
    """
    rows, n = scores.shape
    bits = (scores[row, column] + np.float32(0)).view(np.int32)  # -0 becomes 0, its equal
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    lengths = np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]
    keys = np.full((rows, max(k, lengths.max(initial=0))), LOWEST)
    keys[row, place] = (rising << 32) | (n - column)
    keys.sort(axis=1)
    best = keys[:, ::-1][:, :k]
    return np.where(best == LOWEST, -1, n - (best & 0xFFFFFFFF)).astype(np.int32)
