"""Recommendation lists from scores: chunks of users, on all cores, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .interactions import Float32, Float64, Histories, History, Ids, Int32, Interactions
from .ranking import top_k
from .threads import ordered_map

# Takes the slice of requests that a chunk answers and its (chunk, n_items) scores. Sets the scores
# of items that must not be recommended to -inf.
Exclude = Callable[[slice, Float32], None]

CHUNK_SCORES = 1 << 20  # 4 MiB of scores, which stay in the cache until they are ranked
MAX_CHUNK = 1024  # rows
CACHED_SCORES = 1 << 17  # scores whose exponentials are summed at once
# BLAS reads the items' factors again for each product with them, so products of few rows take
# longer. A chunk of a large catalogue therefore has EFFICIENT_CHUNK rows. But it has no more than
# seven times CHUNK_SCORES, as malloc maps memory again for each chunk of 32 MiB and more, unless
# that would be fewer than LEAST_CHUNK rows: then mapping costs less than the products.
EFFICIENT_CHUNK = 128
LEAST_CHUNK = 32
LARGEST_CHUNK = 32 * CHUNK_SCORES  # scores
# Few users are cut into this many chunks, so that all cores have some, but not below LEAST_CHUNK.
MIN_CHUNKS = 8


@dataclass(frozen=True)
class RecommendedLists:
    """Lists for a chunk of requests, in the order of the requests."""

    items: npt.NDArray[np.int32]
    """(chunk, k) indices into the model's items, best first; -1 pads."""

    scores: npt.NDArray[np.float64]
    """(chunk, k) softmax probabilities; 0 where padded."""


class UserModel:
    """Base class of models that score all items for a user. It turns scores into lists.

    Lists come in chunks, in the order of the given users. Those that run out of items are padded
    with item -1 and score 0.
    """

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        raise NotImplementedError

    def choose_items(self, scores: Float32, num_results: int, had: History | None) -> Int32:
        """(users, num_results): the items of each list, best first; -1 pads.

        The lists are the beginnings of those with more results.

        scores: (users, n_items), with -inf for items that must not be recommended.
        had: the items that will be dropped from each user's list; None if none will.
        """
        return top_k(scores, num_results)

    def save(self, folder: Path) -> None:
        """Write the model into the folder: plain arrays and a manifest."""
        raise NotImplementedError

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        exclude: Exclude | None = None,
        excludes_history: bool = False,
    ) -> Iterator[RecommendedLists]:
        """Yield the best items of every user.

        Users without a history get the popular items. Scores are a softmax over all items,
        including excluded ones.

        interactions: the current data, which the histories come from. Users of it whom the model
            was not trained on have lists, too.
        num_results: the length of each list. A list is the beginning of one with more results.
        exclude: removes items from the lists.
        excludes_history: whether `exclude` removes what the users had. It may know only a part of
            that; whoever asks for the lists then drops the others.
        """

        def best(block: slice, history: History, scores: Float32) -> RecommendedLists:
            normalizer = logsumexp(scores)
            if exclude is not None:
                exclude(block, scores)
            items = self.choose_items(scores, num_results, history if excludes_history else None)
            logits = np.take_along_axis(scores, np.maximum(items, 0), axis=1).astype(np.float64)
            # An item that comes later than its score, as a list has too many of its kind, gets the
            # score of the item before it. So whoever sorts a list by score does not reorder it.
            logits = np.minimum.accumulate(logits, axis=1)
            return RecommendedLists(items, np.where(items < 0, 0.0, np.exp(logits - normalizer)))

        return self._map_scores(best, user_ids, interactions)

    def _map_scores(
        self,
        answer: Callable[[slice, History, Float32], RecommendedLists],
        user_ids: Sequence[str],
        interactions: Interactions,
    ) -> Iterator[RecommendedLists]:
        histories = Histories(interactions, self.item_ids)
        users = histories.users(user_ids)
        size = min(chunk_size(len(self.item_ids)), max(LEAST_CHUNK, -(-len(users) // MIN_CHUNKS)))

        def chunk(start: int) -> RecommendedLists:
            block = slice(start, start + size)
            history = histories.of_users(users[block])
            return answer(block, history, self.score(history))

        return ordered_map(chunk, range(0, len(users), size))


def chunk_size(columns: int) -> int:
    """How many rows a chunk of scores with this many columns has."""
    columns = max(1, columns)
    least = min(LEAST_CHUNK, LARGEST_CHUNK // columns)
    efficient = min(EFFICIENT_CHUNK, max(least, 7 * CHUNK_SCORES // columns))
    return max(1, efficient, min(MAX_CHUNK, CHUNK_SCORES // columns))


def exclude_entries(excluded: csr_matrix) -> Exclude:
    """An Exclude for the nonzero entries of a (requests, n_items) matrix."""

    def exclude(block: slice, scores: Float32) -> None:
        ends = excluded.indptr[block.start : block.stop + 1]
        rows = np.repeat(np.arange(len(scores)) * scores.shape[1], np.diff(ends))
        np.put(scores, rows + excluded.indices[ends[0] : ends[-1]], -np.inf)

    return exclude


def logsumexp(logits: Float32) -> Float64:
    """(rows, 1): log of the sum of the exponentials of each row."""
    if not logits.shape[1]:
        return np.zeros((len(logits), 1))
    log_sums = np.empty((len(logits), 1))
    step = max(1, CACHED_SCORES // logits.shape[1])
    for first in range(0, len(logits), step):
        rows = logits[first : first + step]
        highest = rows.max(axis=1, keepdims=True)
        exponentials = rows - highest
        np.exp(exponentials, out=exponentials)
        sums = exponentials.sum(axis=1, keepdims=True, dtype=np.float64)
        log_sums[first : first + step] = highest + np.log(sums)
    return log_sums
