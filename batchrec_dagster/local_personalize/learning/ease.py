"""Item-item weights by ridge regression with a zero diagonal (EASE).

Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack

from .interactions import Int32, Int64
from .inverse import Inverse, blocks
from .low_rank import LowRank
from .ranking import keep_columns, keep_most_recent, reindex, top_k_per_dense_row, top_k_per_row
from .threads import ordered_map, row_ranges

# Of pairs with an item outside the core, so many are multiplied at once, a few bytes each.
PAIRS = 1 << 22
# An item outside keeps so many weights for each of its users: memory in proportion to interactions.
WEIGHTS_PER_USER = 25


def fit(
    matrix: csr_matrix, inverse: Inverse, *, regularization: float, neighbors: int
) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item of a history, column = an item to score.

    `matrix` is (users, n_items) of ones: the most popular items first, the entries of a row from
    new to old. The first items, of which `inverse` is, are the core: they are regressed jointly, as
    in the paper; of pairs with an item outside the core, the weights are approximate (`LowRank`),
    over the newest entries of each user (`ranking.most_recent`). Each column keeps its `neighbors`
    largest weights, outside the core also WEIGHTS_PER_USER at most: they carry the accuracy, and
    scoring costs in proportion.
    """
    n_items = matrix.shape[1]
    if n_items < 2:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    core, rows_of = inverse.n, inverse.rows()
    pairs = _CommonUserPairs.from_matrix(matrix, regularization, core) if core < n_items else None
    order = np.arange(n_items) if pairs is None else pairs.order(core)

    def weights(part: slice) -> csr_matrix:
        """(width, n_items): the weights of a block of targets, all in the core or all outside."""
        targets, width = order[part], np.arange(part.stop - part.start)
        if pairs is not None and part.start >= core:
            users = int(pairs.users[targets].max())
            return pairs.largest(targets, pairs.by_user, min(neighbors, WEIGHTS_PER_USER * users))
        rows = rows_of(part)  # (width, core)
        diagonal = rows[width, targets]
        rows[width, targets] = 0
        together = top_k_per_dense_row(rows, neighbors)
        together.data /= -np.repeat(diagonal, np.diff(together.indptr))
        if pairs is not None:
            together.resize(len(width), n_items)
            together = (together + pairs.largest(targets, pairs.outside, neighbors)).tocsr()
            together = top_k_per_row(together, neighbors)
        return together

    parts = blocks(core)
    parts += [slice(core + part.start, core + part.stop) for part in blocks(n_items - core)]
    by_target = vstack(list(ordered_map(weights, parts)), format="csr")
    if pairs is not None:
        by_target = by_target[np.argsort(order)]
    out: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return out


@dataclass(frozen=True)
class _CommonUserPairs:
    """The approximate weights of pairs of items with a user in common."""

    low_rank: LowRank
    by_item: csr_matrix  # (n_items, users), the newest entries of each user
    by_user: csr_matrix
    outside: csr_matrix  # the same without the core

    @classmethod
    def from_matrix(cls, matrix: csr_matrix, regularization: float, core: int) -> _CommonUserPairs:
        """Of the (users, n_items) matrix of ones."""
        paired, low_rank = keep_most_recent(matrix), LowRank.fit(matrix, regularization)
        outside = keep_columns(paired, np.arange(matrix.shape[1]) >= core)
        return cls(low_rank, paired.T.tocsr(), paired, outside)

    @property
    def users(self) -> Int32:
        """(n_items,): how many users each item has."""
        return np.asarray(np.diff(self.by_item.indptr))

    def order(self, core: int) -> Int64:
        """(n_items,): the items outside the core by number of users and by user, so that targets
        next to each other are in pairs with the same items."""
        first_user = np.append(self.by_item.indices, 0)[self.by_item.indptr[core:-1]]
        outside = np.lexsort((first_user, -self.users[core:]))
        return np.concatenate([np.arange(core), core + outside])

    def largest(self, targets: Int64, sources: csr_matrix, k: int) -> csr_matrix:
        """(targets, n_items): the k largest weights of each, from items that `sources` has."""
        users, found = self.by_item[targets], []
        ends = np.concatenate([[0], np.cumsum(users @ np.diff(sources.indptr))])
        for some in row_ranges(ends, PAIRS):
            weights = users[some] @ sources
            self.low_rank.to_weights(weights, targets[some])
            weights.data[weights.indices == np.repeat(targets[some], np.diff(weights.indptr))] = 0
            found.append(top_k_per_row(weights, k))
        return vstack(found, format="csr")


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
    low_rank = LowRank.fit(matrix, regularization) if len(new) else None
    paired = keep_most_recent(matrix)
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
            low_rank.to_weights(single, np.arange(part.start, part.stop))
        together = (moved[part] + single).tocsr()
        row = np.repeat(np.arange(part.start, part.stop), np.diff(together.indptr))
        together.data[together.indices == row] = 0
        return top_k_per_row(together, neighbors)

    by_target = vstack(list(ordered_map(rows, blocks(n_items))), format="csr")
    out: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return out
