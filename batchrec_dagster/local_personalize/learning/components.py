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
from scipy.sparse import csr_matrix, diags
from scipy.sparse._sparsetools import csc_matvec, csc_matvecs

from .content import ContentScorer
from .interactions import Float32, History
from .low_rank import leading_eigenvectors
from .ranking import reindex, top_k_per_row
from .store import Arrays, pack_matrix, require_array, unpack_matrix
from .threads import cores, single_threaded_blas

# Names of components, as in saved models and logs.
EASE, SEQUENCE, FACTORS, POPULARITY = "ease", "sequence", "factors", "popularity"
EASE_HIGH_REG = "ease-high-reg"  # EASE with more regularization
FACTORS_HIGH_REG = "factors-high-reg"  # factors with more regularization and confidence
SYMMETRIC_COOC = "cooccurrence-symmetric"  # co-occurrence of items in either order
USER_NEIGHBORS = "user-neighbors"
CONTENT = "content"  # the features of the Items dataset

ALS_FACTORS = 64
MAX_FACTORS = 256  # hidden_dimension; scoring a user takes memory for their square
# Regularization r, of a user or item with n interactions r (ALS_SHIFT + n)^ALS_EXPONENT, and the
# confidence of an interaction, where that of everything else is 1.
ALS_OPTIONS = {FACTORS: (1.5, 3.0), FACTORS_HIGH_REG: (10.0, 10.0)}
ALS_SHIFT = 8
ALS_EXPONENT = 0.5
ALS_ITERATIONS = 3
ALS_SHORT_HISTORIES = 30  # interactions of a user on average; fewer need more iterations
ALS_ITERATIONS_OF_SHORT = 8
ALS_UPDATE_ITERATIONS = 2

# Scores of factors that are multiplied at once: they stay in the cache until they are added.
CACHED = 1 << 18
MIN_COLUMNS = 1024

NEIGHBORS = 100  # users
FREQUENCY_SHIFT = 5.0


class Scorer(Protocol):
    """Scores all items from histories that are weighted by recency."""

    @property
    def kind(self) -> str:
        """The key of the class in SCORER_TYPES."""

    def score(self, history: History, exponent: float) -> Float32:
        """(users, n_items), higher is better; see History.recency_weights for `exponent`."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs to restore the scorer."""


@dataclass(frozen=True)
class ItemItemScorer:
    """Adds up the weights from each item of a history to all items: EASE, co-occurrence."""

    kind: ClassVar[str] = "item-weights"

    weights: csr_matrix  # (n_items, n_items) float32, row = item of a history, column = item scored

    def score(self, history: History, exponent: float) -> Float32:
        return self.scores(history, [exponent])[0]

    def scores(self, history: History, exponents: Sequence[float]) -> list[Float32]:
        """`score` with each of the exponents, in little more time than with one."""
        return sparse_matmul([history.recency_weights(each) for each in exponents], self.weights)

    def add(self, logits: Float32, history: History, exponent: float) -> None:
        """Add `score` to the (users, n_items) logits, in place: in half the time."""
        sparse_matmul([history.recency_weights(exponent)], self.weights, [logits])

    def with_items(self, old_index: npt.NDArray[np.int32]) -> ItemItemScorer:
        """The scorer of other items: (n_items,) the index of each here, -1 if it has no weights."""
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
    2008). The regularization grows with the number of interactions: Rendle et al., "Revisiting the
    performance of iALS on item recommendation benchmarks" (RecSys 2022); it is the same for about
    the same number.
    """

    kind: ClassVar[str] = "scaled-factors"  # "factors", saved earlier, have one regularization

    item_factors: Float32  # (n_items, k)
    regularization: float
    confidence: float
    frequency_exponent: float = ALS_EXPONENT

    def score(self, history: History, exponent: float) -> Float32:
        return np.asarray(self._users(history, exponent) @ self.item_factors.T)

    def add(self, logits: Float32, history: History, exponent: float, weight: float) -> None:
        """Add `score` times the weight to the (users, n_items) logits, in place."""
        users = self._users(history, exponent)
        step = max(MIN_COLUMNS, CACHED // max(1, len(users)) // MIN_COLUMNS * MIN_COLUMNS)
        for first in range(0, logits.shape[1], step):
            scores = users @ self._columns[:, first : first + step]
            scores *= np.float32(weight)
            logits[:, first : first + step] += scores

    def _users(self, history: History, exponent: float) -> Float32:
        """(users, k): the factors of users with these histories."""
        weights = history.recency_weights(exponent).data * np.float32(self.confidence)
        k = self.item_factors.shape[1]
        left = np.empty((len(history.lengths), k, k), dtype=np.float32)
        right = np.zeros((len(history.lengths), k, 1), dtype=np.float32)
        for user, (first, last) in enumerate(pairwise(history.starts)):
            own = self.item_factors[history.items[first:last]]
            confidence = weights[first:last, None]
            np.matmul(own.T, own * (confidence - 1), out=left[user])
            right[user] = own.T @ confidence
        left += self._gram
        diagonal = np.arange(k)
        sizes = size_classes(history.lengths)[:, None]
        left[:, diagonal, diagonal] += self.regularization_of(sizes).astype(np.float32)
        return np.asarray(np.linalg.solve(left, right)[:, :, 0])

    @cached_property
    def _columns(self) -> Float32:
        """(k, n_items): BLAS reads the items for few users faster in this order."""
        return np.ascontiguousarray(self.item_factors.T)

    @cached_property
    def _gram(self) -> Float32:
        return np.asarray(self.item_factors.T @ self.item_factors)

    def with_items(self, old_index: npt.NDArray[np.int32]) -> FactorScorer:
        """The scorer of other items: (n_items,) the index of each here, -1 if it gets zeros."""
        factors = self.item_factors[old_index]
        factors[old_index < 0] = 0
        return replace(self, item_factors=factors)

    def regularization_of(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The regularization of users or items of these size classes."""
        return np.asarray(self.regularization * 4.0 ** (self.frequency_exponent * sizes))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        options = "regularization", "confidence", "frequency_exponent"
        scalars = {name: np.array(getattr(self, name)) for name in options}
        return {"item_factors": self.item_factors, **scalars}

    @property
    def n_items(self) -> int:
        return len(self.item_factors)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> FactorScorer:
        """The scorer that gave the arrays, of an earlier version too.

        Raises KeyError, or ValueError that names the file.
        """
        factors = require_array(arrays, "item_factors", [np.float32], [None, None])
        if not 1 <= factors.shape[1] <= MAX_FACTORS:
            raise ValueError(
                f"item_factors.npy has {factors.shape[1]} factors, expected 1 to {MAX_FACTORS}"
            )
        defaults = {"confidence": np.array(1.0), "frequency_exponent": np.array(0.0)}
        return cls(
            factors,
            *(
                float(require_array({**defaults, **arrays}, name, [np.float64, np.float32], []))
                for name in ("regularization", "confidence", "frequency_exponent")
            ),
        )


