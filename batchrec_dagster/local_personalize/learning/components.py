"""The components that a model blends: each scores all items from a user's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix, diags
from scipy.sparse._sparsetools import csc_matvec, csc_matvecs

from batchrec_dagster.local_personalize.learning.content import ContentScorer
from batchrec_dagster.local_personalize.learning.interactions import History
from batchrec_dagster.local_personalize.learning.ranking import top_k_per_row
from batchrec_dagster.local_personalize.learning.store import Arrays
from batchrec_dagster.local_personalize.learning.threads import cores, single_threaded_blas

Float32 = npt.NDArray[np.float32]

# Names of components, as in saved models and logs.
EASE, SEQUENCE, FACTORS, POPULARITY = "ease", "sequence", "factors", "popularity"
EASE_HIGH_REG = "ease-high-reg"  # EASE with more regularization
SYMMETRIC_COOC = "cooccurrence-symmetric"  # co-occurrence of items in either order
USER_NEIGHBORS = "user-neighbors"
CONTENT = "content"  # the features of the Items dataset

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

    def add(self, logits: Float32, history: History, exponent: float) -> None:
        """Add `score` to the (users, n_items) logits, in place: in half the time."""
        sparse_matmul([history.recency_weights(exponent)], self.weights, [logits])

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
    2008).
    """

    kind: ClassVar[str] = "factors"

    item_factors: Float32  # (n_items, k)
    regularization: float

    def score(self, history: History, exponent: float) -> Float32:
        """See Scorer."""
        weights = history.recency_weights(exponent).data
        k = self.item_factors.shape[1]
        left = np.empty((len(history.lengths), k, k), dtype=np.float32)
        right = np.zeros((len(history.lengths), k, 1), dtype=np.float32)
        for user, (first, last) in enumerate(pairwise(history.starts)):
            own = self.item_factors[history.items[first:last]]
            confidence = weights[first:last, None]
            np.matmul(own.T, own * (confidence - 1), out=left[user])
            right[user] = own.T @ confidence
        left += self._of_no_history
        users = np.linalg.solve(left, right)[:, :, 0]
        return np.asarray(users @ self.item_factors.T)

    @cached_property
    def _of_no_history(self) -> Float32:
        """(k, k): what every user's least squares have in common."""
        common: Float32 = self.item_factors.T @ self.item_factors
        common[np.diag_indices_from(common)] += np.float32(self.regularization)
        return common

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """See Scorer."""
        regularization = np.array(self.regularization)
        return {"item_factors": self.item_factors, "regularization": regularization}

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
        return cls(csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape))


_Any = ItemItemScorer | FactorScorer | PopularityScorer | UserNeighborScorer | ContentScorer
SCORER_TYPES: dict[str, type[_Any]] = {
    scorer.kind: scorer
    for scorer in (
        ItemItemScorer,
        FactorScorer,
        PopularityScorer,
        UserNeighborScorer,
        ContentScorer,
    )
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


def sparse_matmul(
    weights: Sequence[csr_matrix], rows: csr_matrix, out: list[Float32] | None = None
) -> list[Float32]:
    """The dense products (users, n) of each of `weights` (users, m) and `rows` (m, n), all float32.

    The weights have their entries in the same places. One product may be added to an `out`.
    """
    first, (m, n) = weights[0], rows.shape
    owner = np.repeat(np.arange(first.shape[0]), np.diff(first.indptr))
    order = np.lexsort((m - first.indices, owner))
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
