"""Counts of interactions: the recipe aws-popularity-count, and what unknown users get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.reranking import rank
from batchrec_dagster.local_personalize.learning.serving import Forbid, Recommended, recommend
from batchrec_dagster.local_personalize.learning.store import Arrays, pack_ids, save_arrays

Float32 = npt.NDArray[np.float32]


def log_popularity(interactions: Interactions, order: npt.NDArray[np.intp]) -> Float32:
    """(n_items,): log of each item's count, so that a softmax gives its share of all; never-met
    items count a half, as if half an interaction were still to come."""
    return np.log(np.maximum(interactions.item_counts[order], 0.5)).astype(np.float32)


def popular_first(interactions: Interactions) -> npt.NDArray[np.intp]:
    """(n_items,) item indices by falling count, then rising id: the order of every model's items.

    Ties between scores go to the item that stands first, so to the more popular one.
    """
    return np.argsort(-interactions.item_counts, kind="stable")


@dataclass(frozen=True)
class PopularityModel:
    """Recommends the same to all: the items with the most interactions."""

    kind: ClassVar[str] = "popularity"

    item_ids: Ids
    popularity: Float32  # (n_items,) log of the counts

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        return np.tile(self.popularity, (len(history.lengths), 1))

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """See UserModel."""
        return recommend(
            self.score,
            self.item_ids,
            user_ids,
            interactions,
            num_results,
            forbid=forbid,
        )

    def rank(
        self,
        user_ids: Sequence[str],
        lists: Sequence[npt.NDArray[np.int32]],
        interactions: Interactions,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """See UserModel."""
        return rank(self.score, self.item_ids, user_ids, lists, interactions, forbid=forbid)

    def save(self, folder: Path) -> None:
        """See Known."""
        save_arrays(
            folder, self.kind, {**pack_ids(self.item_ids), "popularity": self.popularity}, {}
        )

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> PopularityModel:
        """The model whose arrays were saved."""
        return cls(item_ids, arrays["popularity"])
