"""Item-item weights by ridge regression with a zero diagonal (EASE).

Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack, vstack

from .inverse import Inverse, blocks, inverse_of
from .low_rank import LowRank
from .ranking import keep_columns, most_recent, reindex, top_k_per_dense_row, top_k_per_row
from .threads import ordered_map


def fit(
    matrix: csr_matrix,
    *,
    core: int,
    regularization: float,
    neighbors: int,
    inverse: Inverse | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item of a history, column = an item to score.

    `matrix` is (users, n_items) of ones: the most popular items first, the entries of a row from
    new to old. The first `core` items are regressed jointly, as in the paper; of pairs with an
    item outside the core, the weights are approximate (`LowRank`), over the newest entries of each
    user (`ranking.most_recent`). Each column keeps its `neighbors` largest weights: they carry the
    accuracy, and scoring costs in proportion to them. `inverse` is that of the core, if it is
    known.
    """
    n_items = matrix.shape[1]
    if n_items < 2:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    inverse = inverse or inverse_of(matrix[:, :core], regularization, log)
    core, rows_of = inverse.n, inverse.rows()
    paired = most_recent(matrix)
    by_item = paired.T.tocsr()
    outside = paired[:, core:]
    low_rank = LowRank.of(matrix, regularization) if core < n_items else None

    def weights(part: slice) -> csr_matrix:
        """(width, n_items): the weights of a block of targets, all in the core or all outside."""
        width = np.arange(part.stop - part.start)
        first = core if part.start < core else 0
        single = by_item[part] @ (outside if part.start < core else paired)
        if low_rank is not None:
            low_rank.to_weights(single, part, first)
        if part.start >= core:
            single.data[single.indices == np.repeat(width + part.start, np.diff(single.indptr))] = 0
            return top_k_per_row(single, neighbors)
        rows = rows_of(part)  # (width, core)
        diagonal = rows[width, width + part.start]
        rows[width, width + part.start] = 0
        together = top_k_per_dense_row(rows, neighbors)
        together.data /= -np.repeat(diagonal, np.diff(together.indptr))
        if core < n_items:
            together = top_k_per_row(hstack([together, single], format="csr"), neighbors)
        return together

    parts = blocks(core)
    parts += [slice(core + part.start, core + part.stop) for part in blocks(n_items - core)]
    by_target = vstack(list(ordered_map(weights, parts)), format="csr")
    out: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return out


def extend(
    weights: csr_matrix,
    old_index: npt.NDArray[np.int32],
    matrix: csr_matrix,
    *,
    regularization: float,
    neighbors: int,
) -> csr_matrix:
    """Weights of an earlier `fit` with items added, in the order of the columns of `matrix`.

    `old_index` (n_items,) is the index of each item in `weights`, -1 for a new item. The weights of
    pairs with a new item are approximate, as outside the core of `fit`.
    """
    n_items = matrix.shape[1]
    is_new = old_index < 0
    new = np.flatnonzero(is_new)
    moved = reindex(weights, old_index).T.tocsr()
    low_rank = LowRank.of(matrix, regularization) if len(new) else None
    paired = most_recent(matrix)
    by_item = paired.T.tocsr()
    on_new, on_old = keep_columns(paired, is_new), keep_columns(paired, ~is_new)

    def rows(part: slice) -> csr_matrix:
        """(width, n_items): the weights of a block of targets."""
        single = by_item[part] @ on_new
        added = new[(new >= part.start) & (new < part.stop)]
        if len(added):
            ones, place = np.ones(len(added), np.float32), np.arange(len(added))
            spread = csr_matrix(
                (ones, (added - part.start, place)), shape=(part.stop - part.start, len(added))
            )
            single = (single + spread @ (by_item[added] @ on_old)).tocsr()
        if low_rank is not None:
            low_rank.to_weights(single, part, 0)
        together = (moved[part] + single).tocsr()
        row = np.repeat(np.arange(part.start, part.stop), np.diff(together.indptr))
        together.data[together.indices == row] = 0
        return top_k_per_row(together, neighbors)

    by_target = vstack(list(ordered_map(rows, blocks(n_items))), format="csr")
    out: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return out
