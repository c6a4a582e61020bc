"""A given list of items, put in the order in which a user is likely to want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning import serving
from batchrec_dagster.local_personalize.learning.histories import Histories, History
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.serving import Forbid, Recommended
from batchrec_dagster.local_personalize.learning.threads import ordered_map

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


def rank(
    score: Callable[[History], Float32],
    item_ids: Ids,
    user_ids: Sequence[str],
    lists: Sequence[Int32],
    interactions: Interactions,
    *,
    forbid: Forbid | None = None,
) -> Iterator[Recommended]:
    """Yield the lists of all users in order, chunk by chunk; ties go to the more popular item.

    `score` gives (chunk, n_items) logits; the scores are their softmax over each list.
    """
    histories = Histories(interactions, item_ids)
    users = histories.users(user_ids)
    size = max(1, min(1024, serving.CHUNK_SCORES // max(1, len(item_ids))))

    def chunk(start: int) -> Recommended:
        part = slice(start, start + size)
        scores = score(histories.of(users[part]))
        if forbid is not None:
            forbid(part, scores)
        return _in_order(scores, lists[part])

    return ordered_map(chunk, range(0, len(users), size))


def _in_order(scores: Float32, lists: Sequence[Int32]) -> Recommended:
    lengths = np.array([len(items) for items in lists], dtype=np.int64)
    width = int(lengths.max(initial=0))
    items = np.full((len(lists), width), -1, dtype=np.int32)
    real = np.arange(width) < lengths[:, None]
    items[real] = np.concatenate([*lists, np.zeros(0, np.int32)])
    logits = np.full(items.shape, -np.inf)
    rows, columns = np.nonzero(real)
    logits[rows, columns] = scores[rows, items[rows, columns]]
    items[logits == -np.inf] = -1
    order = np.lexsort((items, -logits), axis=1)
    items, logits = np.take_along_axis(items, order, 1), np.take_along_axis(logits, order, 1)
    return Recommended(items, _softmax(logits))


def _softmax(logits: Float64) -> Float64:
    """Of each row; 0 where -inf, also where that is all there is."""
    highest = logits.max(axis=1, keepdims=True, initial=-np.inf)
    shares = np.exp(logits - np.where(np.isfinite(highest), highest, 0))
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny))
