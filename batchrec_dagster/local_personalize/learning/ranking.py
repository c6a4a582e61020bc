"""Exact top k of rows, streams and matrices; ties go to the lower column or the earlier value.

Models sort their items by falling popularity, so a tie keeps the more popular item. `top_k` reads
each row once: it cuts the row into about sqrt(k n) groups and takes the maximum of each. The k-th
largest maximum is a lower bound of the k-th largest score, so only the few groups that reach it
are searched. Where k is small, the bound is that of pairs of such groups, and halves are searched.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .interactions import Float32, Int32
from .threads import for_each

Index = npt.NDArray[np.intp]

LANES = 16  # the number of groups is a multiple, so that SIMD instructions are full
MIN_KEY = np.iinfo(np.int64).min
MIN_SCORE = np.finfo(np.float32).min

MIN_BUFFER = 1024  # room of StreamingTopK for new values between two compactions, at least
COMPACTED_AT_ONCE = 4 << 20  # values per core


def top_k(scores: Float32, k: int) -> Int32:
    """(rows, k) columns of the largest scores, sorted by score, then column; -1 pads.

    `scores` is (rows, n) float32 without NaN; -inf is never chosen.
    """
    rows, n = scores.shape
    groups, fold = int(np.sqrt(k * n)) // LANES * LANES, 1
    if not rows or not 0 < 2 * k < groups:
        return _top_k_by_partition(scores, k)
    if 4 * k < groups:  # smaller groups to search, and fewer maxima to partition
        groups, fold = 2 * groups, 4
    maxima = _group_maxima(scores, groups)
    folded = maxima.reshape(rows, fold, -1).max(axis=1)
    at = groups // fold - k
    bound = np.partition(folded, at, axis=1)[:, at, None]
    # With a strict filter fewer than k maxima are finite; skip the groups of -inf.
    bound = np.maximum(bound, MIN_SCORE)
    reached = maxima >= bound
    # In a row full of ties no group can be skipped; _by_partition drops ties before sorting.
    tied = reached.sum(axis=1) > 2 * k
    reached[tied] = False
    row, column = _candidates(scores, reached, bound)
    out = _sort_candidates(scores, row, column, k)
    if tied.any():
        out[tied] = _top_k_by_partition(scores[tied], k)
    return out


def _group_maxima(scores: Float32, groups: int) -> Float32:
    """(rows, groups) maxima; group g holds columns g, g + groups, g + 2 groups and so on."""
    rows, n = scores.shape
    whole = n // groups * groups
    maxima = scores[:, :whole].reshape(rows, -1, groups).max(axis=1)
    rest = maxima[:, : n - whole]
    np.maximum(rest, scores[:, whole:], out=rest)
    return np.asarray(maxima)


def _candidates(
    scores: Float32, reached: npt.NDArray[np.bool_], bound: Float32
) -> tuple[Index, Index]:
    """Rows (sorted) and columns of the scores >= bound in the groups that reach it."""
    (rows, n), groups = scores.shape, reached.shape[1]
    whole = n // groups * groups
    # flatnonzero is much faster than nonzero of two dimensions.
    row, group = np.divmod(np.flatnonzero(reached), groups)
    found = scores[:, :whole].reshape(rows, -1, groups)[row, :, group]
    at = np.flatnonzero(found >= bound[row])
    which, step = np.divmod(at, found.shape[1])
    # The columns after the last whole multiple of `groups`: one each of the first groups.
    last = np.flatnonzero((scores[:, whole:] >= bound) & reached[:, : n - whole])
    rest = np.divmod(last, max(1, n - whole))
    row = np.concatenate([row[which], rest[0]])
    column = np.concatenate([group[which] + step * groups, rest[1] + whole])
    order = np.argsort(row, kind="stable")
    return row[order], column[order]


def _top_k_by_partition(scores: Float32, k: int) -> Int32:
    """The result of `top_k`, from a partition of whole rows."""
    rows, n = scores.shape
    size = min(k, n)
    if not rows or not size:
        return np.full((rows, k), -1, dtype=np.int32)
    threshold = np.partition(scores, n - size, axis=1)[:, n - size, None]
    above, level = scores > threshold, scores == threshold
    room = size - above.sum(axis=1, keepdims=True)
    level &= np.cumsum(level, axis=1, dtype=np.int32) <= room
    row, column = np.nonzero((above | level) & (scores > -np.inf))
    return _sort_candidates(scores, row, column, k)


def _sort_candidates(scores: Float32, row: Index, column: Index, k: int) -> Int32:
    """(rows, k): the best k candidates; `row` is sorted.

    Score and column are packed into one int64 that sorts in the same order, which is fastest.
    """
    rows, n = scores.shape
    bits = (scores[row, column] + np.float32(0)).view(np.int32)  # -0 becomes 0, its equal
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    lengths = np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]
    keys = np.full((rows, max(k, lengths.max(initial=0))), MIN_KEY)
    keys[row, place] = (rising << 32) | (n - column)
    keys.sort(axis=1)
    best = keys[:, ::-1][:, :k]
    return np.where(best == MIN_KEY, -1, n - (best & 0xFFFFFFFF)).astype(np.int32)


class StreamingTopK:
    """Keeps the `size` largest values of each query from a stream of columns; first come wins ties.

    Memory: 2 x queries x (size + the columns added at once) x 8 bytes. New columns are only copied
    into a buffer, which is compacted when it is full.
    """

    def __init__(self, queries: int, size: int) -> None:
        self._size = size
        self._width = 2 * max(size, MIN_BUFFER)
        self._filled = 0
        self._values = np.empty((queries, 0), dtype=np.float32)
        self._labels = np.empty((queries, 0), dtype=np.int32)

    def add(self, labels: Int32, values: Float32) -> None:
        """Add columns: their `labels` (n,) and (queries, n) finite `values`."""
        last = self._filled + len(labels)
        if last > max(self._width, self._size + len(labels)):
            self._compact()
            last = self._filled + len(labels)
        if last > self._values.shape[1]:
            self._grow(last)
        self._values[:, self._filled : last] = values
        self._labels[:, self._filled : last] = labels
        self._filled = last

    def sort_labels(self) -> list[Int32]:
        """For each query the labels of its largest values, largest first."""
        self._compact()
        return [row.copy() for row in self._labels[:, : self._filled]]

    def _grow(self, needed: int) -> None:
        width = max(needed, min(self._width, 2 * self._values.shape[1]))
        for name in ("_values", "_labels"):
            old = getattr(self, name)
            new = np.empty((len(old), width), dtype=old.dtype)
            new[:, : self._filled] = old[:, : self._filled]
            setattr(self, name, new)

    def _compact(self) -> None:
        k = min(self._size, self._filled)
        if k:
            step = max(1, COMPACTED_AT_ONCE // self._filled)
            blocks = (slice(at, at + step) for at in range(0, len(self._values), step))
            for_each(lambda block: self._compact_rows(block, k), blocks)
        self._filled = k

    def _compact_rows(self, block: slice, k: int) -> None:
        values, labels = self._values[block], self._labels[block]
        columns = top_k(values[:, : self._filled], k)
        values[:, :k] = np.take_along_axis(values, columns, axis=1)
        labels[:, :k] = np.take_along_axis(labels, columns, axis=1)


# Pairs grow with the square of a history. A few hundred items per user give the same accuracy as
# all (Schelter, Boden, Markl, "Scalable similarity-based neighborhood methods with MapReduce",
# RecSys 2012); this is far above that.
MAX_PAIRED = 5_000


def keep_most_recent(matrix: csr_matrix) -> csr_matrix:
    """The first MAX_PAIRED entries of each row; the entries of a row run from new to old."""
    lengths = np.diff(matrix.indptr)
    if lengths.max(initial=0) <= MAX_PAIRED:
        return matrix
    stays = np.ones(matrix.nnz, dtype=bool)
    for user in np.flatnonzero(lengths > MAX_PAIRED):
        stays[matrix.indptr[user] + MAX_PAIRED : matrix.indptr[user + 1]] = False
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, MAX_PAIRED))])
    return csr_matrix((matrix.data[stays], matrix.indices[stays], ends), shape=matrix.shape)


def reindex(matrix: csr_matrix, old_index: Int32) -> csr_matrix:
    """The square matrix of other items: (n,) the index of each in `matrix`, -1 for an empty row."""
    known = np.flatnonzero(old_index >= 0)
    shape = len(old_index), matrix.shape[0]
    moves = csr_matrix((np.ones(len(known), np.float32), (known, old_index[known])), shape=shape)
    out: csr_matrix = moves @ matrix @ moves.T
    out.sort_indices()
    return out


def keep_columns(matrix: csr_matrix, kept: npt.NDArray[np.bool_]) -> csr_matrix:
    """A copy of the matrix without entries outside the columns of a (n_columns,) mask."""
    out = matrix.copy()
    out.data[~kept[out.indices]] = 0
    out.eliminate_zeros()
    return out


def top_k_per_dense_row(rows: Float32, k: int) -> csr_matrix:
    """The k entries of largest magnitude of each row, without zeros; equal ones by column."""
    n = rows.shape[1]
    if k >= n:
        return masked_entries(rows, rows != 0)
    size = np.abs(rows)
    groups = int(np.sqrt(k * n)) // LANES * LANES
    # As in top_k: the k-th largest maximum is a lower bound of the k-th largest entry.
    maxima = _group_maxima(size, groups) if 2 * k < groups else size
    bound = np.partition(maxima, maxima.shape[1] - k, axis=1)[:, maxima.shape[1] - k, None]
    return top_k_per_row(masked_entries(rows, size >= bound), k)


def masked_entries(rows: Float32, stays: npt.NDArray[np.bool_]) -> csr_matrix:
    """The entries where the mask is set; in half the time of scipy's conversion."""
    at = np.flatnonzero(stays)  # much faster than nonzero of two dimensions
    starts = np.searchsorted(at, np.arange(len(rows) + 1) * rows.shape[1])
    columns = at - np.repeat(np.arange(len(rows)) * rows.shape[1], np.diff(starts))
    return csr_matrix((rows.ravel()[at], columns.astype(np.int32), starts), shape=rows.shape)


