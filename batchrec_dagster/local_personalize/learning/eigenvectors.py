"""The leading eigenvectors of the items' common users, which factors start from."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from .interactions import Float32, Float64
from .threads import single_threaded_blas

ITERATIONS = 3  # rounds of the subspace iteration


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
