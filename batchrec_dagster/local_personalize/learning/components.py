"""The parts a personalization model is blended from: each scores all items from a history."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csc_matrix, csr_matrix

from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.store import Arrays
from batchrec_dagster.local_personalize.learning.threads import pieces

Float32 = npt.NDArray[np.float32]

# Added at once: 4 MiB of them, so that they stay in the cache.
ENTRIES = 1 << 19


def weighted_sums(weights: csr_matrix, rows: csr_matrix) -> Float32:
    """(users, n) float32: `weights` (users, m) @ `rows` (m, n), both float32."""
    users, n = weights.shape[0], rows.shape[1]
    out = np.empty((users, n), dtype=np.float32)
    lengths = np.diff(rows.indptr)[weights.indices]
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[weights.indptr]
    for part in pieces(ends, ENTRIES):
        met = slice(weights.indptr[part.start], weights.indptr[part.stop])
        added = rows[weights.indices[met]]
        # Each user's sums have a stretch of one long vector.
        offsets = np.arange(part.stop - part.start, dtype=np.int32) * np.int32(n)
        places = added.indices + np.repeat(offsets, np.diff(ends[part.start : part.stop + 1]))
        by_entry = csc_matrix(
            (added.data, places, added.indptr),
            shape=((part.stop - part.start) * n, met.stop - met.start),
        )
        out[part] = (by_entry @ weights.data[met]).reshape(-1, n)
    return out


class Part(Protocol):
    """Anything that scores all items from a history weighted by recency."""

    @property
    def kind(self) -> str:
        """Which class reads the part back."""

    def score(self, history: History, power: float) -> Float32:
        """(users, n_items): the higher the better; `power` is History.weights'."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What to save."""


@dataclass(frozen=True)
class ItemWeights:
    """Adds up weights from each item met to each item: EASE, co-occurrence."""

    kind: ClassVar[str] = "item-weights"

    weights: csr_matrix  # (n_items, n_items) float32, row = an item met, column = an item to score

    def score(self, history: History, power: float) -> Float32:
        """See Part."""
        return weighted_sums(history.weights(power), self.weights)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """See Part."""
        return {name: getattr(self.weights, name) for name in ("data", "indices", "indptr")}

    @classmethod
    def of(cls, arrays: Arrays) -> ItemWeights:
        """The part whose arrays were saved."""
        n = len(arrays["indptr"]) - 1
        return cls(csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(n, n)))


@dataclass(frozen=True)
class Factors:
    """A user's factors solved from the history against fixed item factors, then their products.

    Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM
    2008), with the least squares of the library `implicit`.
    """

    kind: ClassVar[str] = "factors"

    item_factors: Float32  # (n_items, k)
    regularization: float

    def score(self, history: History, power: float) -> Float32:
        """See Part."""
        weights = history.weights(power)
        # implicit wants at least one row with an entry; an empty history has no factors.
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
        """See Part."""
        return {
            "item_factors": self.item_factors,
            "regularization": np.array(self.regularization),
        }

    @classmethod
    def of(cls, arrays: Arrays) -> Factors:
        """The part whose arrays were saved."""
        return cls(arrays["item_factors"], float(arrays["regularization"]))


@dataclass(frozen=True)
class Popular:
    """How often each item was met, whatever the history."""

    kind: ClassVar[str] = "popular"

    counts: Float32  # (n_items,)

    def score(self, history: History, power: float) -> Float32:
        """See Part."""
        return np.tile(self.counts, (len(history.lengths), 1))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """See Part."""
        return {"counts": self.counts}

    @classmethod
    def of(cls, arrays: Arrays) -> Popular:
        """The part whose arrays were saved."""
        return cls(arrays["counts"])


KINDS: dict[str, type[ItemWeights] | type[Factors] | type[Popular]] = {
    kind.kind: kind for kind in (ItemWeights, Factors, Popular)
}