def top_k_per_row(rows: csr_matrix, k: int) -> csr_matrix:
    """The k entries of largest magnitude of each row. Overwrites `rows`; columns in any order."""
    lengths = np.diff(rows.indptr)
    long = np.flatnonzero(lengths > k)
    if not len(long):
        rows.eliminate_zeros()
        return rows
    n = lengths.max()
    real = np.arange(n) < lengths[long, None]
    # The padding differs: partition takes long over equal values.
    size = np.tile(-np.arange(1, n + 1, dtype=np.float32), (len(long), 1))
    size[real] = np.abs(rows.data[np.repeat(lengths > k, lengths)])
    threshold = np.zeros(len(lengths), dtype=np.float32)
    threshold[long] = np.partition(size, n - k, axis=1)[:, n - k]
    rows.data[np.abs(rows.data) < np.repeat(threshold, lengths)] = 0
    rows.eliminate_zeros()
    return _break_ties(rows, threshold, k)


def _break_ties(rows: csr_matrix, threshold: Float32, k: int) -> csr_matrix:
    """Cut rows whose entries all reach their threshold to k entries, the first of equal ones."""
    lengths = np.diff(rows.indptr)
    if lengths.max(initial=0) <= k:
        return rows
    rows.sort_indices()
    tied = np.abs(rows.data) == np.repeat(threshold, lengths)
    before = np.concatenate([[0], np.cumsum(tied)])[rows.indptr]  # ties before each row
    room = k - (lengths - np.diff(before))
    rows.data[tied & (np.cumsum(tied) > np.repeat(before[:-1] + room, lengths))] = 0
    rows.eliminate_zeros()
    return rows
