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
SCORES = 7 << 20  # at once: malloc maps memory again for each array of 32 MiB and more
DAY = 86_400

# Defaults of Personalize's itemExplorationConfig; recipes of version 2 decide by themselves.
EXPLORATION_WEIGHT = 0.3
MAX_AGE = 30.0  # days, if there is a creation time
# The least slope of the regression, in standard deviations. With it, new items keep the order of
# their features even where features explain nothing.
LEAST_SLOPE = 0.01
# Standard deviations of the scores that features do not explain, times the odds of the weight. At
# 0.3 the other items of the lists lose less than the noise (benchmarks/metadata.py), above 0.9 the
# new items of a kind that a user likes come first.
BONUS = 0.7
MAX_WEIGHT = 0.95  # for the odds


@dataclass(frozen=True)
class NewItems:
    """The new items of a model, after its own items in every array."""

    scorer: ContentScorer
    """Scores the model's own items and the new ones by their features."""

    ages: Float64
    """(new,) days from the creation to the newest interaction; NaN if unknown."""

    weight: float = EXPLORATION_WEIGHT
    """The share of a list that new items may have, 0 to 1."""

    def score(self, history: History, own_logits: Float32) -> Float32:
        """(users, new): the logits of the new items.

        own_logits: (users, n) the model's logits of its own items.
        """
        step = max(1, SCORES // max(1, own_logits.shape[1]))
        starts = range(0, max(1, len(own_logits)), step)
        return np.concatenate(
            [
                self._score_chunk(
                    history.slice(start, start + step), own_logits[start : start + step]
                )
                for start in starts
            ]
        )

    def _score_chunk(self, history: History, own_logits: Float32) -> Float32:
        """`score` for a few users, by a linear regression of the logits for each of them."""
        content_scores = self.scorer.score(history, RECENCY_EXPONENT)
        n = own_logits.shape[1]
        own_content, new_content = content_scores[:, :n], content_scores[:, n:]
        content_mean = own_content.mean(axis=1, keepdims=True)
        logit_mean = own_logits.mean(axis=1, keepdims=True)
        own_content -= content_mean
        centered_logits = own_logits - logit_mean
        covariance = np.einsum("ij,ij->i", own_content, centered_logits) / n
        np.square(own_content, out=own_content)
        np.square(centered_logits, out=centered_logits)
        content_spread = np.sqrt(own_content.mean(axis=1))
        logit_spread = np.sqrt(centered_logits.mean(axis=1))
        content_spread = np.maximum(content_spread, np.finfo(np.float32).eps)
        slope = np.maximum(
            covariance / content_spread**2, LEAST_SLOPE * logit_spread / content_spread
        )
        # The standard deviation of the logits that the features do not explain.
        residual = np.sqrt(np.maximum(logit_spread**2 - (slope * content_spread) ** 2, 0))
        weight = min(self.weight, MAX_WEIGHT)
        bonus = BONUS * weight / (1 - weight) * residual[:, None]
        above_mean = new_content - content_mean
        logits = logit_mean + slope[:, None] * above_mean + bonus * (above_mean > 0)
        return np.asarray(logits.astype(np.float32))

    def limit(self, scores: Float32, num_results: int) -> None:
        """Leave only as many new items to each list as its share allows, in place.

        scores: (users, n_items) of the model's own items, then of the new ones.
        """
        max_new = int(self.weight * num_results)
        new_scores = scores[:, len(scores.T) - len(self.ages) :]
        if max_new >= new_scores.shape[1]:
            return
        if max_new == 0:
            new_scores[:] = -np.inf
            return
        worse = np.argpartition(-new_scores, max_new - 1, axis=1)[:, max_new:]
        np.put_along_axis(new_scores, worse, -np.inf, axis=1)

    def select(self, is_selected: npt.NDArray[np.bool_], weight: float) -> NewItems:
        """Some of the new items, with another weight.

        is_selected: (new,) bool.
        """
        features = self.scorer.features
        is_own = np.ones(features.shape[0] - len(is_selected), dtype=bool)
        selected_features = features[np.concatenate([is_own, is_selected])]
        return replace(
            self,
            scorer=replace(self.scorer, features=selected_features),
            ages=self.ages[is_selected],
            weight=weight,
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
    """The ids of the items with features that the model does not have, and these items.

    None if there are none.

    newest: the time of the last interaction, in epoch seconds.
    item_ids: the model's items.
    matrix: (users, n_items) of ones, the interactions with them.
    """
    if features is None:
        return None
    ages = (newest - features.created) / DAY
    has_features = np.diff(features.matrix.indptr) > 0
    is_new = find_positions(item_ids, features.item_ids) < 0
    new_rows = np.flatnonzero(is_new & has_features)
    if not len(new_rows):
        return None
    # The youngest first; without a creation time, later rows.
    new_ages = ages[new_rows]
    order = np.lexsort((-new_rows, np.where(np.isnan(new_ages), np.inf, new_ages)))
    new_rows = new_rows[order[:MAX_NEW_ITEMS]].astype(np.int32)
    own_rows = find_positions(features.item_ids, item_ids)
    scorer = content.fit(matrix, features.select_rows(own_rows))
    all_features = features.select_rows(np.concatenate([own_rows, new_rows]))
    new_items = NewItems(replace(scorer, features=all_features), ages[new_rows])
    return features.item_ids[new_rows], new_items
