"""Implicit ALS: the score of an item for a user is the product of their factors.

Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM 2008).
An item that a user had has the confidence c, and any other item has the confidence 1.

The regularization is r (8 + n)^0.5 for n interactions. It grows with n as in Rendle et al.,
"Revisiting the performance of iALS on item recommendation benchmarks" (RecSys 2022). It is rounded
to size classes, so that implicit solves all users (or items) of a similar size together.
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
START_SCALE = 0.1  # The standard deviation of the initial factors.
ITERATIONS = 2
ITEMS_AT_ONCE = 4096  # The scores of this many items for a chunk of users stay in the cache.


@dataclass(frozen=True)
class FactorScorer:
    """A component that multiplies the items' factors by a user's factors.

    The user's factors are solved from the history.
    """

    item_factors: Float32
    """Y in the paper's letters, of shape (n_items, k)."""

    regularization: float
    """The regularization r of the module's docstring."""

    confidence: float
    """The confidence c of the module's docstring."""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """Add the weighted scores of all items to `scores`, in place."""
        users = self._solve_users(history, exponent) * np.float32(weight)
        for first in range(0, scores.shape[1], ITEMS_AT_ONCE):
            block = slice(first, first + ITEMS_AT_ONCE)
            scores[:, block] += users @ self._columns[:, block]

    def _solve_users(self, history: History, exponent: float) -> Float32:
        """Return the factors of each user, of shape (users, k).

        In the paper's letters, they are (YᵀY + Yᵀ(C - I)Y + rI)⁻¹ YᵀCp.
        """
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
        """Return the regularization of users or items of the given size classes."""
        return np.asarray(self.regularization * 2.0**sizes)

    @cached_property
    def _columns(self) -> Float32:
        """The item factors transposed to (k, n_items), which BLAS reads faster for few users."""
        return np.ascontiguousarray(self.item_factors.T)

    @cached_property
    def _gram(self) -> Float32:
        """The Gram matrix of the item factors, YᵀY, of shape (k, k)."""
        return np.asarray(self.item_factors.T @ self.item_factors)

    def fit(self, history: History, iterations: int) -> FactorScorer:
        """Return a scorer with refined item factors, by alternating least squares.

        The iterations start from the present item factors.
        """
        matrix = history.recency_weights(0.0)
        matrix.data *= np.float32(self.confidence)
        users = np.zeros((matrix.shape[0], self.item_factors.shape[1]), np.float32)
        items = self.item_factors.copy()
        user_blocks, item_blocks = _split_by_size(matrix), _split_by_size(matrix.T.tocsr())
        with one_blas_thread():  # implicit starts its own threads.
            # implicit's fit has a single regularization for all users and items, so this calls the
            # solver that fit calls for each half of an iteration. pyproject.toml pins implicit's
            # version.
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
        """Improve the factors of users (or items) in place, with fixed factors of items (or users).

        solve: improves the factors for some rows of interactions, by conjugate gradient. Source:
            Takács, Pilászy, Tikk, "Applications of the conjugate gradient method for implicit
            feedback collaborative filtering" (RecSys 2011).
        factors: the factors to improve, of shape (n, k).
        """
        for block in blocks:
            solution = factors[block.numbers]
            solve(block.rows, solution, fixed, float(self._regularize(block.size)))
            factors[block.numbers] = solution

    def with_items(self, old_index: Int32) -> FactorScorer:
        """Return a scorer of another list of items.

        old_index: the present index of each item in the new list, of shape (n_items,). The factors
            of an item with the index -1 are zeros.
        """
        factors = self.item_factors[old_index]
        factors[old_index < 0] = 0
        return replace(self, item_factors=factors)


def fit_factors(
    history: History, *, regularization: float, confidence: float, factors: int
) -> FactorScorer:
    """Fit item factors on histories and return the scorer.

    factors: the number of factors. If there are fewer items, the number of items is used.
    """
    start = _find_singular_vectors(history, min(factors, history.n_items))
    start *= np.float32(START_SCALE * np.sqrt(history.n_items))
    return FactorScorer(start, regularization, confidence).fit(history, ITERATIONS)


def _find_singular_vectors(history: History, size: int) -> Float32:
    """Return approximate leading singular vectors of the interactions, of shape (n_items, size).

    Each vector has the length 1. Two iterations of ALS that start from the vectors are as accurate
    as eight iterations that start from random factors.

    The method is subspace iteration: Halko, Martinsson, Tropp, "Finding structure with randomness"
    (SIAM Review 2011). Each interaction is divided by the square roots of the user's and of the
    item's number of interactions (plus SHIFT), so that the most active users and the most popular
    items do not fill the first vectors.
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
    """The users (or items) of one size class, with about the same number of interactions."""

    size: Int64
    """The size class that `size_classes` returns."""

    numbers: Int64
    """The indices of the users (or items), of shape (rows,)."""

    rows: csr_matrix
    """The confidence of each interaction, of shape (rows, n)."""


def _split_by_size(matrix: csr_matrix) -> list[_SizeBlock]:
    sizes = size_classes(np.diff(matrix.indptr))
    numbers_by_size = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    return [_SizeBlock(sizes[some[0]], some, matrix[some]) for some in numbers_by_size]


def size_classes(lengths: Int64) -> Int64:
    """Return the size class of each number of interactions, of shape (n,).

    The size class is the logarithm to base 4 of the number of interactions plus SHIFT, rounded.
    """
    return np.asarray(np.rint(np.log2(lengths + SHIFT) / 2), dtype=np.int64)
