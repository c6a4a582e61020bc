"""A model measured on users it has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import metrics
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions, positions
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.segmentation import SegmentationModel
from batchrec_dagster.local_personalize.learning.serving import Forbid, Recommended, forbidding
from batchrec_dagster.local_personalize.learning.split import Split, matrix_rows

MOST_SEGMENTED = 10_000_000  # users in all segments of an evaluation


class Recommender(Protocol):
    """What is measured: lists for users."""

    @property
    def item_ids(self) -> Ids:
        """See Known."""

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """See UserModel."""


@dataclass(frozen=True)
class AfterTheLast:
    """Recommends to users what is similar to the last item they met: how such models are tried."""

    model: RelatedItemsModel

    @property
    def item_ids(self) -> Ids:
        """See Known."""
        return self.model.item_ids

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """See UserModel; all users must have met something."""
        users = positions(interactions.user_ids, user_ids)
        last = interactions.items[interactions.starts[users + 1] - 1]
        return self.model.similar(interactions.item_ids[last].tolist(), num_results, forbid=forbid)


@dataclass(frozen=True)
class Evaluated:
    """What a model did for the held-out users that had something left to find."""

    hits: npt.NDArray[np.bool_]  # (users, 25) whether the item in that position was in the truth
    relevant: npt.NDArray[np.int64]  # (users,) how many items there were to find
    recommended: npt.NDArray[np.int32]  # (users, 25)
    n_items: int

    def summary(self) -> dict[str, float]:
        """GetSolutionMetrics' numbers."""
        return metrics.summary(self.hits, self.relevant, self.recommended, self.n_items)

    def ndcg(self) -> npt.NDArray[np.float64]:
        """(users,): NDCG at 25 of each user, to compare models user by user."""
        return metrics.ndcg(self.hits, self.relevant)


def evaluate(model: Recommender, held_out: Split) -> Evaluated:
    """Recommend 25 new items to each held-out user, and look for them in the truth.

    Items of the input are not recommended again, and not looked for; a user for whom nothing is
    left to look for is left out.
    """
    seen = presence(held_out.inputs, held_out, model.item_ids)
    truth = presence(held_out.truth, held_out, model.item_ids)
    truth = (truth - truth.multiply(seen)).tocsr()
    truth.eliminate_zeros()
    ids = held_out.inputs.user_ids[held_out.users]
    lists = model.recommend(list(ids), held_out.inputs, metrics.DEEPEST, forbid=forbidding(seen))
    recommended = np.concatenate([chunk.items for chunk in lists])
    relevant = np.diff(truth.indptr).astype(np.int64)
    rows = np.arange(len(ids))[:, None]
    hits = np.asarray(truth[rows, np.maximum(recommended, 0)].todense() > 0) & (recommended >= 0)
    some = relevant > 0
    return Evaluated(hits[some], relevant[some], recommended[some], len(model.item_ids))


def evaluate_segments(model: SegmentationModel, held_out: Split) -> dict[str, float]:
    """GetSolutionMetrics' numbers: for each item the likeliest 1 % of all users, rounded up.

    Those who met the item in the held-out part of their history count, whether or not they had
    met it before: that is what a segment job would have answered. Above a size an even choice of
    the items stands for all.
    """
    data = held_out.truth
    size = -(-len(data.user_ids) // 100)
    columns = positions(model.item_ids, data.item_ids)
    pairs = np.unique(columns[data.items].astype(np.int64) * len(data.user_ids) + data.users)
    sought = pairs // len(data.user_ids)
    items = np.unique(sought[sought >= 0])
    most = max(1, MOST_SEGMENTED // size)
    if len(items) > most:
        items = items[np.linspace(0, len(items) - 1, most).astype(np.int64)]
    queries = list(items.astype(np.int32)[:, None])
    segments = np.stack(model.segment(queries, held_out.inputs, size))
    asked = items[:, None] * len(data.user_ids) + segments
    place = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    hits = (pairs[place] == asked).sum(axis=1)
    actual = np.bincount(sought[sought >= 0], minlength=len(model.item_ids))[items]
    known = int(np.count_nonzero(held_out.train.item_counts))
    all_items = int(np.count_nonzero(held_out.train.item_counts + data.item_counts))
    return metrics.segment_summary(hits, actual, known, all_items)


def presence(interactions: Interactions, held_out: Split, item_ids: Ids) -> csr_matrix:
    """(held-out users, len(item_ids)) float32: 1 where a user met an item."""
    columns = positions(item_ids, interactions.item_ids)[interactions.items]
    rows = matrix_rows(interactions, held_out.users)
    known = columns >= 0
    out = csr_matrix(
        (np.ones(known.sum(), np.float32), (rows[known], columns[known])),
        shape=(len(held_out.users), len(item_ids)),
    )
    out.data[:] = 1
    return out
