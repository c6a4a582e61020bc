"""The weights of EASE at single pairs of items, from a few eigenvectors.

Catalogues that are too large to invert have these weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from .interactions import Float32, Float64, Int64
from .threads import single_threaded_blas, split_rows

# The number of eigenvectors.
RANK = 64
# Rounds of the subspace iteration that finds them.
ITERATIONS = 3
# Random vectors from which the mean of the other eigenvalues is estimated.
PROBES = 8
# Pairs of items at once, which take a few MiB.
PAIRS = 1 << 18
# Targets at once. They are multiplied with all items that any of them needs.
ROWS = 64


@dataclass(frozen=True)
class LowRank:
    """Approximates λ(XᵀX + λI)⁻¹ = I - V diag(s / (s + λ)) Vᵀ at single pairs of items.

    Of the eigenvectors V of XᵀX only the first are known; for the others s / (s + λ) is
    approximated by slope x s, which turns their part into slope x XᵀX. So a weight is
    (slope x (items' common users) - fᵢᵀfⱼ) / diagonalⱼ, with a short vector f for each item.
    """

    slope: float
    factors: Float32
    """(n_items, RANK): the vectors f."""

    diagonal: Float32
    """(n_items,): the diagonal of the matrix."""

    @classmethod
    def fit(cls, matrix: csr_matrix, regularization: float) -> LowRank:
        """The approximation for a matrix X (users, n_items) of ones."""
        rng, n_items = np.random.default_rng(0), matrix.shape[1]
        by_item = matrix.T.tocsr()
        counts = np.diff(by_item.indptr)
        values, basis = find_leading_eigenvectors(matrix, by_item, RANK, rng)
        with single_threaded_blas():
            probes = rng.standard_normal((n_items, PROBES), dtype=np.float32)
            probes -= basis @ (basis.T @ probes)
            images = by_item @ (matrix @ probes)
            # Once more, so that items with the same users get the same vectors, to the last bit.
            basis = by_item @ (matrix @ basis) / np.maximum(values, 1e-3).astype(np.float32)
        # The slope follows from the mean of the other eigenvalues, weighted by themselves.
        first, second = float(np.vdot(probes, images)), float(np.vdot(images, images))
        slope = 1 / (regularization + second / max(first, 1.0))
        shares = slope * values - values / (values + regularization)
        factors = basis * np.sqrt(np.maximum(shares, 0)).astype(np.float32)
        diagonal = 1 - slope * counts + np.square(factors).sum(axis=1)
        # No regression leaves less of an item than this.
        least = regularization / (regularization + counts)
        return cls(slope, factors, np.maximum(diagonal, least).astype(np.float32))

    def replace_by_weights(self, counts: csr_matrix, targets: Int64) -> None:
        """Replace counts of common users by weights, in place.

        counts: (targets, n_items): how many users a target and an item have in common.
        targets: (targets,) the index of each row's item.
        """
        starts = counts.indptr
        n_items = counts.shape[1]
        # Which items the rows of a chunk use, and the position of each among the used ones.
        is_used = np.zeros(n_items, dtype=bool)
        position = np.empty(n_items, dtype=np.int32)
        for rows in split_rows(starts, PAIRS, ROWS):
            entries = slice(starts[rows.start], starts[rows.stop])
            columns = counts.indices[entries]
            row_targets = targets[rows]
            is_used[columns] = True
            used = np.flatnonzero(is_used)
            is_used[used] = False
            position[used] = np.arange(len(used), dtype=np.int32)
            row = np.repeat(np.arange(len(row_targets)), np.diff(starts)[rows])
            dots = (self.factors[row_targets] @ self.factors[used].T)[row, position[columns]]
            values = np.float32(self.slope) * counts.data[entries] - dots
            counts.data[entries] = values / self.diagonal[row_targets][row]


def find_leading_eigenvectors(
    matrix: csr_matrix, by_item: csr_matrix, rank: int, rng: np.random.Generator
) -> tuple[Float64, Float32]:
    """The largest (rank,) eigenvalues of XᵀX, smallest first, and their (n_items, rank) vectors.

    By subspace iteration: Halko, Martinsson, Tropp, "Finding structure with randomness" (SIAM
    Review 2011).

    matrix: X (users, n_items).
    by_item: Xᵀ (n_items, users).
    rank: the number of eigenvectors. If there are fewer items, it is the number of items.
    """
    n_items = matrix.shape[1]
    basis = rng.standard_normal((n_items, min(rank, n_items)), dtype=np.float32)
    with single_threaded_blas():
        for _ in range(ITERATIONS):
            basis = np.linalg.qr(by_item @ (matrix @ basis))[0]
        projection = matrix @ basis
        values, rotation = np.linalg.eigh((projection.T @ projection).astype(np.float64))
        return values, basis @ rotation.astype(np.float32)
