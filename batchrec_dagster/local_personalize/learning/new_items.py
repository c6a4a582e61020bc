"""Items that nobody has interacted with, scored by their features next to those of a model.

A new item is judged like the items of its kind: on the scores that the model gives a user's other
items, those of the features are regressed, and the prediction is the new item's score. Exploration
adds a bonus for what is not known, for users who like its kind more than an average item: Auer,
"Using confidence bounds for exploitation-exploration trade-offs" (JMLR 2002).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from . import content
from .content import ContentScorer
from .interactions import Float32, Float64, History, Ids, find_positions
from .item_features import ItemFeatures
from .store import Arrays

MAX_NEW_ITEMS = 10_000  # the newest: each takes as long to score as another item
RECENCY_EXPONENT = 0.3
SCORES = 7 << 20  # kept meanwhile: malloc maps memory anew for each 32 MiB
DAY = 86_400

# Defaults of Personalize's itemExplorationConfig; recipes of version 2 decide by themselves.
EXPLORATION_WEIGHT = 0.3
MAX_AGE = 30.0  # days, if there is a creation time
LEAST_SLOPE = 0.01  # standard deviations; so that new items keep the order of their features
# Standard deviations of the scores that features do not explain, times the odds of the weight. At
# 0.3 the other items of the lists lose less than the noise (benchmarks/metadata.py), above 0.9 the
# new items of a kind that a user likes come first.
BONUS = 0.7
MAX_WEIGHT = 0.95  # for the odds


@dataclass(frozen=True)
class NewItems:
    """The new items of a model, after its own in every array."""

    scorer: ContentScorer  # of the model's own items and the new ones
    ages: Float64  # (new,) days from the creation to the newest interaction; NaN if unknown
    weight: float = EXPLORATION_WEIGHT  # share of a list, at most; 0 to 1

    def score(self, history: History, own: Float32) -> Float32:
        """(users, new) logits, from those of the model's own items (users, n)."""
        step = max(1, SCORES // max(1, own.shape[1]))
        starts = range(0, max(1, len(own)), step)
        some = ((history.slice(at, at + step), own[at : at + step]) for at in starts)
        return np.concatenate([self._score(*each) for each in some])

    def _score(self, history: History, own: Float32) -> Float32:
        scores = self.scorer.score(history, RECENCY_EXPONENT)
        n = own.shape[1]
        known, new = scores[:, :n], scores[:, n:]
        mean, level = (each.mean(axis=1, keepdims=True) for each in (known, own))
        known -= mean
        centered = own - level
        common = np.einsum("ij,ij->i", known, centered) / n
        for each in (known, centered):
            np.square(each, out=each)
        spread, others = (np.sqrt(each.mean(axis=1)) for each in (known, centered))
        spread = np.maximum(spread, np.finfo(np.float32).eps)
        slope = np.maximum(common / spread**2, LEAST_SLOPE * others / spread)
        unknown = np.sqrt(np.maximum(others**2 - (slope * spread) ** 2, 0))
        weight = min(self.weight, MAX_WEIGHT)
        bonus = BONUS * weight / (1 - weight) * unknown[:, None]
        above = new - mean
        out: Float32 = (level + slope[:, None] * above + bonus * (above > 0)).astype(np.float32)
        return out

    def limit(self, scores: Float32, num_results: int) -> None:
        """Leave only as many new items to each list as its share allows, in place."""
        most = int(self.weight * num_results)
        new = scores[:, len(scores.T) - len(self.ages) :]
        if most >= new.shape[1]:
            return
        if most == 0:
            new[:] = -np.inf
            return
        worse = np.argpartition(-new, most - 1, axis=1)[:, most:]
        np.put_along_axis(new, worse, -np.inf, axis=1)

    def select(self, kept: npt.NDArray[np.bool_], weight: float) -> NewItems:
        """Those of a (new,) mask, with another weight."""
        features = self.scorer.features
        own = np.ones(features.shape[0] - len(kept), dtype=bool)
        chosen = features[np.concatenate([own, kept])]
        return replace(
            self, scorer=replace(self.scorer, features=chosen), ages=self.ages[kept], weight=weight
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {**self.scorer.arrays(), "ages": self.ages}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> NewItems:
        """What gave the arrays. Raises KeyError, or ValueError that names the file."""
        ages = arrays["ages"]
        if ages.dtype != np.float64 or ages.ndim != 1:
            raise ValueError(f"ages.npy has the type {ages.dtype} and the shape {ages.shape}")
        return cls(ContentScorer.from_arrays(arrays), ages)


def find_new_items(
    features: ItemFeatures | None, newest: int, item_ids: Ids, matrix: csr_matrix
) -> tuple[Ids, NewItems] | None:
    """Ids of the items with features that are not of the model, and their scorer; None if none.

    `matrix` (users, n_items) has the interactions with `item_ids`, the last one at `newest`.
    """
    if features is None:
        return None
    ages = (newest - features.created) / DAY
    described = np.diff(features.matrix.indptr) > 0
    at = np.flatnonzero((find_positions(item_ids, features.item_ids) < 0) & described)
    if not len(at):
        return None
    # The youngest first; without a creation time, later rows.
    order = np.lexsort((-at, np.where(np.isnan(ages[at]), np.inf, ages[at])))
    at = at[order[:MAX_NEW_ITEMS]].astype(np.int32)
    own = find_positions(features.item_ids, item_ids)
    fitted = content.fit(matrix, features.rows(own))
    everything = features.rows(np.concatenate([own, at]))
    return features.item_ids[at], NewItems(replace(fitted, features=everything), ages[at])
