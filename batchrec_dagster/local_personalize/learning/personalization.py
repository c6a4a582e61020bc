"""The model behind aws-user-personalization: item-item weights over a history with recency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.files import Arrays, pack_ids, save_arrays
from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.serving import Recommended, recommend

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PersonalizationModel:
    """Scores every item for every user from the user's history; the popular without one."""

    kind: ClassVar[str] = "personalization"
    has_scores: ClassVar[bool] = True

    item_ids: Ids
    popularity: Float32  # (n_items,) log of the counts
    weights: csr_matrix  # (n_items, n_items) float32, row = an item met, column = an item to score
    recency_power: float
    temperature: float

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        scores: Float32 = (history.weights(self.recency_power) @ self.weights).toarray()
        scores /= self.temperature
        scores[history.lengths == 0] = self.popularity
        return scores

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        excluded: csr_matrix | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> Iterator[Recommended]:
        """See Model."""
        return recommend(
            self.score,
            self.item_ids,
            user_ids,
            interactions,
            num_results,
            excluded=excluded,
            allowed=allowed,
        )

    def save(self, folder: Path) -> None:
        """See Model."""
        arrays = {
            **pack_ids(self.item_ids),
            "popularity": self.popularity,
            "weights_data": self.weights.data,
            "weights_indices": self.weights.indices,
            "weights_indptr": self.weights.indptr,
        }
        facts = {"recency_power": self.recency_power, "temperature": self.temperature}
        save_arrays(folder, self.kind, arrays, facts)

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> PersonalizationModel:
        """The model whose arrays were saved."""
        n = len(item_ids)
        parts = (arrays["weights_data"], arrays["weights_indices"], arrays["weights_indptr"])
        weights = csr_matrix(parts, shape=(n, n))
        return cls(
            item_ids, arrays["popularity"], weights, facts["recency_power"], facts["temperature"]
        )
