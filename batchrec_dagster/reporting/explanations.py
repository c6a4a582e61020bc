"""Explains a recommendation by the item of the user's history whose audience overlaps most.

The measure is the cosine of the two items' sets of users, discounted where few users have both,
because few can be chance. It shows association, not the model's reasoning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

if TYPE_CHECKING:
    from scipy import sparse

# At this many common users, the discount is one half.
DISCOUNT = 10
# How many co-occurrences are counted, and looked up, at a time, to bound the memory.
CELLS = 2_000_000
# Columns of which only the highest score is compared at first.
GROUP = 64

Indices = npt.NDArray[np.int64]


def build_user_item_matrix(pairs: pl.LazyFrame, items: pl.Series) -> sparse.csr_array:
    """A row for each user and a column for each of the items, in order: 1 where the user has it.

    pairs: user_id, item; duplicates and other items do not count.
    """
    from scipy import sparse  # of an extra

    column = pl.col("item").cast(pl.Enum(items), strict=False).to_physical()
    known = pairs.select("user_id", column=column).drop_nulls("column").unique()
    found = known.collect(engine="streaming")
    users = found.select(pl.col("user_id").unique()).with_row_index("row")
    found = found.join(users, on="user_id").select(pl.col("row", "column").cast(pl.Int32))
    places, shape = tuple(found.to_numpy().T), (users.height, len(items))
    return sparse.csr_array((np.ones(found.height, np.int32), places), shape=shape)


def find_best_explanations(
    matrix: sparse.csr_array,
    histories: list[Indices],
    lists: list[Indices],
    *,
    near: int = 0,
    most_items: int = 0,
) -> tuple[list[tuple[Indices, Indices]], dict[int, list[tuple[int, int]]]]:
    """For each user, two arrays as long as their list: the item of the history that explains each
    recommendation best, and how many users have both; -1 and 0 where no item does. And for each of
    the `most_items` items in most lists, the `near` items whose audiences overlap most with its,
    and how many users have both, best first.

    matrix: of user_item_matrix; histories, lists: columns of the matrix for each user.
    """
    entries = np.concatenate([*lists, np.empty(0, np.int64)])
    by_listed = np.argsort(entries, kind="stable")
    listed, lengths = np.unique(entries, return_counts=True)
    ends = np.cumsum(lengths)
    frequent_items = {*listed[np.argsort(-lengths, kind="stable")[:most_items]].tolist()}
    user_histories = _UserHistories(
        histories, np.repeat(np.arange(len(lists)), [len(history) for history in lists])
    )
    because, both = np.full(len(entries), -1), np.zeros(len(entries), np.int64)
    neighbours: dict[int, list[tuple[int, int]]] = {}
    items_done = 0
    for counts, scores in _count_overlaps(matrix, listed):
        block = slice(items_done, items_done + len(counts))
        for row, item in enumerate(listed[block].tolist()):
            if item in frequent_items:
                neighbours[item] = find_nearest(counts[row], scores[row], near)
        block_entries = by_listed[ends[items_done] - lengths[items_done] : ends[block][-1]]
        rows = np.repeat(np.arange(len(counts)), lengths[block])
        because[block_entries] = user_histories.find_best(block_entries, rows, scores)
        both[block_entries] = np.where(
            because[block_entries] < 0, 0, counts[rows, because[block_entries]]
        )
        items_done = block.stop
    bounds = np.cumsum([len(history) for history in lists])[:-1]
    explained = zip(np.split(because, bounds), np.split(both, bounds), strict=True)
    return [*explained][: len(lists)], neighbours


def _count_overlaps(
    matrix: sparse.csr_array, items: Indices
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]]:
    """Blocks with a row for each of the items and a column for every one: how many users have both,
    and the score. The item's own audience scales its scores alike, and is left out."""
    from scipy.sparse._sparsetools import csc_matvec  # of an extra

    columns, audiences = matrix.shape[1], matrix.T.tocsr()
    roots = np.sqrt(np.maximum(1, np.diff(audiences.indptr)))
    overlaps = np.arange(matrix.shape[0] + 1)
    discounted = overlaps * (overlaps / (overlaps + DISCOUNT))
    size = max(1, CELLS // max(1, columns))
    bounds = np.column_stack([matrix.indptr[:-1], matrix.indptr[1:]])
    for start in range(0, len(items), size):
        block = items[start : start + size]
        counts = np.zeros((len(block), columns), np.int32)
        for row, item in enumerate(block.tolist()):
            users = audiences.indices[audiences.indptr[item] : audiences.indptr[item + 1]]
            # From the last row to the first, what is between two of them is empty.
            ends = bounds[users[::-1]].ravel()
            added = ends, matrix.indices, matrix.data, np.ones(len(ends), np.int32)
            csc_matvec(columns, len(ends) - 1, *added, counts[row])
        counts[np.arange(len(block)), block] = 0  # An item does not explain itself.
        scores = discounted.take(counts)
        scores /= roots
        yield counts, scores


class _UserHistories:
    """The users' histories one after the other. users: of each entry of the lists."""

    def __init__(self, histories: list[Indices], users: Indices) -> None:
        self._items = np.concatenate([*histories, np.empty(0, np.int64)])
        lengths = np.array([len(one) for one in histories], np.int64)
        self._starts, self._lengths = (np.cumsum(lengths) - lengths)[users], lengths[users]
        self._entries_at_once = max(1, CELLS // max([1, *lengths.tolist()]))

    def find_best(
        self, entries: Indices, rows: Indices, scores: npt.NDArray[np.float64]
    ) -> Indices:
        """The item of the user's history with the highest score for each entry; -1 if none has one.

        rows: of `scores`, which has a column for each item, for each entry.
        """
        best_items = np.full(len(entries), -1)
        entries_with_history = np.flatnonzero(self._lengths[entries])
        for start in range(0, len(entries_with_history), self._entries_at_once):
            part = entries_with_history[start : start + self._entries_at_once]
            best_items[part] = self._find_best(entries[part], rows[part], scores)
        return best_items

    def _find_best(
        self, entries: Indices, rows: Indices, scores: npt.NDArray[np.float64]
    ) -> Indices:
        lengths = self._lengths[entries]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        places = np.repeat(self._starts[entries] - starts, lengths) + np.arange(ends[-1])
        items = self._items[places]
        item_scores = scores[np.repeat(rows, lengths), items]
        highest_scores = np.maximum.reduceat(item_scores, starts)
        best_places = np.flatnonzero(item_scores == np.repeat(highest_scores, lengths))
        best_items = items[best_places[np.searchsorted(best_places, starts)]]
        return np.where(highest_scores > 0, best_items, -1)


def find_nearest(
    counts: Indices, scores: npt.NDArray[np.float64], most: int
) -> list[tuple[int, int]]:
    """The columns with the highest scores, and the counts there, best first; none without one."""
    # Of thousands only a few are wanted: as many groups of columns have one at least so high.
    groups = len(scores) // GROUP
    lowest_score = 0.0
    if 0 < most <= groups:
        tops = scores[: groups * GROUP].reshape(groups, GROUP).max(axis=1)
        lowest_score = np.partition(tops, -most)[-most]
    candidates = np.flatnonzero((scores >= lowest_score) & (scores > 0))
    best = candidates[np.argsort(-scores[candidates], kind="stable")[:most]]
    return [*zip(best.tolist(), counts[best].tolist(), strict=True)]


def find_similar_items(pairs: pl.LazyFrame, item: str, most: int) -> list[tuple[str, int]]:
    """The items whose audiences overlap most with the item's, and how many users have both.

    pairs: user_id, item.
    """
    users = pl.col("user_id").n_unique()
    audience = pairs.filter(pl.col("item") == item).select("user_id").unique()
    both = pairs.join(audience, on="user_id", how="semi").group_by("item").agg(both=users)
    shared = pl.col("both")
    return (
        pairs.group_by("item")
        .agg(users=users)
        .join(both, on="item")
        .filter(pl.col("item") != item)
        .with_columns(overlap=shared / pl.col("users").sqrt() * shared / (shared + DISCOUNT))
        .sort("overlap", "item", descending=[True, False])
        .head(most)
        .select("item", "both")
        .collect(engine="streaming")
        .rows()
    )
