"""Lists of the best items for each user, made in chunks, on all cores, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .data import (
    Float32,
    Float64,
    History,
    HistoryReader,
    Ids,
    Int32,
    Interactions,
    find_positions,
)
from .parallel import ordered_map

# A function that takes the slice of the requests in a chunk, and the chunk's scores of shape
# (chunk, n_items). It sets the scores of items that must not be recommended to -inf.
Exclude = Callable[[slice, Float32], None]

CHUNK_SCORES = 2 << 20  # The number of scores in a chunk. With many items, a chunk has fewer users.
LEAST_CHUNK, LARGEST_CHUNK = 64, 256  # The limits of the number of users in a chunk.
# The number of scores that logsumexp reads at once, so that they stay in the cache.
CACHED_SCORES = 1 << 17
GROUPS = 32  # top_k makes this many groups of columns for each item of a list.
LEAST_SCORE = np.finfo(np.float32).min


class UserModel(Protocol):
    """A model that scores all items for users."""

    @property
    def item_ids(self) -> Ids:
        """Distinct item ids of shape (n_items,), the most popular first."""

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """Return logits of shape (users, n_items). Their softmax gives probabilities.

        out: an array that the model may write the logits to.
        """

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """Return the items of each list, best first, of shape (users, k); -1 pads.

        scores: shape (users, n_items), with -inf for items that must not be recommended.
        """


@dataclass(frozen=True)
class Lists:
    """Lists for a chunk of requests, in the order of the requests."""

    items: Int32
    """Indices into the model's items, best first, of shape (chunk, k); -1 pads."""

    scores: Float64
    """Probabilities that never rise along a list, of shape (chunk, k). Padding is 0."""


def recommend(
    model: UserModel,
    user_ids: Sequence[str] | Ids,
    interactions: Interactions,
    k: int,
    exclude: Exclude | None = None,
) -> Iterator[Lists]:
    """Yield the k best items of every user, in chunks.

    Probabilities are over all items, including excluded items.

    interactions: the current data to read histories from. Users that the model was not trained on
        get lists, too.
    exclude: excludes items from the lists.
    """
    users = find_positions(interactions.user_ids, user_ids)
    histories = HistoryReader(interactions, model.item_ids)
    blocks = split_requests(len(users), len(model.item_ids))
    largest = max((block.stop - block.start for block in blocks), default=0)
    # Each thread writes the scores of all its chunks to the same array. The kernel would clear the
    # pages of a new array for every chunk, which takes a quarter as long as all other work.
    threads_own = threading.local()

    def answer(block: slice) -> Lists:
        if not hasattr(threads_own, "scores"):
            threads_own.scores = np.empty((largest, len(model.item_ids)), np.float32)
        history = histories.read(users[block])
        scores = model.score(history, threads_own.scores[: len(history.lengths)])
        log_sum = logsumexp(scores)
        highest = scores.max(axis=1, keepdims=True, initial=LEAST_SCORE)
        if exclude is not None:
            exclude(block, scores)
        items = model.choose(scores, history, k)
        logits = np.take_along_axis(scores, np.maximum(items, 0), axis=1)
        # A new item gets the score of the item before it in the list, or the highest score if it is
        # first. So the order stays the same if a reader sorts a list by score.
        logits = np.where(logits > LEAST_SCORE, logits, highest)
        logits = np.minimum.accumulate(logits, axis=1)
        return Lists(items, np.where(items < 0, 0.0, np.exp(logits - log_sum)))

    return ordered_map(answer, blocks)


def split_requests(requests: int, columns: int) -> list[slice]:
    """Split requests into chunks, and return the slice of each chunk.

    columns: the number of scores for each request.
    """
    size = min(max(LEAST_CHUNK, CHUNK_SCORES // max(1, columns)), LARGEST_CHUNK)
    return [slice(start, min(start + size, requests)) for start in range(0, requests, size)]


def top_k(scores: Float32, k: int) -> Int32:
    """Return the columns of each row's k largest scores, of shape (rows, k); -1 pads.

    The columns are sorted by falling score, then by rising column.

    The columns are divided into groups. The k-th largest of the groups' maxima is at most the k-th
    largest score, and only the few scores that reach this bound are sorted. With np.argpartition,
    lists by factors alone take three times as long (benchmarks/scoring.py).

    scores: float32 of shape (rows, n), without NaN. A score of -inf is never among the largest.
    """
    rows, n = scores.shape
    best = np.full((rows, k), -1, np.int32)
    size = min(k, n)
    if not (size and rows):
        return best
    maxima = scores
    columns = GROUPS * size
    if n >= 2 * columns:
        whole = n // columns * columns
        maxima = scores[:, :whole].reshape(rows, -1, columns).max(axis=1)
    kth = maxima.shape[1] - size
    bound = np.partition(maxima, kth, axis=1)[:, kth, None]
    bound = np.maximum(bound, LEAST_SCORE)
    row, column = np.divmod(np.flatnonzero(scores >= bound), n)
    # Very many scores may equal the bound. Only the first `size` such scores of a row are sorted.
    ties = np.cumsum(scores[row, column] == bound[row, 0])
    ties_before = np.concatenate([[0], ties])[np.searchsorted(row, np.arange(rows))]
    is_candidate = (scores[row, column] > bound[row, 0]) | (ties - ties_before[row] <= size)
    row, column = row[is_candidate], column[is_candidate]
    order = np.lexsort((column, -scores[row, column], row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    is_best = place < size
    best[row[is_best], place[is_best]] = column[is_best]
    return best


def logsumexp(logits: Float32) -> Float64:
    """Return the log of the sum of the exponentials of each row, of shape (rows, 1).

    Returns zeros if there are no columns.
    """
    if not logits.shape[1]:
        return np.zeros((len(logits), 1))
    highest = logits.max(axis=1, keepdims=True)
    sums = np.empty((len(logits), 1))
    step = max(1, CACHED_SCORES // logits.shape[1])
    for first in range(0, len(logits), step):
        rows = slice(first, first + step)
        exponentials = logits[rows] - highest[rows]
        np.exp(exponentials, out=exponentials)
        sums[rows] = exponentials.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(highest + np.log(sums))