@dataclass(frozen=True)
class PopularityScorer:
    """The number of interactions of each item, for every history."""

    kind: ClassVar[str] = "popular"

    counts: Float32  # (n_items,)

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


@dataclass(frozen=True)
class UserNeighborScorer:
    """Adds up the items of the users with the most similar histories.

    The similarity is a cosine in which frequent items count less. Source: Breese, Heckerman, Kadie,
    "Empirical analysis of predictive algorithms for collaborative filtering" (UAI 1998).
    """

    kind: ClassVar[str] = "user-neighbors"

    matrix: csr_matrix  # (users, n_items) float32: the weights of the interactions

    def score(self, history: History, exponent: float) -> Float32:
        """See Scorer; 0 for the items of the history, which its own user has among the users."""
        near = (history.recency_weights(exponent) @ self._users_by_item).tocsr()
        [scores] = sparse_matmul([top_k_per_row(near, NEIGHBORS)], self.matrix)
        scores[history.seen.nonzero()] = 0
        return scores

    @cached_property
    def _users_by_item(self) -> csr_matrix:
        """(n_items, users): how much an item of a history adds to the similarity to a user."""
        counts = np.bincount(self.matrix.indices, minlength=self.matrix.shape[1])
        weights = (1 / (counts + FREQUENCY_SHIFT)).astype(np.float32)
        lengths = np.sqrt(np.maximum(self.matrix @ weights, np.finfo(np.float32).tiny))
        out: csr_matrix = (diags(1 / lengths) @ self.matrix @ diags(weights)).T.tocsr()
        return out.astype(np.float32)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {**pack_matrix(self.matrix), "n_items": np.array(self.matrix.shape[1])}

    @property
    def n_items(self) -> int:
        return int(self.matrix.shape[1])

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> UserNeighborScorer:
        """The scorer that gave the arrays. Raises KeyError, or ValueError that names the file."""
        n_items = int(require_array(arrays, "n_items", [np.int64, np.int32], []))
        return cls(unpack_matrix(arrays, n_items))


_AnyScorer = ItemItemScorer | FactorScorer | PopularityScorer | UserNeighborScorer | ContentScorer
SCORER_TYPES: dict[str, type[_AnyScorer]] = {
    **{scorer.kind: scorer for scorer in get_args(_AnyScorer)},
    "factors": FactorScorer,
}


