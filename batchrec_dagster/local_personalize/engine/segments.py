"""The recipe of users for items, which ranks users by the scores of a blend.

Users are ranked by how often they will probably interact with the items. That is the probability
of the items according to the blend, times the square root of the user's activity. The root is
taken because the most active users of the past are not quite so active later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.recipes import Values

from . import blend
from .blend_model import BlendModel
from .content import ItemFeatures
from .data import Bool, Float32, Ids, Int32, Interactions, Log, read_histories
from .evaluate import HeldOut, Measurements
from .parallel import ordered_map
from .serve import LEAST_SCORE, logsumexp, split_requests, top_k

# At least twice this many users are collected before all but the best users are dropped.
LEAST_COMPACTED = 4_096


@dataclass(frozen=True)
class SegmentModel:
    """A model that ranks users by their affinity to items."""

    model: BlendModel

    @property
    def item_ids(self) -> Ids:
        return self.model.item_ids

    def list_users(
        self,
        queries: Sequence[Int32],
        interactions: Interactions,
        size: int,
        *,
        users: Bool | None = None,
        checkpoint: Callable[[int], None] = lambda _: None,
    ) -> list[Int32]:
        """Return, for each query, the indices of the users with the highest affinity, best first.

        The user with the lower id wins a tie. Memory is in proportion to queries x size.

        queries: for each query, the indices into `item_ids` of a single item, or of all items with
            an attribute. The mean affinity to a query's items counts.
        size: the largest number of users for each query.
        users: a mask over `interactions.user_ids` of the users to consider; None for all.
        checkpoint: called after every chunk of users with the number of its users.
        """
        is_selected = np.ones(len(interactions.user_ids), bool) if users is None else users
        selected = np.flatnonzero(is_selected).astype(np.int32)
        lengths = [len(items) for items in queries]
        starts = np.cumsum([0, *lengths])
        means = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        items = np.concatenate([np.zeros(0, np.int32), *queries])
        query_items = csr_matrix((means, items, starts), shape=(len(queries), len(self.item_ids)))

        def score(block: slice) -> tuple[Int32, Float32]:
            affinities = self._compute_affinities(interactions, selected[block])
            return selected[block], np.asarray(query_items @ affinities.T)

        blocks = split_requests(len(selected), max(len(self.item_ids), len(queries)))
        none = np.zeros((len(queries), 0))
        parts = [(none.astype(np.int32), none.astype(np.float32))]
        for chunk, scores in ordered_map(score, blocks):
            parts.append((np.tile(chunk, (len(queries), 1)), scores))
            if sum(users.shape[1] for users, _ in parts) > 2 * max(size, LEAST_COMPACTED):
                parts = [_keep_best(parts, size)]
            checkpoint(len(chunk))
        return list(_keep_best(parts, size)[0])

    def _compute_affinities(self, interactions: Interactions, users: Int32) -> Float32:
        """Return expected interactions up to a common factor, of shape (users, n_items)."""
        history = read_histories(interactions, self.item_ids, users)
        logits = replace(self.model, repeats=None).score(history)
        # For items that a user already had, repeats alone say how likely the items come again. The
        # scores of the components do not count.
        logits[history.owners, history.items] = LEAST_SCORE
        if self.model.repeats is not None:
            self.model.repeats.add(logits, history)
        activity = 0.5 * np.log(np.maximum(history.lengths, 1))[:, None]
        return np.exp(logits - logsumexp(logits) + activity).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write the model into the folder."""
        self.model.save(folder)

    @classmethod
    def load(cls, folder: Path) -> SegmentModel:
        """Return the saved model. Raises ModelFileError if it is missing or damaged."""
        return cls(BlendModel.load(folder))


def _keep_best(parts: Sequence[tuple[Int32, Float32]], size: int) -> tuple[Int32, Float32]:
    """Return the users with the highest scores and their scores, both of shape (queries, size).

    The highest score comes first.
    """
    users, scores = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    columns = top_k(scores, min(size, scores.shape[1]))
    return np.take_along_axis(users, columns, axis=1), np.take_along_axis(scores, columns, axis=1)


def train(
    interactions: Interactions, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[SegmentModel, Measurements]:
    """Train a blend of items for users, and measure it by ranking the tested users for each item.

    features: not used.
    """
    model, measurements = blend.train(interactions, None, values, log, measure)
    return SegmentModel(model), measurements


def measure(test_model: BlendModel, held_out: HeldOut) -> Measurements:
    """Measure segments of the likeliest 1 % of the tested users, as GetSolutionMetrics does.

    There is a segment for each item, as a segment job has a segment for each line. Every tested
    user with a held-out interaction with the item counts as a hit, even if the user had the item
    before, because a segment job ranks users who had the item, too.

    Source: developer guide, "Evaluating a solution version with metrics". It defines hits and
    recall as averages over segments. It does not define the coverage of segments. Here, coverage
    is the share of all items that the training data has.
    """
    size = -(-len(held_out.users) // 100)
    model = SegmentModel(test_model)
    truth = read_histories(held_out.truth, model.item_ids, held_out.users)
    had = truth.recency_weights(0.0)
    queries = np.unique(truth.items)
    is_tested = np.zeros(len(held_out.inputs.user_ids), bool)
    is_tested[held_out.users] = True
    segments = model.list_users(list(queries[:, None]), held_out.inputs, size, users=is_tested)
    users = np.searchsorted(held_out.users, np.concatenate([np.zeros(0, np.int32), *segments]))
    is_hit = had[users, np.repeat(queries, size)] > 0
    hits = np.asarray(is_hit).reshape(len(queries), size).sum(axis=1)
    recall = hits / np.bincount(truth.items)[queries]
    all_item_ids = np.union1d(model.item_ids, held_out.truth.item_ids[held_out.truth.items])
    metrics = {"coverage": len(model.item_ids) / len(all_item_ids)}
    if len(queries):
        metrics["hits_at_1_percent"] = float(hits.mean())
        metrics["recall_at_1_percent"] = float(recall.mean())
    return Measurements(metrics)
