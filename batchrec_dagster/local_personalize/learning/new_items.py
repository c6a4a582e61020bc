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
from .interactions import Float32, Float64, History, Ids, Int32, find_positions
from .item_features import ItemFeatures
from .ranking import top_k
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
# 0.3 the other items of the lists lose less than the noise (benchmarks/decisions.md), above 0.9 the
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
    """The largest share of new items in a list, and in its beginnings: above 0, at most 1."""

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

    def choose_items(self, scores: Float32, num_results: int, had: History | None) -> Int32:
        """(users, num_results): the items of each list, best first; -1 pads.

        Of the first n items of a list, for every n, new ones are at most the share `weight`. A new
        item that its score would put earlier comes as soon as its share allows. When the other
        items run out, the new ones that are left follow.

        scores: (users, n_items) of the model's own items, then of the new ones.
        had: the items that will be dropped from each user's list; None if none will. They do not
            count. So a list without them is the one from which a filter excludes them all, though
            a filter may know only the last 100 interactions.
        """
        n_own = scores.shape[1] - len(self.ages)
        new_scores, other_scores = scores[:, n_own:], scores[:, :n_own]
        is_had = np.zeros(scores.shape, dtype=bool)
        if had is not None:
            is_had[np.repeat(np.arange(len(scores)), had.lengths), had.items] = True
        is_had_new = is_had[:, n_own:]
        if is_had_new.any():
            # Since the training, somebody had some of the new items: they are like others for them.
            had_scores = np.where(is_had_new, new_scores, np.float32(-np.inf))
            other_scores = np.concatenate([other_scores, had_scores], axis=1)
            new_scores = np.where(is_had_new, np.float32(-np.inf), new_scores)
        others = top_k(other_scores, num_results)
        new = top_k(new_scores, min(num_results, new_scores.shape[1]))
        is_counted = (others >= 0) & ~np.take_along_axis(is_had, np.maximum(others, 0), axis=1)
        others_before = np.maximum(
            _count_better(_take_scores(other_scores, others), _take_scores(new_scores, new)),
            self._count_required(is_counted, (others >= 0).sum(axis=1), new.shape[1]),
        )
        return _merge(others, np.where(new < 0, -1, new + n_own), others_before)

    def _count_required(
        self, is_counted: npt.NDArray[np.bool_], lengths: npt.NDArray[np.intp], n_new: int
    ) -> npt.NDArray[np.intp]:
        """(users, n_new): how many of the other items come before each new one at least.

        is_counted: (users, others) which of them count for the share.
        lengths: (users,) how many others there are.
        """
        n_others = is_counted.shape[1]
        # Of n + j items, j may be new: j <= weight * (n + j). Rounding errors must not add one.
        number = np.arange(1, n_new + 1)
        counted = np.ceil(number * ((1 - self.weight) / self.weight) - 1e-9)
        counted = np.minimum(counted, n_others + 1).astype(np.intp)
        # (users, n_others + 2): the place after the c-th counted item, or after the last item.
        ends = np.repeat(lengths[:, None], n_others + 2, axis=1)
        ends[:, 0] = 0
        row, place = np.nonzero(is_counted)
        ends[row, np.cumsum(is_counted, axis=1)[row, place]] = place + 1
        return np.asarray(ends[:, counted])

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


def _take_scores(scores: Float32, columns: Int32) -> Float32:
    """(rows, k): the scores in these columns; -inf for column -1."""
    if not scores.shape[1]:
        return np.full(columns.shape, -np.inf, dtype=np.float32)
    taken = np.take_along_axis(scores, np.maximum(columns, 0), axis=1)
    return np.where(columns < 0, np.float32(-np.inf), taken)


def _count_better(others: Float32, new: Float32) -> npt.NDArray[np.intp]:
    """(rows, n_new): how many scores of others are at least as high as each score of a new item.

    others, new: (rows, k) falling.
    """
    order = np.argsort(-np.concatenate([others, new], axis=1), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
    return np.asarray(place[:, others.shape[1] :] - np.arange(new.shape[1]))


def _merge(others: Int32, new: Int32, others_before: npt.NDArray[np.intp]) -> Int32:
    """(rows, k): both lists in one, cut to the length of the others.

    others: (rows, k) item indices; -1 pads.
    new: (rows, n_new) item indices; -1 pads.
    others_before: (rows, n_new) how many others come before each new item, not falling.
    """
    rows, k = others.shape
    place = np.where(new < 0, k, np.minimum(others_before + np.arange(new.shape[1]), k))
    is_new = np.zeros((rows, k + 1), dtype=bool)
    np.put_along_axis(is_new, place, True, axis=1)
    is_new = is_new[:, :k]
    merged = np.take_along_axis(others, np.maximum(np.cumsum(~is_new, axis=1) - 1, 0), axis=1)
    row, new_place = np.nonzero(is_new)
    merged[row, new_place] = new[row, (np.cumsum(is_new, axis=1) - 1)[row, new_place]]
    return merged


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
