"""The components that a model blends: each scores all items from a user's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Protocol, get_args

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from scipy.sparse._sparsetools import csc_matvec, csc_matvecs

from .content import ContentScorer
from .eigenvectors import find_leading_eigenvectors
from .interactions import Float32, History
from .ranking import reindex
from .store import Arrays, pack_matrix, require_array, unpack_matrix
from .threads import count_cores, single_threaded_blas

# Names of components, as in saved models and logs.
SEQUENCE = "sequence"  # co-occurrence of an item with those that followed it
SYMMETRIC_COOC = "cooccurrence-symmetric"  # co-occurrence of items in either order
FACTORS = "factors"
FACTORS_HIGH_REG = "factors-high-reg"  # factors with more regularization and confidence
POPULARITY = "popularity"
CONTENT = "content"  # the features of the Items dataset

ALS_FACTORS = 64
MAX_FACTORS = 256  # hidden_dimension; scoring a user takes memory for their square
# The regularization r and the confidence of an interaction. A user or item with n interactions has
# the regularization r (ALS_SHIFT + n)^ALS_EXPONENT; the confidence of all that did not happen is 1.
ALS_OPTIONS = {FACTORS: (1.5, 3.0), FACTORS_HIGH_REG: (10.0, 10.0)}
ALS_SHIFT = 8
ALS_EXPONENT = 0.5
ALS_ITERATIONS = 3
# Where users have fewer interactions on average, more iterations are needed.
ALS_SHORT_HISTORIES = 30
ALS_ITERATIONS_OF_SHORT = 8
ALS_ITERATIONS_FROM_START = 2  # from an earlier fit

# How many scores of factors are multiplied at once, so that they stay in the cache until they are
# added, and the least number of items for it.
CACHED = 1 << 18
MIN_COLUMNS = 1024


class Scorer(Protocol):
    """Scores all items from histories that are weighted by recency."""

    @property
    def kind(self) -> str:
        """The key of the class in SCORER_TYPES."""

    def score(self, history: History, exponent: float) -> Float32:
        """(users, n_items) scores, higher is better.

        exponent: how much more the recent items weigh, see `History.recency_weights`.
        """

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs to restore the scorer."""


@dataclass(frozen=True)
class ItemItemScorer:
    """Adds up the weights from each item of a history to all items, as co-occurrence does."""

    kind: ClassVar[str] = "item-weights"

    weights: csr_matrix
    """(n_items, n_items) float32: a row is an item of a history, a column an item to score."""

    def score(self, history: History, exponent: float) -> Float32:
        return self.scores(history, [exponent])[0]

    def scores(self, history: History, exponents: Sequence[float]) -> list[Float32]:
        """`score` with each of the exponents, in little more time than with one."""
        weights = [history.recency_weights(exponent) for exponent in exponents]
        return sparse_matmul(weights, self.weights)

    def add(self, logits: Float32, history: History, exponent: float) -> None:
        """Add `score` to the (users, n_items) logits, in place, which takes half the time."""
        sparse_matmul([history.recency_weights(exponent)], self.weights, [logits])

    def with_items(self, old_index: npt.NDArray[np.int32]) -> ItemItemScorer:
        """The scorer of other items.

        old_index: (n_items,) the index that each of them has here, -1 for an item without weights.
        """
        return ItemItemScorer(reindex(self.weights, old_index))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return pack_matrix(self.weights)

    @property
    def n_items(self) -> int:
        return int(self.weights.shape[0])

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> ItemItemScorer:
        """The scorer that gave the arrays. Raises KeyError, or ValueError that names the file."""
        return cls(unpack_matrix(arrays))


