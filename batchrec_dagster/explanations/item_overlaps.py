"""Explains a recommendation by the item of the user's history whose audience overlaps most.

The measure is the cosine of the two items' sets of users. It is discounted if few users have both,
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

# If this many users have both items, the discount is one half.
DISCOUNT = 10
# This many co-occurrences are counted and looked up at a time, which bounds the memory.
CELLS = 2_000_000
# Two bounds keep the counting of items that share users at about two seconds: the number of users
# that are counted, and the sum over them of the square of their interactions.
MOST_COUNTED = 100_000
MOST_PAIRS = 300_000_000
# Of a group of this many columns, at first only the highest score is compared.
GROUP = 64

Indices = npt.NDArray[np.int64]
"""Columns of the matrix, which stand for items, or other whole numbers of shape (n,)."""


def choose_counted_users(counts: pl.DataFrame, most_pairs: int = MOST_PAIRS) -> pl.Series:
    """The users whose histories are counted: all, or every n-th.

    counts: the columns user_id and interactions, in the order of the ids.
    most_pairs: the bound on the sum of the squares of their interactions.
    """
    pairs = int((counts.get_column("interactions").cast(pl.Int64) ** 2).sum())
    # Minus signs around the division make it round up.
    step = max(-(-pairs // most_pairs), -(-counts.height // MOST_COUNTED), 1)
    return counts.get_column("user_id").gather_every(step)


def build_user_item_matrix(pairs: pl.LazyFrame, items: pl.Series) -> sparse.csr_array:
    """A matrix of shape (users, items), with 1 where the user has the item.

    A column stands for the item at that place of `items`. `pairs` has the columns user_id and item.
    Duplicates, and items that are not in `items`, do not count.
    """
    # scipy is installed with the extra `report`.
    from scipy import sparse

    column = pl.col("item").cast(pl.Enum(items), strict=False).to_physical()
    columns = pairs.select("user_id", column=column).drop_nulls("column").unique()
    entries = columns.collect(engine="streaming")
    users = entries.select(pl.col("user_id").unique()).with_row_index("row")
    entries = entries.join(users, on="user_id").select(pl.col("row", "column").cast(pl.Int32))
    places = tuple(entries.to_numpy().T)
    ones = np.ones(entries.height, np.int32)
    return sparse.csr_array((ones, places), shape=(users.height, len(items)))


def find_best_explanations(
    matrix: sparse.csr_array,
    histories: list[Indices],
    lists: list[Indices],
    *,
    near: int = 0,
    most_items: int = 0,
) -> tuple[list[tuple[Indices, Indices]], dict[int, list[tuple[int, int]]]]:
    """What explains the users' lists best, and the nearest items of the items in most lists.

    The first result has two arrays for each user, as long as the user's list: the item of the
    history that explains a recommendation best, and how many users have both. They are -1 and 0
    where no item does.

    The second has, for each of the `most_items` items in most lists, the `near` items whose
    audiences overlap most with its own, best first, and how many users have both.

    `matrix` is that of `build_user_item_matrix`. `histories` and `lists` have the columns of the
    matrix for each user.
    """
    entries = np.concatenate([*lists, np.empty(0, np.int64)])
    # The entries of all lists in order of item, so that a block of items has adjacent entries.
    by_listed = np.argsort(entries, kind="stable")
    listed, lengths = np.unique(entries, return_counts=True)
    ends = np.cumsum(lengths)
    frequent_items = {*listed[np.argsort(-lengths, kind="stable")[:most_items]].tolist()}
    user_histories = _UserHistories(
        histories, np.repeat(np.arange(len(lists)), [len(history) for history in lists])
    )
    because = np.full(len(entries), -1)
    both = np.zeros(len(entries), np.int64)
    neighbours: dict[int, list[tuple[int, int]]] = {}
    items_done = 0
    overlaps = _OverlapScores(matrix)
    for counts in overlaps.count(listed):
        block = slice(items_done, items_done + len(counts))
        for row, item in enumerate(listed[block].tolist()):
            if item in frequent_items:
                neighbours[item] = find_nearest(counts[row], overlaps.score(counts[row]), near)
        block_entries = by_listed[ends[items_done] - lengths[items_done] : ends[block][-1]]
        rows = np.repeat(np.arange(len(counts)), lengths[block])
        because[block_entries] = user_histories.find_best(block_entries, rows, counts, overlaps)
        both[block_entries] = np.where(
            because[block_entries] < 0, 0, counts[rows, because[block_entries]]
        )
        items_done = block.stop
    bounds = np.cumsum([len(history) for history in lists])[:-1]
    explained = zip(np.split(because, bounds), np.split(both, bounds), strict=True)
    return [*explained][: len(lists)], neighbours


class _OverlapScores:
    """How much the audiences of items overlap.

    The size of an item's own audience would scale all its scores alike, so it is left out.
    """

    def __init__(self, matrix: sparse.csr_array) -> None:
        self._matrix = matrix
        self._audiences = matrix.T.tocsr()
        self._roots = np.sqrt(np.maximum(1, np.diff(self._audiences.indptr)))
        overlaps = np.arange(matrix.shape[0] + 1)
        self._discounted = overlaps * (overlaps / (overlaps + DISCOUNT))

    def count(self, items: Indices) -> Iterator[npt.NDArray[np.int32]]:
        """For blocks of the items, how many users have the item and another.

        The arrays have the shape (items of the block, all items).
        """
        # scipy is installed with the extra `report`.
        from scipy.sparse._sparsetools import csc_matvec

        matrix, audiences = self._matrix, self._audiences
        columns = matrix.shape[1]
        size = max(1, CELLS // max(1, columns))
        bounds = np.column_stack([matrix.indptr[:-1], matrix.indptr[1:]])
        for start in range(0, len(items), size):
            block = items[start : start + size]
            counts = np.zeros((len(block), columns), np.int32)
            for row, item in enumerate(block.tolist()):
                users = audiences.indices[audiences.indptr[item] : audiences.indptr[item + 1]]
                # Taken from the last row to the first, the range from the end of one row to the
                # start of the next is empty, so that only the rows themselves are added.
                ends = bounds[users[::-1]].ravel()
                added = ends, matrix.indices, matrix.data, np.ones(len(ends), np.int32)
                csc_matvec(columns, len(ends) - 1, *added, counts[row])
            # An item does not explain itself.
            counts[np.arange(len(block)), block] = 0
            yield counts

    def score(
        self, counts: npt.NDArray[np.int32], items: Indices | None = None
    ) -> npt.NDArray[np.float64]:
        """The scores for these counts.

        items: the other item of each count; None if there is a count for each item, in order.
        """
        roots = self._roots if items is None else self._roots[items]
        scores: npt.NDArray[np.float64] = self._discounted.take(counts) / roots
        return scores


class _UserHistories:
    """The users' histories one after the other.

    `users` has, for each entry of the lists, the place of its user in `histories`.
    """

    def __init__(self, histories: list[Indices], users: Indices) -> None:
        self._items = np.concatenate([*histories, np.empty(0, np.int64)])
        lengths = np.array([len(history) for history in histories], np.int64)
        self._starts = (np.cumsum(lengths) - lengths)[users]
        self._lengths = lengths[users]
        self._entries_at_once = max(1, CELLS // max([1, *lengths.tolist()]))

    def find_best(
        self,
        entries: Indices,
        rows: Indices,
        counts: npt.NDArray[np.int32],
        overlaps: _OverlapScores,
    ) -> Indices:
        """For each entry the item of the user's history with the highest score; -1 if none has one.

        `rows` has, for each entry, the row of its item in `counts`. That has a column for each
        item.
        """
        best_items = np.full(len(entries), -1)
        entries_with_history = np.flatnonzero(self._lengths[entries])
        for start in range(0, len(entries_with_history), self._entries_at_once):
            part = entries_with_history[start : start + self._entries_at_once]
            best_items[part] = self._find_best(entries[part], rows[part], counts, overlaps)
        return best_items

    def _find_best(
        self,
        entries: Indices,
        rows: Indices,
        counts: npt.NDArray[np.int32],
        overlaps: _OverlapScores,
    ) -> Indices:
        lengths = self._lengths[entries]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        places = np.repeat(self._starts[entries] - starts, lengths) + np.arange(ends[-1])
        items = self._items[places]
        item_scores = overlaps.score(counts[np.repeat(rows, lengths), items], items)
        highest_scores = np.maximum.reduceat(item_scores, starts)
        best_places = np.flatnonzero(item_scores == np.repeat(highest_scores, lengths))
        best_items = items[best_places[np.searchsorted(best_places, starts)]]
        return np.where(highest_scores > 0, best_items, -1)


def find_nearest(
    counts: Indices, scores: npt.NDArray[np.float64], most: int
) -> list[tuple[int, int]]:
    """The `most` columns with the highest scores above 0, best first, and the counts there."""
    # Only a few of thousands of columns are needed. The highest scores of that many groups of
    # columns bound the result from below, so that the rest need not be sorted.
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

    `pairs` has the columns user_id and item.
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
