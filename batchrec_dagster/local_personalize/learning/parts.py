"""The parts a personalization model is blended from: each scores all items from a history."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.files import Arrays
from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.sums import weighted_sums

Float32 = npt.NDArray[np.float32]


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
