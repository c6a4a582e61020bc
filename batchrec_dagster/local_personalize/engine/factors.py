"""Implicit ALS: factors of users and items, whose products say who wants what.

Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM 2008).
An item that a user had has the confidence c, all others 1. The regularization grows with the number
of interactions n, as in Rendle et al., "Revisiting the performance of iALS on item recommendation
benchmarks" (RecSys 2022): r (8 + n)^0.5, in steps, so that users or items of one size are solved
together by implicit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix, diags

from .data import Float32, History, Int32, Int64
from .parallel import count_cores, one_blas_thread

FACTORS = 64
SHIFT = 8
START_ROUNDS = 4
START_SCALE = 0.1  # the standard deviation of the factors to start from
ITERATIONS = 2
ITEMS_AT_ONCE = 4096  # whose scores, of the users of a chunk, stay in the cache


@dataclass(frozen=True)
class FactorScorer:
    """Solves a user's factors from the history, then multiplies them by the items'."""

    item_factors: Float32
    """(n_items, k)."""

    regularization: float
    """r, see above."""

    confidence: float
    """c, see above."""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """See `select.Scorer`."""
        users = self._solve_users(history, exponent) * np.float32(weight)
        for first in range(0, scores.shape[1], ITEMS_AT_ONCE):
            block = slice(first, first + ITEMS_AT_ONCE)
            scores[:, block] += users @ self._columns[:, block]

    def _solve_users(self, history: History, exponent: float) -> Float32:
        """(users, k): (YᵀY + Yᵀ(C - I)Y + rI)⁻¹ YᵀCp for each user, in the paper's letters."""
        confidence = history.recency_weights(exponent).data * np.float32(self.confidence)
        k = self.item_factors.shape[1]
        left = np.empty((len(history.lengths), k, k), np.float32)
        right = np.zeros((len(history.lengths), k, 1), np.float32)
        for user, (first, last) in enumerate(pairwise(history.starts)):
            items = self.item_factors[history.items[first:last]]
            c = confidence[first:last, None]
            np.matmul(items.T, items * (c - 1), out=left[user])
            right[user] = items.T @ c
        left += self._gram
        r = self._regularize(size_classes(history.lengths)).astype(np.float32)
        left[:, np.arange(k), np.arange(k)] += r[:, None]
        return np.asarray(np.linalg.solve(left, right)[:, :, 0])

    def _regularize(self, sizes: Int64) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The regularization of users or items of these size classes."""
        return np.asarray(self.regularization * 2.0**sizes)

    @cached_property
    def _columns(self) -> Float32:
        """(k, n_items): the item factors in the order that BLAS reads faster for few users."""
        return np.ascontiguousarray(self.item_factors.T)

    @cached_property
    def _gram(self) -> Float32:
        """(k, k): the Gram matrix of the item factors."""
        return np.asarray(self.item_factors.T @ self.item_factors)

    def fit(self, history: History, iterations: int) -> FactorScorer:
        """Factors that go on from these, by alternating least squares."""
        matrix = history.recency_weights(0.0)
        matrix.data *= np.float32(self.confidence)
        users = np.zeros((matrix.shape[0], self.item_factors.shape[1]), np.float32)
        items = self.item_factors.copy()
        user_blocks, item_blocks = _split_by_size(matrix), _split_by_size(matrix.T.tocsr())
        with one_blas_thread():  # implicit has threads of its own
            # implicit's fit has one regularization for all. The solver is what it calls for each
            # half of an iteration; pyproject.toml pins its version.
            solve = partial(AlternatingLeastSquares().solver, num_threads=count_cores())
            for _ in range(iterations):
                self._solve(solve, user_blocks, users, items)
                self._solve(solve, item_blocks, items, users)
        return replace(self, item_factors=items)

    def _solve(
        self,
        solve: Callable[[csr_matrix, Float32, Float32, float], None],
        blocks: Sequence[_SizeBlock],
        factors: Float32,
        fixed: Float32,
    ) -> None:
        """Replace the (n, k) factors of users or items by better ones, for fixed others.

        solve: does so for some rows of interactions, by conjugate gradient: Takács, Pilászy, Tikk,
            "Applications of the conjugate gradient method for implicit feedback collaborative
            filtering" (RecSys 2011).
        """
        for block in blocks:
            solution = factors[block.numbers]
            solve(block.rows, solution, fixed, float(self._regularize(block.size)))
            factors[block.numbers] = solution

    def with_items(self, old_index: Int32) -> FactorScorer:
        """The factors of other items.

        old_index: (n_items,) the index that each of them has here, -1 for an item that gets zeros.
        """
        factors = self.item_factors[old_index]
        factors[old_index < 0] = 0
        return replace(self, item_factors=factors)


def fit_factors(
    history: History, *, regularization: float, confidence: float, factors: int
) -> FactorScorer:
    """Item factors of these histories.

    factors: their number; fewer items than that have as many factors as items.
    """
    start = _find_singular_vectors(history, min(factors, history.n_items))
    start *= np.float32(START_SCALE * np.sqrt(history.n_items))
    return FactorScorer(start, regularization, confidence).fit(history, ITERATIONS)


def _find_singular_vectors(history: History, size: int) -> Float32:
    """(n_items, size): about the leading singular vectors of interactions, each of length 1.

    Two iterations from them are as accurate as eight from random factors. By subspace iteration:
    Halko, Martinsson, Tropp, "Finding structure with randomness" (SIAM Review 2011). An interaction
    is divided by the roots of the numbers of the user's and of the item's, so that the most active
    users and most popular items do not fill the first vectors.
    """
    counts = np.bincount(history.items, minlength=history.n_items)
    by_user, by_item = ((SHIFT + n) ** -0.5 for n in (history.lengths, counts))
    matrix = csr_matrix(
        diags(by_user) @ history.recency_weights(0.0) @ diags(by_item), dtype=np.float32
    )
    transposed = matrix.T.tocsr()
    vectors = np.random.default_rng(0).standard_normal((history.n_items, size), dtype=np.float32)
    with one_blas_thread():
        for _ in range(START_ROUNDS):
            vectors = np.linalg.qr(transposed @ (matrix @ vectors))[0]
    return vectors


class _SizeBlock(NamedTuple):
    """The users, or items, with about as many interactions."""

    size: Int64
    """The size class."""

    numbers: Int64
    """(rows,) their indices."""

    rows: csr_matrix
    """(rows, n) the confidence of each interaction."""


def _split_by_size(matrix: csr_matrix) -> list[_SizeBlock]:
    sizes = size_classes(np.diff(matrix.indptr))
    numbers_by_size = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    return [_SizeBlock(sizes[some[0]], some, matrix[some]) for some in numbers_by_size]


def size_classes(lengths: Int64) -> Int64:
    """(n,): the logarithm of the nearest power of four to each number of interactions + SHIFT."""
    return np.asarray(np.rint(np.log2(lengths + SHIFT) / 2), dtype=np.int64)
