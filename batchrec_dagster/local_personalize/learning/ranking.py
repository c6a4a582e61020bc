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

LANES = 16  # the number of groups is a multiple of it, so that SIMD instructions are full
MIN_KEY = np.iinfo(np.int64).min
MIN_SCORE = np.finfo(np.float32).min

MIN_BUFFER = 1024  # the least number of values that StreamingTopK adds between two compactions
COMPACTED_AT_ONCE = 4 << 20  # values per core


def top_k(scores: Float32, k: int) -> Int32:
    """(rows, k) columns of the largest scores, sorted by score, then column; -1 pads.

    scores: (rows, n) float32 without NaN. A score of -inf is never among the largest.
    """
    rows, n = scores.shape
    groups, fold = int(np.sqrt(k * n)) // LANES * LANES, 1
    if not rows or not 0 < 2 * k < groups:
        return _top_k_by_partition(scores, k)
    if 4 * k < groups:  # smaller groups to search, and fewer maxima to partition
        groups, fold = 2 * groups, 4
    maxima = _group_maxima(scores, groups)
    folded_maxima = maxima.reshape(rows, fold, -1).max(axis=1)
    kth = groups // fold - k
    bound = np.partition(folded_maxima, kth, axis=1)[:, kth, None]
    # With a strict filter fewer than k maxima are finite; skip the groups of -inf.
    bound = np.maximum(bound, MIN_SCORE)
    reaches_bound = maxima >= bound
    # In a row full of ties no group can be skipped. A partition drops ties before sorting.
    has_ties = reaches_bound.sum(axis=1) > 2 * k
    reaches_bound[has_ties] = False
    row, column = _find_candidates(scores, reaches_bound, bound)
    columns = _sort_candidates(scores, row, column, k)
    if has_ties.any():
        columns[has_ties] = _top_k_by_partition(scores[has_ties], k)
    return columns


def _group_maxima(scores: Float32, groups: int) -> Float32:
    """(rows, groups) maxima; group g holds columns g, g + groups, g + 2 groups and so on."""
    rows, n = scores.shape
    multiple = n // groups * groups  # the columns after it are one each of the first groups
    maxima = scores[:, :multiple].reshape(rows, -1, groups).max(axis=1)
    first_maxima = maxima[:, : n - multiple]
    np.maximum(first_maxima, scores[:, multiple:], out=first_maxima)
    return np.asarray(maxima)


def _find_candidates(
    scores: Float32, reaches_bound: npt.NDArray[np.bool_], bound: Float32
) -> tuple[Index, Index]:
    """Rows (sorted) and columns of the scores that reach the bound.

    scores: (rows, n).
    reaches_bound: (rows, groups) the groups to search.
    bound: (rows, 1).
    """
    rows, n = scores.shape
    groups = reaches_bound.shape[1]
    multiple = n // groups * groups
    # flatnonzero is much faster than nonzero of two dimensions.
    row, group = np.divmod(np.flatnonzero(reaches_bound), groups)
    group_scores = scores[:, :multiple].reshape(rows, -1, groups)[row, :, group]
    places = np.flatnonzero(group_scores >= bound[row])
    searched, step = np.divmod(places, group_scores.shape[1])
    # The columns after the last whole multiple of `groups`: one each of the first groups.
    is_last = (scores[:, multiple:] >= bound) & reaches_bound[:, : n - multiple]
    last_row, last_column = np.divmod(np.flatnonzero(is_last), max(1, n - multiple))
    row = np.concatenate([row[searched], last_row])
    column = np.concatenate([group[searched] + step * groups, last_column + multiple])
    order = np.argsort(row, kind="stable")
    return row[order], column[order]


def _top_k_by_partition(scores: Float32, k: int) -> Int32:
    """The result of `top_k`, from a partition of whole rows."""
    rows, n = scores.shape
    size = min(k, n)
    if not rows or not size:
        return np.full((rows, k), -1, dtype=np.int32)
    threshold = np.partition(scores, n - size, axis=1)[:, n - size, None]
    is_above, is_equal = scores > threshold, scores == threshold
    free_places = size - is_above.sum(axis=1, keepdims=True)
    is_equal &= np.cumsum(is_equal, axis=1, dtype=np.int32) <= free_places
    row, column = np.nonzero((is_above | is_equal) & (scores > -np.inf))
    return _sort_candidates(scores, row, column, k)


def _sort_candidates(scores: Float32, row: Index, column: Index, k: int) -> Int32:
    """(rows, k): the columns of the best k candidates of each row; -1 pads.

    Score and column are packed into one int64 that sorts in the same order, which is fastest.

    scores: (rows, n).
    row: (candidates,) sorted.
    column: (candidates,).
    """
    rows, n = scores.shape
    # The bits of a float that is not negative sort as an integer. Adding 0 turns -0 into 0.
    bits = (scores[row, column] + np.float32(0)).view(np.int32)
    sortable = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    lengths = np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]
    keys = np.full((rows, max(k, lengths.max(initial=0))), MIN_KEY)
    keys[row, place] = (sortable << 32) | (n - column)
    keys.sort(axis=1)
    best = keys[:, ::-1][:, :k]
    return np.where(best == MIN_KEY, -1, n - (best & 0xFFFFFFFF)).astype(np.int32)


