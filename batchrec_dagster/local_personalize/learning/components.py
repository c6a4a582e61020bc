"""The components that a model blends: each scores all items from a user's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csc_matrix, csr_matrix, diags

from batchrec_dagster.local_personalize.learning.interactions import History
from batchrec_dagster.local_personalize.learning.ranking import top_k_per_row
from batchrec_dagster.local_personalize.learning.store import Arrays
from batchrec_dagster.local_personalize.learning.threads import cores, pieces, single_threaded_blas

Float32 = npt.NDArray[np.float32]

# Names of components, as in saved models and logs.
EASE, SEQUENCE, FACTORS, POPULARITY = "ease", "sequence", "factors", "popularity"
EASE_HIGH_REG = "ease-high-reg"  # EASE with more regularization
SYMMETRIC_COOC = "cooccurrence-symmetric"  # co-occurrence of items in either order
USER_NEIGHBORS = "user-neighbors"

ENTRIES = 1 << 19  # summed at once: 4 MiB, so that they stay in the cache

ALS_FACTORS = 64
ALS_REGULARIZATION = 5.0
ALS_ITERATIONS = 8
ALS_UPDATE_ITERATIONS = 2

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
        """See Scorer."""
        return self.scores(history, [exponent])[0]

    def scores(self, history: History, exponents: Sequence[float]) -> list[Float32]:
        """`score` with each of the exponents, in little more time than with one."""
        return sparse_matmul([history.recency_weights(each) for each in exponents], self.weights)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """See Scorer."""
        return {name: getattr(self.weights, name) for name in ("data", "indices", "indptr")}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> ItemItemScorer:
        """The scorer that gave the arrays."""
        n = len(arrays["indptr"]) - 1
        return cls(csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(n, n)))


@dataclass(frozen=True)
class FactorScorer:
    """Implicit ALS: solves a user's factors from the history, then multiplies by the items'.

    Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM
    2008), with the least squares of the library `implicit`.
    """

    kind: ClassVar[str] = "factors"

    item_factors: Float32  # (n_items, k)
    regularization: float

    def score(self, history: History, exponent: float) -> Float32:
        """See Scorer."""
        weights = history.recency_weights(exponent)
        # implicit needs at least one row with an entry; it leaves empty rows undefined.
        users = self._solver.recalculate_user(np.arange(weights.shape[0]), weights)
        users[history.lengths == 0] = 0
        return np.asarray(users @ self.item_factors.T)

    @cached_property
    def _solver(self) -> AlternatingLeastSquares:
        solver = AlternatingLeastSquares(
            factors=self.item_factors.shape[1], regularization=self.regularization, num_threads=1
        )
        solver.item_factors = self.item_factors
        solver._YtY = self.item_factors.T @ self.item_factors
        return solver

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """See Scorer."""
        return {
            "item_factors": self.item_factors,
            "regularization": np.array(self.regularization),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> FactorScorer:
        """The scorer that gave the arrays."""
        return cls(arrays["item_factors"], float(arrays["regularization"]))


@dataclass(frozen=True)
class PopularityScorer:
    """The number of interactions of each item, for every history."""

    kind: ClassVar[str] = "popular"

    counts: Float32  # (n_items,)

    def score(self, history: History, exponent: float) -> Float32:
        """See Scorer."""
        return np.tile(self.counts, (len(history.lengths), 1))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """See Scorer."""
        return {"counts": self.counts}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> PopularityScorer:
        """The scorer that gave the arrays."""
        return cls(arrays["counts"])


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
        """See Scorer."""
        arrays = {name: getattr(self.matrix, name) for name in ("data", "indices", "indptr")}
        return {**arrays, "n_items": np.array(self.matrix.shape[1])}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> UserNeighborScorer:
        """The scorer that gave the arrays."""
        shape = len(arrays["indptr"]) - 1, int(arrays["n_items"])
        entries = arrays["data"], arrays["indices"], arrays["indptr"]
        return cls(csr_matrix(entries, shape=shape))


_Any = ItemItemScorer | FactorScorer | PopularityScorer | UserNeighborScorer
SCORER_TYPES: dict[str, type[_Any]] = {
    scorer.kind: scorer
    for scorer in (ItemItemScorer, FactorScorer, PopularityScorer, UserNeighborScorer)
}


def fit_factors(
    matrix: csr_matrix, *, factors: int = ALS_FACTORS, seed: int, start: Float32 | None = None
) -> FactorScorer:
    """Item factors of a (users, n_items) matrix of ones, by alternating least squares.

    `start` (n_items, factors) are the factors of an earlier fit, zeros for new items: from there
    two iterations are enough. The solver is conjugate gradient: Takács, Pilászy, Tikk,
    "Applications of the conjugate gradient method for implicit feedback collaborative filtering"
    (RecSys 2011).
    """
    # implicit solves each row in one thread; BLAS would round differently with more threads.
    with single_threaded_blas():
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=ALS_REGULARIZATION,
            iterations=ALS_ITERATIONS if start is None else ALS_UPDATE_ITERATIONS,
            num_threads=cores(),
            random_state=seed,
        )
        model.item_factors = start
        model.fit(matrix.astype(np.float32), show_progress=False)
    return FactorScorer(np.ascontiguousarray(model.item_factors), ALS_REGULARIZATION)


def sparse_matmul(weights: Sequence[csr_matrix], rows: csr_matrix) -> list[Float32]:
    """The dense products (users, n) of each of `weights` (users, m) and `rows` (m, n), all float32.

    The weights have their entries in the same places.
    """
    first, n = weights[0], rows.shape[1]
    values = np.stack([each.data for each in weights], axis=1)
    out = [np.empty((first.shape[0], n), dtype=np.float32) for _ in weights]
    lengths = np.diff(rows.indptr)[first.indices]
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[first.indptr]
    for block in pieces(ends, ENTRIES):
        entries = slice(first.indptr[block.start], first.indptr[block.stop])
        added = rows[first.indices[entries]]
        # The rows of the product are one long vector.
        offsets = np.arange(block.stop - block.start, dtype=np.int32) * np.int32(n)
        places = added.indices + np.repeat(offsets, np.diff(ends[block.start : block.stop + 1]))
        by_entry = csc_matrix(
            (added.data, places, added.indptr),
            shape=((block.stop - block.start) * n, entries.stop - entries.start),
        )
        sums = by_entry @ values[entries]
        for product, each in zip(out, sums.T, strict=True):
            product[block] = each.reshape(-1, n)
    return out
