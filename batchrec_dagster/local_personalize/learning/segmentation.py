"""The model of user segmentation: users ranked for items.

Segments rank users by how often they will probably interact with one of the items: the softmax
probability of the items, times the user's activity. Customers of a bakery buy the same again,
visitors of a cinema do not: what items of the history count is measured on held-out interactions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .blend import BlendModel
from .interactions import Float32, Histories, History, Ids, Int32, Interactions
from .ranking import StreamingTopK
from .serving import chunk_size
from .store import Arrays, require_number, save_arrays
from .threads import ordered_map


@dataclass(frozen=True)
class SegmentationModel:
    """Ranks users by their affinity to items."""

    kind: ClassVar[str] = "segmentation"

    model: BlendModel
    repeat_factor: float = 1.0
    """The factor of the probabilities of the items in a user's history."""

    @property
    def item_ids(self) -> Ids:
        return self.model.item_ids

    def segment(
        self,
        queries: Sequence[Int32],
        interactions: Interactions,
        size: int,
        *,
        users: npt.NDArray[np.bool_] | None = None,
        checkpoint: Callable[[int], None] = lambda _: None,
    ) -> list[Int32]:
        """For each query, indices of the users with the highest affinity, best first.

        Ties go to the user with the lower id. Memory is in proportion to queries x size, and there
        is one chunk of users besides.

        queries: indices into `item_ids`, of one item or of all items with an attribute.
        size: how many users there are for each query, or fewer.
        users: a mask over `interactions.user_ids` of the users to consider; all if None.
        checkpoint: is called after every chunk with its number of users.
        """
        is_selected = np.ones(len(interactions.user_ids), bool) if users is None else users
        selected = np.flatnonzero(is_selected).astype(np.int32)
        indicator = _build_indicator(queries, len(self.item_ids))
        histories = Histories(interactions, self.item_ids)
        best = StreamingTopK(len(queries), min(size, len(selected)))
        users_per_chunk = chunk_size(max(len(self.item_ids), len(queries)))

        def score_chunk(start: int) -> tuple[Int32, Float32]:
            chunk = selected[start : start + users_per_chunk]
            history = histories.of_users(chunk)
            return chunk, np.asarray(indicator @ self._compute_affinities(history).T)

        starts = range(0, len(selected), users_per_chunk)
        for chunk, affinities in ordered_map(score_chunk, starts):
            best.add(chunk, affinities)
            checkpoint(len(chunk))
        return best.sort_labels()

    def _compute_affinities(self, history: History) -> Float32:
        """(users, n_items): expected numbers of interactions, up to a common factor."""
        affinities = probabilities(self.model, history)
        affinities[history.recency_weights(0.0).nonzero()] *= np.float32(self.repeat_factor)
        # The square root, because the most active users of the past are not quite so active later.
        affinities *= np.sqrt(np.maximum(history.lengths, 1), dtype=np.float32)[:, None]
        return affinities

    def save(self, folder: Path) -> None:
        arrays, facts = self.model.contents()
        save_arrays(folder, self.kind, arrays, {**facts, "repeat_factor": self.repeat_factor})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> SegmentationModel:
        """The model that was saved."""
        factor = require_number(facts["repeat_factor"], "repeat_factor")
        return cls(BlendModel.load(arrays, facts), factor)


def probabilities(model: BlendModel, history: History) -> Float32:
    """(users, n_items): the softmax of the scores over all items."""
    scores = model.score(history)
    scores -= scores.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def _build_indicator(queries: Sequence[Int32], n_items: int) -> csr_matrix:
    """(queries, n_items) float32: 1 for the distinct items of each query."""
    distinct = [np.unique(items) for items in queries]
    starts = np.cumsum([0, *(len(items) for items in distinct)])
    items = np.concatenate([*distinct, np.zeros(0, np.int32)]).astype(np.int32)
    ones = np.ones(len(items), np.float32)
    return csr_matrix((ones, items, starts), shape=(len(queries), n_items))
