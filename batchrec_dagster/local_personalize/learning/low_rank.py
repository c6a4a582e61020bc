"""The weights of EASE at single pairs of items, from a few eigenvectors: for catalogues too large
to invert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from .interactions import Float32, Float64, Int64
from .threads import row_ranges, single_threaded_blas

RANK = 64
ITERATIONS = 3
PROBES = 8
PAIRS = 1 << 18  # at once, a few MiB
ROWS = 64  # multiplied at once with all items that any of them needs: many need the same


@dataclass(frozen=True)
class LowRank:
    """Approximates λ(XᵀX + λI)⁻¹ = I - V diag(s / (s + λ)) Vᵀ at single pairs of items.

    Of the eigenvectors V of XᵀX only the first are known; for the others s / (s + λ) is
    approximated by slope x s, which turns their part into slope x XᵀX. So a weight is
    (slope x (items' common users) - fᵢᵀfⱼ) / diagonalⱼ, with a short vector f for each item.
    """

    slope: float
    factors: Float32  # (n_items, RANK)
    diagonal: Float32  # (n_items,)

    @classmethod
    def fit(cls, matrix: csr_matrix, regularization: float) -> LowRank:
        """From the (users, n_items) matrix of ones."""
        rng, n_items = np.random.default_rng(0), matrix.shape[1]
        transposed = matrix.T.tocsr()
        counts = np.diff(transposed.indptr)
        values, basis = leading_eigenvectors(matrix, transposed, RANK, rng)
        with single_threaded_blas():
            probes = rng.standard_normal((n_items, PROBES), dtype=np.float32)
            probes -= basis @ (basis.T @ probes)
            images = transposed @ (matrix @ probes)
            # Once more, so that items with the same users get the same vectors, to the last bit.
            basis = transposed @ (matrix @ basis) / np.maximum(values, 1e-3).astype(np.float32)
        # The mean of the other eigenvalues, weighted by themselves.
        first, second = float(np.vdot(probes, images)), float(np.vdot(images, images))
        slope = 1 / (regularization + second / max(first, 1.0))
        shares = slope * values - values / (values + regularization)
        factors = basis * np.sqrt(np.maximum(shares, 0)).astype(np.float32)
        diagonal = 1 - slope * counts + np.square(factors).sum(axis=1)
        # No regression leaves less of an item than this.
        least = regularization / (regularization + counts)
        return cls(slope, factors, np.maximum(diagonal, least).astype(np.float32))

    def to_weights(self, counts: csr_matrix, targets: Int64) -> None:
        """Replace the common users of these targets (rows) and all items (columns) by weights."""
        ends, index = counts.indptr, np.empty(counts.shape[1], dtype=np.int32)
        is_used = np.zeros(counts.shape[1], dtype=bool)
        for some in row_ranges(ends, PAIRS, ROWS):
            at = slice(ends[some.start], ends[some.stop])
            columns, own = counts.indices[at], targets[some]
            is_used[columns] = True
            used = np.flatnonzero(is_used)
            is_used[used], index[used] = False, np.arange(len(used), dtype=np.int32)
            row = np.repeat(np.arange(len(own)), np.diff(ends)[some])
            dots = (self.factors[own] @ self.factors[used].T)[row, index[columns]]
            values = np.float32(self.slope) * counts.data[at] - dots
            counts.data[at] = values / self.diagonal[own][row]


def leading_eigenvectors(
    matrix: csr_matrix, transposed: csr_matrix, rank: int, rng: np.random.Generator
) -> tuple[Float64, Float32]:
    """The largest (rank,) eigenvalues of XᵀX, smallest first, and their (n_items, rank) vectors.

    By subspace iteration: Halko, Martinsson, Tropp, "Finding structure with randomness" (SIAM
    Review 2011). `matrix` is X (users, n_items); fewer items than `rank` give as many vectors.
    """
    n_items = matrix.shape[1]
    basis = rng.standard_normal((n_items, min(rank, n_items)), dtype=np.float32)
    with single_threaded_blas():
        for _ in range(ITERATIONS):
            basis = np.linalg.qr(transposed @ (matrix @ basis))[0]
        projected = matrix @ basis
        values, rotation = np.linalg.eigh((projected.T @ projected).astype(np.float64))
        return values, basis @ rotation.astype(np.float32)
