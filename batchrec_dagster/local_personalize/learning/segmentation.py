"""The model of aws-item-affinity and aws-item-attribute-affinity: finds users for items.

Users are ranked by how often they will probably interact with one of the items: the softmax
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

from batchrec_dagster.local_personalize.learning.blend_model import BlendModel
from batchrec_dagster.local_personalize.learning.evaluation import Split, mean
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    History,
    Ids,
    Int32,
    Int64,
    Interactions,
    positions,
)
from batchrec_dagster.local_personalize.learning.model_selection import ValidationSet
from batchrec_dagster.local_personalize.learning.ranking import StreamingTopK
from batchrec_dagster.local_personalize.learning.serving import chunk_size
from batchrec_dagster.local_personalize.learning.store import Arrays, pack_ids, save_arrays
from batchrec_dagster.local_personalize.learning.threads import ordered_map

Float32 = npt.NDArray[np.float32]

MAX_SEGMENT_USERS = 10_000_000  # users in all segments of an evaluation
SEGMENT_METRICS = ("coverage", "hits_at_1_percent", "recall_at_1_percent")


@dataclass(frozen=True)
class SegmentationModel:
    """Ranks users by their affinity to items."""

    kind: ClassVar[str] = "segmentation"

    model: BlendModel
    repeat_factor: float = 1.0  # factor of the probabilities of items in a user's history

    @property
    def item_ids(self) -> Ids:
        """See TrainedModel."""
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
        """See SegmentModel; ties go to the user with the lower id."""
        count = len(interactions.user_ids)
        mask = np.ones(count, bool) if users is None else users
        selected = np.flatnonzero(mask).astype(np.int32)
        indicator = _indicator(queries, len(self.item_ids))
        histories = Histories(interactions, self.item_ids)
        best = StreamingTopK(len(queries), min(size, len(selected)))
        step = chunk_size(max(len(self.item_ids), len(queries)))

        def chunk(start: int) -> tuple[Int32, Float32]:
            block = selected[start : start + step]
            history = histories.of_users(block)
            return block, np.asarray(indicator @ self._affinities(history).T)

        for block, affinities in ordered_map(chunk, range(0, len(selected), step)):
            best.add(block, affinities)
            checkpoint(len(block))
        return best.ranked()

    def _affinities(self, history: History) -> Float32:
        """(users, n_items): expected numbers of interactions, up to a common factor."""
        affinities = probabilities(self.model, history)
        affinities[history.recency_weights(0.0).nonzero()] *= np.float32(self.repeat_factor)
        # Less than in proportion: the most active users were active in the past.
        affinities *= np.sqrt(np.maximum(history.lengths, 1), dtype=np.float32)[:, None]
        return affinities

    def save(self, folder: Path) -> None:
        """See TrainedModel."""
        arrays, facts = self.model.contents()
        arrays = {**pack_ids(self.item_ids), **arrays}
        save_arrays(folder, self.kind, arrays, {**facts, "repeat_factor": self.repeat_factor})

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> SegmentationModel:
        """The model that was saved; its factor was named `again` in old files."""
        factor = facts["again"] if "again" in facts else facts["repeat_factor"]
        return cls(BlendModel.load(item_ids, arrays, facts), float(factor))


def measure_repeat_factor(model: BlendModel, held_out: ValidationSet) -> float:
    """How many times likelier the items of a history are than the model says, compared with others.

    Measured on users whose relevant items include seen ones; 1 when it cannot be measured.
    """
    seen_hits = new_hits = seen_expected = new_expected = 0.0
    for history, truth in held_out.chunks():
        seen = history.recency_weights(0.0) > 0
        predicted = probabilities(model, history)
        of_seen = float(predicted[seen.nonzero()].sum(dtype=np.float64))
        seen_expected += of_seen
        new_expected += len(predicted) - of_seen
        hits = float(truth.multiply(seen).count_nonzero())
        seen_hits += hits
        new_hits += truth.count_nonzero() - hits
    if not (seen_expected and new_expected):
        return 1.0
    # Smoothed by half a hit, so that the factor is neither 0 nor infinite.
    return ((seen_hits + 0.5) / seen_expected) / ((new_hits + 0.5) / new_expected)


def evaluate_segments(model: SegmentationModel, held_out: Split) -> dict[str, float]:
    """The metrics of GetSolutionMetrics: each item's segment of the likeliest 1 % of users.

    Every user with a held-out interaction with the item counts, also one who had it before: a
    segment job would have answered the same. Of very many items, an even sample is measured.
    """
    data = held_out.truth
    size = -(-len(data.user_ids) // 100)
    columns = positions(model.item_ids, data.item_ids)
    pairs = np.unique(columns[data.items].astype(np.int64) * len(data.user_ids) + data.users)
    truth_items = pairs // len(data.user_ids)
    items = np.unique(truth_items[truth_items >= 0])
    most = max(1, MAX_SEGMENT_USERS // size)
    if len(items) > most:
        items = items[np.linspace(0, len(items) - 1, most).astype(np.int64)]
    queries = list(items.astype(np.int32)[:, None])
    segments = np.stack(model.segment(queries, held_out.inputs, size))
    predicted = items[:, None] * len(data.user_ids) + segments
    place = np.minimum(np.searchsorted(pairs, predicted), len(pairs) - 1)
    hits = (pairs[place] == predicted).sum(axis=1)
    actual = np.bincount(truth_items[truth_items >= 0], minlength=len(model.item_ids))[items]
    known = int(np.count_nonzero(held_out.train.item_counts))
    all_items = int(np.count_nonzero(held_out.train.item_counts + data.item_counts))
    return segment_metrics(hits, actual, known, all_items)


def segment_metrics(hits: Int64, actual: Int64, known: int, n_items: int) -> dict[str, float]:
    """The metrics of GetSolutionMetrics; `coverage` is `known` of `n_items` items.

    For each measured item, `hits` (items,) users of its segment have it in the truth, of `actual`
    (items,) >= 1 users in all. The other metrics are means over the items.
    """
    return {
        "coverage": known / n_items if n_items else 0.0,
        "hits_at_1_percent": mean(hits.astype(np.float64)),
        "recall_at_1_percent": mean(hits / actual),
    }


def probabilities(model: BlendModel, history: History) -> Float32:
    """(users, n_items): the softmax of the scores over all items."""
    out = model.score(history)
    out -= out.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
    return out


def _indicator(queries: Sequence[Int32], n_items: int) -> csr_matrix:
    """(queries, n_items) float32: 1 for the distinct items of each query."""
    distinct = [np.unique(items) for items in queries]
    starts = np.cumsum([0, *(len(items) for items in distinct)])
    items = np.concatenate([*distinct, np.zeros(0, np.int32)]).astype(np.int32)
    ones = np.ones(len(items), np.float32)
    return csr_matrix((ones, items, starts), shape=(len(queries), n_items))
