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
from .threads import ordered_map, split_rows

# How many pairs with an item outside the core are multiplied at once, at a few bytes each.
PAIRS = 1 << 22
# How many weights an item outside the core keeps for each of its users, so that memory is in
# proportion to interactions.
WEIGHTS_PER_USER = 25


def fit(
    matrix: csr_matrix, inverse: Inverse, *, regularization: float, neighbors: int
) -> csr_matrix:
    """Weights (n_items, n_items) float32: a row is an item of a history, a column one to score.

    The most popular items are the core. They are regressed jointly, as in the paper. The weights of
    pairs with an item outside the core are approximate (`LowRank`), and they are of the newest
    entries of each user (`ranking.keep_most_recent`). An item keeps its largest weights only: they
    carry the accuracy, and scoring costs in proportion to their number.

    matrix: (users, n_items) of ones; the most popular items first, the entries of a row from new to
        old.
    inverse: of the core, the first items.
    neighbors: how many weights each column keeps; outside the core also WEIGHTS_PER_USER at most.
    """
    n_items = matrix.shape[1]
    if n_items < 2:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    core, read_rows = inverse.n, inverse.rows()
    pairs = _CommonUserPairs.from_matrix(matrix, regularization, core) if core < n_items else None
    order = np.arange(n_items) if pairs is None else pairs.order(core)

    def weights(part: slice) -> csr_matrix:
        """(width, n_items): the weights of a block of targets, all in the core or all outside."""
        targets, width = order[part], np.arange(part.stop - part.start)
        if pairs is not None and part.start >= core:
            users = int(pairs.users[targets].max())
            return pairs.largest(targets, pairs.by_user, min(neighbors, WEIGHTS_PER_USER * users))
        rows = read_rows(part)  # (width, core)
        diagonal = rows[width, targets]
        rows[width, targets] = 0
        largest = top_k_per_dense_row(rows, neighbors)
        largest.data /= -np.repeat(diagonal, np.diff(largest.indptr))
        if pairs is not None:
            largest.resize(len(width), n_items)
            largest = (largest + pairs.largest(targets, pairs.outside, neighbors)).tocsr()
            largest = top_k_per_row(largest, neighbors)
        return largest

    parts = blocks(core)
    parts += [slice(core + part.start, core + part.stop) for part in blocks(n_items - core)]
    by_target = vstack(list(ordered_map(weights, parts)), format="csr")
    if pairs is not None:
        by_target = by_target[np.argsort(order)]
    by_source: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return by_source


@dataclass(frozen=True)
class _CommonUserPairs:
    """The approximate weights of pairs of items with a user in common."""

    low_rank: LowRank
    by_item: csr_matrix
    """(n_items, users) the newest entries of each user."""

    by_user: csr_matrix
    """(users, n_items) the same."""

    outside: csr_matrix
    """(users, n_items) the same without the items of the core."""

    @classmethod
    def from_matrix(cls, matrix: csr_matrix, regularization: float, core: int) -> _CommonUserPairs:
        """The pairs of the items of a (users, n_items) matrix of ones.

        core: how many of the first items are in the core.
        """
        paired, low_rank = keep_most_recent(matrix), LowRank.fit(matrix, regularization)
        outside = keep_columns(paired, np.arange(matrix.shape[1]) >= core)
        return cls(low_rank, paired.T.tocsr(), paired, outside)

    @property
    def users(self) -> Int32:
        """(n_items,): how many users each item has."""
        return np.asarray(np.diff(self.by_item.indptr))

    def order(self, core: int) -> Int64:
        """(n_items,) item indices: the core, then the others by number of users and by user.

        So targets next to each other are in pairs with the same items.
        """
        first_user = np.append(self.by_item.indices, 0)[self.by_item.indptr[core:-1]]
        outside = np.lexsort((first_user, -self.users[core:]))
        return np.concatenate([np.arange(core), core + outside])

    def largest(self, targets: Int64, sources: csr_matrix, k: int) -> csr_matrix:
        """(targets, n_items): the k largest weights of each target.

        targets: (targets,) item indices.
        sources: (users, n_items) the entries of the items from which there are weights.
        """
        users = self.by_item[targets]
        largest = []
        ends = np.concatenate([[0], np.cumsum(users @ np.diff(sources.indptr))])
        for rows in split_rows(ends, PAIRS):
            weights = users[rows] @ sources
            self.low_rank.replace_by_weights(weights, targets[rows])
            row_target = np.repeat(targets[rows], np.diff(weights.indptr))
            weights.data[weights.indices == row_target] = 0
            largest.append(top_k_per_row(weights, k))
        return vstack(largest, format="csr")


def extend(
    weights: csr_matrix,
    old_index: npt.NDArray[np.int32],
    matrix: csr_matrix,
    *,
    regularization: float,
    neighbors: int,
) -> csr_matrix:
    """Weights of an earlier `fit` with items added.

    The weights of pairs with a new item are approximate, as outside the core of `fit`.

    weights: those of the earlier fit, in its order of items.
    old_index: (n_items,) the index of each item in `weights`, -1 for a new item.
    matrix: (users, n_items) of ones, in the order of items that the result is to have.
    """
    n_items = matrix.shape[1]
    is_new = old_index < 0
    new = np.flatnonzero(is_new)
    old_weights = reindex(weights, old_index).T.tocsr()
    low_rank = LowRank.fit(matrix, regularization) if len(new) else None
    paired = keep_most_recent(matrix)
    by_item = paired.T.tocsr()
    with_new, with_old = keep_columns(paired, is_new), keep_columns(paired, ~is_new)

    def extend_block(part: slice) -> csr_matrix:
        """(width, n_items): the weights of a block of targets."""
        width = part.stop - part.start
        # The pairs of all targets with new items, then those of new targets with old items.
        new_weights = by_item[part] @ with_new
        new_targets = new[(new >= part.start) & (new < part.stop)]
        if len(new_targets):
            count = len(new_targets)
            ones, place = np.ones(count, np.float32), np.arange(count)
            to_block = csr_matrix((ones, (new_targets - part.start, place)), shape=(width, count))
            new_weights = (new_weights + to_block @ (by_item[new_targets] @ with_old)).tocsr()
        if low_rank is not None:
            low_rank.replace_by_weights(new_weights, np.arange(part.start, part.stop))
        all_weights = (old_weights[part] + new_weights).tocsr()
        row = np.repeat(np.arange(part.start, part.stop), np.diff(all_weights.indptr))
        all_weights.data[all_weights.indices == row] = 0
        return top_k_per_row(all_weights, neighbors)

    by_target = vstack(list(ordered_map(extend_block, blocks(n_items))), format="csr")
    by_source: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return by_source
