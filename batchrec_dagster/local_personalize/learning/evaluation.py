"""Offline metrics of a recommender on held-out users, with Amazon Personalize's formulas.

Source: Amazon Personalize developer guide, "Evaluating an Amazon Personalize solution version with
metrics".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.interactions import (
    Ids,
    Int32,
    Int64,
    Interactions,
    positions,
)
from batchrec_dagster.local_personalize.learning.serving import (
    Exclude,
    Float64,
    Recommended,
    exclude_entries,
)
from batchrec_dagster.local_personalize.learning.split import Split

Bool = npt.NDArray[np.bool_]

DEPTHS = (5, 10, 25)
MAX_DEPTH = max(DEPTHS)
METRICS = (
    "coverage",
    f"mean_reciprocal_rank_at_{MAX_DEPTH}",
    *(f"normalized_discounted_cumulative_gain_at_{depth}" for depth in DEPTHS),
    *(f"precision_at_{depth}" for depth in DEPTHS),
)


class Recommender(Protocol):
    """What `evaluate` needs of a model: lists for users."""

    @property
    def item_ids(self) -> Ids:
        """See TrainedModel."""

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        exclude: Exclude | None = None,
    ) -> Iterator[Recommended]:
        """See UserModel."""


@dataclass(frozen=True)
class Evaluation:
    """A model's lists for held-out users, compared with what these users chose next."""

    hits: Bool  # (users, 25) whether the item at that position is relevant
    relevant: Int64  # (users,) how many items are relevant, >= 1
    recommended: Int32  # (users, 25) item indices, best first; -1 pads
    n_items: int

    def summary(self) -> dict[str, float]:
        """The metrics of GetSolutionMetrics; all 0 without users.

        `coverage` is the share of all items that were recommended to at least one user.
        """
        distinct = np.unique(self.recommended[self.recommended >= 0]).size
        out = {"coverage": distinct / self.n_items if self.n_items else 0.0}
        out[f"mean_reciprocal_rank_at_{MAX_DEPTH}"] = mean(reciprocal_rank(self.hits))
        for depth in DEPTHS:
            hits = self.hits[:, :depth]
            out[f"normalized_discounted_cumulative_gain_at_{depth}"] = mean(
                ndcg(hits, self.relevant)
            )
            out[f"precision_at_{depth}"] = mean(precision(hits))
        return out

    def ndcg(self) -> Float64:
        """(users,): NDCG at 25 of each user, for paired comparisons of models."""
        return ndcg(self.hits, self.relevant)


def evaluate(model: Recommender, held_out: Split) -> Evaluation:
    """Recommend 25 items to each held-out user and look them up in the user's held-out rows.

    Items of the input are neither recommended nor relevant; users without a relevant item are
    left out.
    """
    seen = _interaction_matrix(held_out.inputs, held_out.users, model.item_ids)
    truth = _interaction_matrix(held_out.truth, held_out.users, model.item_ids)
    truth = (truth - truth.multiply(seen)).tocsr()
    truth.eliminate_zeros()
    ids = held_out.inputs.user_ids[held_out.users]
    lists = model.recommend(list(ids), held_out.inputs, MAX_DEPTH, exclude=exclude_entries(seen))
    recommended = np.concatenate([chunk.items for chunk in lists])
    relevant = np.diff(truth.indptr).astype(np.int64)
    rows = np.arange(len(ids))[:, None]
    hits = np.asarray(truth[rows, np.maximum(recommended, 0)].todense() > 0) & (recommended >= 0)
    some = relevant > 0
    return Evaluation(hits[some], relevant[some], recommended[some], len(model.item_ids))


def reciprocal_rank(hits: Bool) -> Float64:
    """(users,): 1 / the position of the first hit in each row of (users, K), 0 without a hit."""
    return np.where(hits.any(axis=1), 1.0 / (1 + hits.argmax(axis=1)), 0.0)


def ndcg(hits: Bool, relevant: Int64) -> Float64:
    """(users,): the gain 1 / log2(1 + position) of all hits, over that of the best possible list.

    `hits` is (users, K); `relevant` (users,) counts the relevant items of each user, >= 1.
    """
    depth = hits.shape[1]
    gains = 1.0 / np.log2(2 + np.arange(depth))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(relevant, depth)]
    return np.asarray(hits @ gains / ideal)


def precision(hits: Bool) -> Float64:
    """(users,): the hits in each row of (users, K), over K."""
    return np.asarray(hits.mean(axis=1))


def mean(values: Float64) -> float:
    """The mean, 0 of no values."""
    return float(values.mean()) if len(values) else 0.0


def _interaction_matrix(interactions: Interactions, users: Int32, item_ids: Ids) -> csr_matrix:
    """(len(users), len(item_ids)) float32: 1 where one of the sorted users has the item."""
    columns = positions(item_ids, interactions.item_ids)[interactions.items]
    rows = np.searchsorted(users, interactions.users)
    known = columns >= 0
    out = csr_matrix(
        (np.ones(known.sum(), np.float32), (rows[known], columns[known])),
        shape=(len(users), len(item_ids)),
    )
    out.data[:] = 1
    return out
