"""Keeps item-item matrices small: the newest entries of each history, the top k of each row.

Ties go to the lower columns, as in `ranking.top_k`. Models sort their items by falling popularity,
so a tie keeps the more popular item.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

Float32 = npt.NDArray[np.float32]

# Pairs grow with the square of a history. A few hundred items per user give the same accuracy as
# all (Schelter, Boden, Markl, "Scalable similarity-based neighborhood methods with MapReduce",
# RecSys 2012); this is far above that.
MAX_PAIRED = 5_000


def most_recent(matrix: csr_matrix) -> csr_matrix:
    """The first MAX_PAIRED entries of each row; the entries of a row run from new to old."""
    lengths = np.diff(matrix.indptr)
    if lengths.max(initial=0) <= MAX_PAIRED:
        return matrix
    stays = np.ones(matrix.nnz, dtype=bool)
    for user in np.flatnonzero(lengths > MAX_PAIRED):
        stays[matrix.indptr[user] + MAX_PAIRED : matrix.indptr[user + 1]] = False
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, MAX_PAIRED))])
    return csr_matrix((matrix.data[stays], matrix.indices[stays], ends), shape=matrix.shape)


def keep_columns(matrix: csr_matrix, kept: npt.NDArray[np.bool_]) -> csr_matrix:
    """A copy of the matrix without entries outside the columns of a (n_columns,) mask."""
    out = matrix.copy()
    out.data[~kept[out.indices]] = 0
    out.eliminate_zeros()
    return out


def top_k_per_dense_row(rows: Float32, k: int) -> csr_matrix:
    """The k entries of largest magnitude of each row, without zeros. Overwrites `rows`."""
    n = rows.shape[1]
    if k >= n:
        return csr_matrix(rows)
    size = np.abs(rows)
    threshold = np.partition(size, n - k, axis=1)[:, n - k, None]
    stays = size >= threshold
    tied = np.flatnonzero(np.count_nonzero(stays, axis=1) > k)
    if len(tied):
        equal = size[tied] == threshold[tied]
        excess = np.count_nonzero(stays[tied], axis=1) - k
        room = np.count_nonzero(equal, axis=1) - excess
        equal &= np.cumsum(equal, axis=1, dtype=np.int32) > room[:, None]
        stays[tied] &= ~equal
    rows[~stays] = 0
    return csr_matrix(rows)


def top_k_per_row(rows: csr_matrix, k: int) -> csr_matrix:
    """The k entries of largest magnitude of each row. Overwrites `rows`; columns in any order."""
    lengths = np.diff(rows.indptr)
    n = lengths.max(initial=0)
    if k < n:
        row = np.repeat(np.arange(rows.shape[0]), lengths)
        size = np.zeros((rows.shape[0], n), dtype=np.float32)
        size[row, np.arange(len(row)) - rows.indptr[:-1][row]] = np.abs(rows.data)
        threshold = np.partition(size, n - k, axis=1)[:, n - k]
        rows.data[np.abs(rows.data) < threshold[row]] = 0
        rows.eliminate_zeros()
        return _break_ties(rows, threshold, k)
    rows.eliminate_zeros()
    return rows


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