def fit_factors(
    matrix: csr_matrix,
    *,
    name: str = FACTORS,
    factors: int = ALS_FACTORS,
    seed: int,
    start: FactorScorer | None = None,
    iterations: int = ALS_UPDATE_ITERATIONS,
) -> FactorScorer:
    """Item factors of a (users, n_items) matrix of ones, by alternating least squares.

    `name` is FACTORS or FACTORS_HIGH_REG. `start` is an earlier fit, with zeros for new items, and
    `iterations` for it; a fit without it starts from singular vectors, so that both need few.
    Fewer items than `factors` have as many factors as items. The solver is conjugate gradient:
    Takács, Pilászy, Tikk, "Applications of the conjugate gradient method for implicit feedback
    collaborative filtering" (RecSys 2011).
    """
    rng = np.random.default_rng(seed)
    if start is None:
        start = FactorScorer(_first_factors(matrix, factors, rng), *ALS_OPTIONS[name])
        is_short = matrix.nnz < ALS_SHORT_HISTORIES * matrix.shape[0]
        iterations = ALS_ITERATIONS_OF_SHORT if is_short else ALS_ITERATIONS
    # Users and items of a size class are neighbors, so that they are solved at once.
    users = np.argsort(np.diff(matrix.indptr), kind="stable")
    order = np.argsort(np.bincount(matrix.indices, minlength=matrix.shape[1]), kind="stable")
    weights = matrix[users].astype(np.float32, copy=False)
    weights.data *= np.float32(start.confidence)
    weights.indices = np.argsort(order).astype(np.int32)[weights.indices]
    by_user, by_item = (_size_blocks(each) for each in (weights, weights.T.tocsr()))
    item_factors = start.item_factors[order]
    user_factors = rng.random((len(users), item_factors.shape[1]), dtype=np.float32)
    user_factors *= np.float32(0.01)
    # implicit solves each row in one thread; BLAS would round differently with more threads.
    with single_threaded_blas():
        solve = AlternatingLeastSquares().solver
        for _ in range(iterations):
            for blocks, solved, given in (
                (by_user, user_factors, item_factors),
                (by_item, item_factors, user_factors),
            ):
                for size, block, rows in blocks:
                    regularization = float(start.regularization_of(size))
                    solve(rows, solved[block], given, regularization, num_threads=cores())
    out = np.empty_like(item_factors)
    out[order] = item_factors
    return replace(start, item_factors=out)


def _first_factors(matrix: csr_matrix, factors: int, rng: np.random.Generator) -> Float32:
    """The items' half of a truncated singular value decomposition."""
    values, vectors = leading_eigenvectors(matrix, matrix.T.tocsr(), factors, rng)
    return vectors * np.power(np.maximum(values, 0), 0.25).astype(np.float32)


def size_classes(lengths: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """(n,): of each number of interactions, shifted, the nearest power of four."""
    return np.asarray(np.rint(np.log2(lengths + ALS_SHIFT) / 2), dtype=np.int64)


def _size_blocks(matrix: csr_matrix) -> list[tuple[npt.NDArray[np.int64], slice, csr_matrix]]:
    """The size classes of the rows, which are sorted by size: class, place, rows."""
    sizes = size_classes(np.diff(matrix.indptr))
    out = []
    for start, stop in pairwise(np.flatnonzero(np.diff(sizes, prepend=-1, append=-1))):
        entries = slice(matrix.indptr[start], matrix.indptr[stop])
        starts = matrix.indptr[start : stop + 1] - entries.start
        rows = csr_matrix((stop - start, matrix.shape[1]), dtype=matrix.dtype)
        # Parts of the arrays: the constructor would copy them.
        rows.data, rows.indices = matrix.data[entries], matrix.indices[entries]
        rows.indptr = starts
        out.append((sizes[start], slice(start, stop), rows))
    return out


def sparse_matmul(
    weights: Sequence[csr_matrix], rows: csr_matrix, out: list[Float32] | None = None
) -> list[Float32]:
    """The dense products (users, n) of each of `weights` (users, m) and `rows` (m, n), all float32.

    The weights have their entries in the same places. One product may be added to an `out`.
    """
    first, (m, n) = weights[0], rows.shape
    owner = np.repeat(np.arange(first.shape[0]), np.diff(first.indptr))
    order = np.argsort(owner * m - first.indices)  # one key sorts faster than two
    at = first.indices[order]
    # As columns of scipy, a row and what is between two rows take turns. From the last row to the
    # first, the latter ends before it begins, so it is empty, and no row has to be copied.
    ends = np.stack([rows.indptr[at], rows.indptr[at + 1]], axis=1).ravel()
    values = np.zeros((len(ends), len(weights)), dtype=np.float32)
    values[::2] = np.stack([each.data for each in weights], axis=1)[order]
    out = out or [np.zeros((first.shape[0], n), dtype=np.float32) for _ in weights]
    for user in np.flatnonzero(np.diff(first.indptr)):
        part = slice(2 * first.indptr[user], 2 * first.indptr[user + 1])
        entries = ends[part], rows.indices, rows.data, values[part].ravel()
        columns = len(entries[0]) - 1
        if len(out) == 1:
            csc_matvec(n, columns, *entries, out[0][user])
            continue
        sums = np.zeros((n, len(out)), dtype=np.float32)
        csc_matvecs(n, columns, len(out), *entries, sums.ravel())
        for product, each in zip(out, sums.T, strict=True):
            product[user] = each
    return out