@dataclass(frozen=True)
class FactorScorer:
    """Implicit ALS: solves a user's factors from the history, then multiplies by the items'.

    Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM
    2008). The regularization grows with the number of interactions, as in Rendle et al.,
    "Revisiting the performance of iALS on item recommendation benchmarks" (RecSys 2022), but in
    steps: users or items of one size class have the same.
    """

    kind: ClassVar[str] = "scaled-factors"

    item_factors: Float32
    """(n_items, k), where k is the number of factors."""

    regularization: float
    """The number r of ALS_OPTIONS, which grows with the interactions: see `regularization_of`."""

    confidence: float
    """Of an interaction; the confidence that an item without one is not wanted is 1."""

    def score(self, history: History, exponent: float) -> Float32:
        return np.asarray(self._user_factors(history, exponent) @ self.item_factors.T)

    def add(self, logits: Float32, history: History, exponent: float, weight: float) -> None:
        """Add `score` times the weight to the (users, n_items) logits, in place."""
        user_factors = self._user_factors(history, exponent)
        columns = CACHED // max(1, len(user_factors)) // MIN_COLUMNS * MIN_COLUMNS
        step = max(MIN_COLUMNS, columns)
        for first in range(0, logits.shape[1], step):
            scores = user_factors @ self._columns[:, first : first + step]
            scores *= np.float32(weight)
            logits[:, first : first + step] += scores

    def _user_factors(self, history: History, exponent: float) -> Float32:
        """(users, k): the factors of users with these histories, by least squares."""
        weights = history.recency_weights(exponent).data * np.float32(self.confidence)
        k = self.item_factors.shape[1]
        left = np.empty((len(history.lengths), k, k), dtype=np.float32)
        right = np.zeros((len(history.lengths), k, 1), dtype=np.float32)
        for user, (first, last) in enumerate(pairwise(history.starts)):
            items = self.item_factors[history.items[first:last]]
            confidence = weights[first:last, None]
            np.matmul(items.T, items * (confidence - 1), out=left[user])
            right[user] = items.T @ confidence
        left += self._gram
        diagonal = np.arange(k)
        sizes = size_classes(history.lengths)[:, None]
        left[:, diagonal, diagonal] += self.regularization_of(sizes).astype(np.float32)
        return np.asarray(np.linalg.solve(left, right)[:, :, 0])

    @cached_property
    def _columns(self) -> Float32:
        """(k, n_items): the item factors in the order that BLAS reads faster for few users."""
        return np.ascontiguousarray(self.item_factors.T)

    @cached_property
    def _gram(self) -> Float32:
        """(k, k): the Gram matrix of the item factors."""
        return np.asarray(self.item_factors.T @ self.item_factors)

    def with_items(self, old_index: npt.NDArray[np.int32]) -> FactorScorer:
        """The scorer of other items.

        old_index: (n_items,) the index that each of them has here, -1 for an item that gets zeros.
        """
        factors = self.item_factors[old_index]
        factors[old_index < 0] = 0
        return replace(self, item_factors=factors)

    def regularization_of(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The regularization of users or items of these size classes, see `size_classes`."""
        return np.asarray(self.regularization * 4.0 ** (ALS_EXPONENT * sizes))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "item_factors": self.item_factors,
            "regularization": np.array(self.regularization),
            "confidence": np.array(self.confidence),
        }

    @property
    def n_items(self) -> int:
        return len(self.item_factors)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> FactorScorer:
        """The scorer that gave the arrays. Raises KeyError, or ValueError that names the file."""
        factors = require_array(arrays, "item_factors", [np.float32], [None, None])
        if not 1 <= factors.shape[1] <= MAX_FACTORS:
            raise ValueError(
                f"item_factors.npy has {factors.shape[1]} factors, expected 1 to {MAX_FACTORS}"
            )

        def scalar(name: str) -> float:
            return float(require_array(arrays, name, [np.float64, np.float32], []))

        return cls(factors, scalar("regularization"), scalar("confidence"))


@dataclass(frozen=True)
class PopularityScorer:
    """The number of interactions of each item, for every history."""

    kind: ClassVar[str] = "popular"

    counts: Float32
    """(n_items,) the number of interactions."""

    def score(self, history: History, exponent: float) -> Float32:
        return np.tile(self.counts, (len(history.lengths), 1))

    def add(self, logits: Float32, history: History, exponent: float, weight: float) -> None:
        """Add `score` times the weight to the (users, n_items) logits, in place."""
        logits += self.counts * np.float32(weight)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"counts": self.counts}

    @property
    def n_items(self) -> int:
        return len(self.counts)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> PopularityScorer:
        """The scorer that gave the arrays. Raises KeyError, or ValueError that names the file."""
        return cls(require_array(arrays, "counts", [np.float32], [None]))


_AnyScorer = ItemItemScorer | FactorScorer | PopularityScorer | ContentScorer
SCORER_TYPES: dict[str, type[_AnyScorer]] = {scorer.kind: scorer for scorer in get_args(_AnyScorer)}


def fit_factors(
    matrix: csr_matrix,
    *,
    name: str = FACTORS,
    factors: int = ALS_FACTORS,
    seed: int,
    start: FactorScorer | None = None,
    iterations: int = ALS_ITERATIONS_FROM_START,
) -> FactorScorer:
    """Item factors, by alternating least squares.

    The solver is conjugate gradient: Takács, Pilászy, Tikk, "Applications of the conjugate gradient
    method for implicit feedback collaborative filtering" (RecSys 2011). A fit starts from singular
    vectors or from an earlier fit, so that it needs few iterations.

    matrix: (users, n_items) of ones.
    name: FACTORS or FACTORS_HIGH_REG, which have other regularization and confidence.
    factors: their number; fewer items than that have as many factors as items.
    start: an earlier fit to go on from, with zeros for new items. Its options are kept.
    iterations: how many there are from `start`. Without it, the lengths of the histories decide.
    """
    rng = np.random.default_rng(seed)
    if start is None:
        start = FactorScorer(_first_factors(matrix, factors, rng), *ALS_OPTIONS[name])
        is_short = matrix.nnz < ALS_SHORT_HISTORIES * matrix.shape[0]
        iterations = ALS_ITERATIONS_OF_SHORT if is_short else ALS_ITERATIONS
    # Users and items of a size class are neighbors, so that they are solved at once.
    user_order = np.argsort(np.diff(matrix.indptr), kind="stable")
    item_order = np.argsort(np.bincount(matrix.indices, minlength=matrix.shape[1]), kind="stable")
    weights = matrix[user_order].astype(np.float32, copy=False)
    weights.data *= np.float32(start.confidence)
    weights.indices = np.argsort(item_order).astype(np.int32)[weights.indices]
    user_blocks = _size_blocks(weights)
    item_blocks = _size_blocks(weights.T.tocsr())
    item_factors = start.item_factors[item_order]
    user_factors = rng.random((len(user_order), item_factors.shape[1]), dtype=np.float32)
    user_factors *= np.float32(0.01)
    # implicit solves each row in one thread; BLAS would round differently with more threads.
    with single_threaded_blas():
        for _ in range(iterations):
            _solve(user_blocks, user_factors, item_factors, start)
            _solve(item_blocks, item_factors, user_factors, start)
    in_given_order = np.empty_like(item_factors)
    in_given_order[item_order] = item_factors
    return replace(start, item_factors=in_given_order)


def _solve(
    blocks: Sequence[SizeBlock], factors: Float32, fixed_factors: Float32, options: FactorScorer
) -> None:
    """Replace the (n, k) factors of users or items by the solution for fixed ones."""
    solve = AlternatingLeastSquares().solver
    for size_class, place, rows in blocks:
        regularization = float(options.regularization_of(size_class))
        solve(rows, factors[place], fixed_factors, regularization, num_threads=count_cores())


def _first_factors(matrix: csr_matrix, factors: int, rng: np.random.Generator) -> Float32:
    """(n_items, factors): the items' half of a truncated singular value decomposition."""
    values, vectors = find_leading_eigenvectors(matrix, matrix.T.tocsr(), factors, rng)
    return vectors * np.power(np.maximum(values, 0), 0.25).astype(np.float32)


def size_classes(lengths: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """(n,): the logarithm of the nearest power of four to each number of interactions, shifted.

    lengths: (n,) the numbers of interactions of users or items.
    """
    return np.asarray(np.rint(np.log2(lengths + ALS_SHIFT) / 2), dtype=np.int64)


# A size class, the place of its rows in a matrix that is sorted by size, and these rows.
SizeBlock = tuple[npt.NDArray[np.int64], slice, csr_matrix]


def _size_blocks(matrix: csr_matrix) -> list[SizeBlock]:
    """The size classes of the rows of a matrix that is sorted by the size of its rows."""
    sizes = size_classes(np.diff(matrix.indptr))
    size_blocks = []
    for start, stop in pairwise(np.flatnonzero(np.diff(sizes, prepend=-1, append=-1))):
        entries = slice(matrix.indptr[start], matrix.indptr[stop])
        starts = matrix.indptr[start : stop + 1] - entries.start
        rows = csr_matrix((stop - start, matrix.shape[1]), dtype=matrix.dtype)
        # Parts of the arrays: the constructor would copy them.
        rows.data = matrix.data[entries]
        rows.indices = matrix.indices[entries]
        rows.indptr = starts
        size_blocks.append((sizes[start], slice(start, stop), rows))
    return size_blocks


def sparse_matmul(
    weights: Sequence[csr_matrix], rows: csr_matrix, sums: list[Float32] | None = None
) -> list[Float32]:
    """The dense products (users, n) of each of the weights with the rows, all float32.

    weights: matrices (users, m) with their entries in the same places.
    rows: (m, n).
    sums: arrays (users, n), one for each of the weights, that the products are added to. Zeros if
        None.
    """
    first = weights[0]
    m, n = rows.shape
    owner = np.repeat(np.arange(first.shape[0]), np.diff(first.indptr))
    order = np.argsort(owner * m - first.indices)  # one key sorts faster than two
    row_numbers = first.indices[order]
    # As columns of scipy, a row and what is between two rows take turns. From the last row to the
    # first, the latter ends before it begins, so it is empty, and no row has to be copied.
    ends = np.stack([rows.indptr[row_numbers], rows.indptr[row_numbers + 1]], axis=1).ravel()
    values = np.zeros((len(ends), len(weights)), dtype=np.float32)
    values[::2] = np.stack([matrix.data for matrix in weights], axis=1)[order]
    if sums is None:
        sums = [np.zeros((first.shape[0], n), dtype=np.float32) for _ in weights]
    for user in np.flatnonzero(np.diff(first.indptr)):
        part = slice(2 * first.indptr[user], 2 * first.indptr[user + 1])
        entries = ends[part], rows.indices, rows.data, values[part].ravel()
        columns = len(entries[0]) - 1
        if len(sums) == 1:
            csc_matvec(n, columns, *entries, sums[0][user])
            continue
        user_sums = np.zeros((n, len(sums)), dtype=np.float32)
        csc_matvecs(n, columns, len(sums), *entries, user_sums.ravel())
        for product, column in zip(sums, user_sums.T, strict=True):
            product[user] = column
    return sums
