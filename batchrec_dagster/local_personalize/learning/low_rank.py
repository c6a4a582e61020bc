"""The weights of EASE at single pairs of items, from a few eigenvectors: for catalogues too large
to invert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from .interactions import Float32, Float64
from .threads import pieces, single_threaded_blas

RANK = 64
ITERATIONS = 3
PROBES = 8
SCORES = 1 << 20  # numbers kept meanwhile: a few MiB
DENSE = 50  # products within BLAS that take as long as one of vectors that are gathered


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
    def of(cls, matrix: csr_matrix, regularization: float) -> LowRank:
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

    def to_weights(self, counts: csr_matrix, part: slice, first: int) -> None:
        """Replace common users of the targets `part` and the items from `first` on by weights."""
        others, ends = self.factors[first:], counts.indptr
        rows, width = counts.shape
        dense = counts.nnz * DENSE > rows * width
        entries, most = (SCORES, max(1, SCORES // width)) if dense else (SCORES // RANK, None)
        for some in pieces(ends, entries, most):
            at = slice(ends[some.start], ends[some.stop])
            columns = counts.indices[at]
            row = np.repeat(np.arange(some.stop - some.start), np.diff(ends)[some])
            own = self.factors[part][some]
            if dense:
                dots = (own @ others.T)[row, columns]
            else:
                dots = np.einsum("er,er->e", own[row], others[columns])
            values = np.float32(self.slope) * counts.data[at] - dots
            counts.data[at] = values / self.diagonal[part][some][row]


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