class StreamingTopK:
    """Keeps the largest values of each query from a stream of columns.

    Of equal values those that came first are kept. It takes 2 x queries x (size + the columns added
    at once) x 8 bytes of memory. New columns are only copied into a buffer, which is compacted when
    it is full.
    """

    def __init__(self, queries: int, size: int) -> None:
        """size: how many values of each query are kept."""
        self._size = size
        self._width = 2 * max(size, MIN_BUFFER)
        self._filled = 0  # columns of the buffer
        self._values = np.empty((queries, 0), dtype=np.float32)
        self._labels = np.empty((queries, 0), dtype=np.int32)

    def add(self, labels: Int32, values: Float32) -> None:
        """Add columns.

        labels: (n,) what stands for each column in the result.
        values: (queries, n), finite.
        """
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
            starts = range(0, len(self._values), step)
            blocks = (slice(start, start + step) for start in starts)
            for_each(lambda block: self._compact_rows(block, k), blocks)
        self._filled = k

    def _compact_rows(self, block: slice, k: int) -> None:
        values, labels = self._values[block], self._labels[block]
        columns = top_k(values[:, : self._filled], k)
        values[:, :k] = np.take_along_axis(values, columns, axis=1)
        labels[:, :k] = np.take_along_axis(labels, columns, axis=1)


# The number of pairs grows with the square of a history. A few hundred items of a user give the
# same accuracy as all (Schelter, Boden, Markl, "Scalable similarity-based neighborhood methods with
# MapReduce", RecSys 2012). This is far more than that.
MAX_PAIRED = 5_000


def keep_most_recent(matrix: csr_matrix) -> csr_matrix:
    """The first MAX_PAIRED entries of each row, which run from new to old."""
    lengths = np.diff(matrix.indptr)
    if lengths.max(initial=0) <= MAX_PAIRED:
        return matrix
    is_recent = np.ones(matrix.nnz, dtype=bool)
    for user in np.flatnonzero(lengths > MAX_PAIRED):
        is_recent[matrix.indptr[user] + MAX_PAIRED : matrix.indptr[user + 1]] = False
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, MAX_PAIRED))])
    entries = matrix.data[is_recent], matrix.indices[is_recent], ends
    return csr_matrix(entries, shape=matrix.shape)


def reindex(matrix: csr_matrix, old_index: Int32) -> csr_matrix:
    """The square matrix of other items.

    old_index: (n,) the index of each of them in `matrix`, -1 for an empty row and column.
    """
    old = np.flatnonzero(old_index >= 0)
    shape = len(old_index), matrix.shape[0]
    selection = csr_matrix((np.ones(len(old), np.float32), (old, old_index[old])), shape=shape)
    reindexed: csr_matrix = selection @ matrix @ selection.T
    reindexed.sort_indices()
    return reindexed


def keep_columns(matrix: csr_matrix, is_kept: npt.NDArray[np.bool_]) -> csr_matrix:
    """A copy of the matrix without the entries of some columns.

    is_kept: (columns,) bool.
    """
    copy = matrix.copy()
    copy.data[~is_kept[copy.indices]] = 0
    copy.eliminate_zeros()
    return copy


def masked_entries(rows: Float32, mask: npt.NDArray[np.bool_]) -> csr_matrix:
    """The entries of a dense matrix where the mask is set, in half the time of SciPy's conversion.

    rows: (rows, n).
    mask: (rows, n) bool.
    """
    places = np.flatnonzero(mask)  # much faster than nonzero of two dimensions
    starts = np.searchsorted(places, np.arange(len(rows) + 1) * rows.shape[1])
    columns = places - np.repeat(np.arange(len(rows)) * rows.shape[1], np.diff(starts))
    return csr_matrix((rows.ravel()[places], columns.astype(np.int32), starts), shape=rows.shape)


def top_k_per_row(rows: csr_matrix, k: int) -> csr_matrix:
    """The k entries of largest magnitude of each row, without zeros.

    Overwrites `rows`. The columns of a row may be in any order.
    """
    lengths = np.diff(rows.indptr)
    long_rows = np.flatnonzero(lengths > k)
    if not len(long_rows):
        rows.eliminate_zeros()
        return rows
    n = lengths.max()
    is_entry = np.arange(n) < lengths[long_rows, None]
    # The values that pad shorter rows differ, because partition takes long over equal ones.
    magnitudes = np.tile(-np.arange(1, n + 1, dtype=np.float32), (len(long_rows), 1))
    magnitudes[is_entry] = np.abs(rows.data[np.repeat(lengths > k, lengths)])
    threshold = np.zeros(len(lengths), dtype=np.float32)
    threshold[long_rows] = np.partition(magnitudes, n - k, axis=1)[:, n - k]
    rows.data[np.abs(rows.data) < np.repeat(threshold, lengths)] = 0
    rows.eliminate_zeros()
    return _break_ties(rows, threshold, k)


def _break_ties(rows: csr_matrix, threshold: Float32, k: int) -> csr_matrix:
    """Cut rows to k entries, the first of equal ones.

    rows: with no entry below the threshold of its row.
    threshold: (rows,) the magnitude of the k-th largest entry.
    """
    lengths = np.diff(rows.indptr)
    if lengths.max(initial=0) <= k:
        return rows
    rows.sort_indices()
    is_tie = np.abs(rows.data) == np.repeat(threshold, lengths)
    ties_before = np.concatenate([[0], np.cumsum(is_tie)])[rows.indptr]  # of each row
    free_places = k - (lengths - np.diff(ties_before))
    last_place = np.repeat(ties_before[:-1] + free_places, lengths)
    rows.data[is_tie & (np.cumsum(is_tie) > last_place)] = 0
    rows.eliminate_zeros()
    return rows
