"""From scores to lists: users in chunks over all cores, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.histories import Histories, History
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.threads import ordered_map

Float32 = npt.NDArray[np.float32]

# Given which of the users asked for a chunk holds and its (chunk, n_items) scores, sets those of
# what must not be recommended to -inf.
Forbid = Callable[[slice, Float32], None]

# Scores of a chunk: 4 MiB, so that they are read again before they leave the cache.
CHUNK_SCORES = 1 << 20


@dataclass(frozen=True)
class Recommended:
    """Lists of a chunk of users, in the order they were asked for."""

    items: npt.NDArray[np.int32]  # (chunk, k) index into the model's items, best first; -1 pads
    scores: npt.NDArray[np.float64]  # (chunk, k) share of a softmax over all items; 0 where padded


def recommend(
    score: Callable[[History], Float32],
    item_ids: Ids,
    user_ids: Sequence[str],
    interactions: Interactions,
    num_results: int,
    *,
    forbid: Forbid | None = None,
) -> Iterator[Recommended]:
    """Yield the lists of all users, chunk by chunk; `score` gives (chunk, n_items) logits."""
    histories = Histories(interactions, item_ids)
    users = histories.users(user_ids)
    size = max(1, min(1024, CHUNK_SCORES // max(1, len(item_ids))))

    def chunk(start: int) -> Recommended:
        part = slice(start, start + size)
        scores = score(histories.of(users[part]))
        shares = _log_shares(scores)
        if forbid is not None:
            forbid(part, scores)
        items = top(scores, num_results)
        chosen = np.take_along_axis(scores, np.maximum(items, 0), axis=1).astype(np.float64)
        return Recommended(items, np.where(items < 0, 0.0, np.exp(chosen - shares)))

    return ordered_map(chunk, range(0, len(users), size))


def forbidding(excluded: csr_matrix) -> Forbid:
    """Forbids each user what has an entry in the (users asked for, n_items) matrix."""

    def forbid(part: slice, scores: Float32) -> None:
        ends = excluded.indptr[part.start : part.stop + 1]
        rows = np.repeat(np.arange(len(scores)), np.diff(ends))
        scores[rows, excluded.indices[ends[0] : ends[-1]]] = -np.inf

    return forbid


def _log_shares(logits: Float32) -> npt.NDArray[np.float64]:
    """(rows, 1): the logarithm of the sum of exponentials of each row."""
    if not logits.shape[1]:
        return np.zeros((len(logits), 1))
    highest = logits.max(axis=1, keepdims=True)
    shares = logits - highest
    np.exp(shares, out=shares)
    sums = shares.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(highest + np.log(sums))
