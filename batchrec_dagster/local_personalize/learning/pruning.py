"""What keeps item-item weights small: the largest of each row, from the newest of each history.

Exactly as many as are kept: ties go to the first columns. Items stand by falling popularity, so of
weights alike those of the more popular stay, as in `ranking.top`; where histories are alike all
weights are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

Float32 = npt.NDArray[np.float32]

# Of a longer history the newest pair: pairs grow with its square. Pairs of a few hundred of a
# user's items foretell as well as all do (Schelter, Boden, Markl, "Scalable similarity-based
# neighborhood methods with MapReduce", RecSys 2012); this is far above that.
PAIRED = 5_000


def newest(matrix: csr_matrix) -> csr_matrix:
    """The first PAIRED entries of each row, where a row's entries run from new to old."""
    lengths = np.diff(matrix.indptr)
    if lengths.max(initial=0) <= PAIRED:
        return matrix
    stays = np.ones(matrix.nnz, dtype=bool)
    for user in np.flatnonzero(lengths > PAIRED):
        stays[matrix.indptr[user] + PAIRED : matrix.indptr[user + 1]] = False
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, PAIRED))])
    return csr_matrix((matrix.data[stays], matrix.indices[stays], ends), shape=matrix.shape)


def largest_of_dense(rows: Float32, kept: int) -> csr_matrix:
    """The `kept` entries of largest size in each row, without zeros; `rows` is written to."""
    n = rows.shape[1]
    if kept >= n:
        return csr_matrix(rows)
    size = np.abs(rows)
    threshold = np.partition(size, n - kept, axis=1)[:, n - kept, None]
    stays = size >= threshold
    tied = np.flatnonzero(np.count_nonzero(stays, axis=1) > kept)
    if len(tied):
        level = size[tied] == threshold[tied]
        gone = np.count_nonzero(stays[tied], axis=1) - kept
        room = np.count_nonzero(level, axis=1) - gone
        level &= np.cumsum(level, axis=1, dtype=np.int32) > room[:, None]
        stays[tied] &= ~level
    rows[~stays] = 0
    return csr_matrix(rows)


def largest(rows: csr_matrix, kept: int) -> csr_matrix:
    """The same of sparse rows, which are written to; columns in any order."""
    lengths = np.diff(rows.indptr)
    n = lengths.max(initial=0)
    if kept < n:
        row = np.repeat(np.arange(rows.shape[0]), lengths)
        size = np.zeros((rows.shape[0], n), dtype=np.float32)
        size[row, np.arange(len(row)) - rows.indptr[:-1][row]] = np.abs(rows.data)
        threshold = np.partition(size, n - kept, axis=1)[:, n - kept]
        rows.data[np.abs(rows.data) < threshold[row]] = 0
        rows.eliminate_zeros()
        return _first_of_ties(rows, threshold, kept)
    rows.eliminate_zeros()
    return rows


def _first_of_ties(rows: csr_matrix, threshold: Float32, kept: int) -> csr_matrix:
    """Rows whose entries reach the threshold, which `kept` of them did or more: just `kept`."""
    lengths = np.diff(rows.indptr)
    if lengths.max(initial=0) <= kept:
        return rows
    rows.sort_indices()
    tied = np.abs(rows.data) == np.repeat(threshold, lengths)
    before = np.concatenate([[0], np.cumsum(tied)])[rows.indptr]  # ties, up to each row
    room = kept - (lengths - np.diff(before))
    rows.data[tied & (np.cumsum(tied) > np.repeat(before[:-1] + room, lengths))] = 0
    rows.eliminate_zeros()
    return rows
