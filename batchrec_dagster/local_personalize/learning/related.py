"""The model of aws-sims and aws-similar-items: items that the same users interacted with.

The similarity of item j to item i is the number of users who have both, over the number of users
of j to a power. Few users can be chance, so they count less. Source: Sarwar et al., "Item-based
collaborative filtering recommendation algorithms" (WWW 2001); Deshpande, Karypis, "Item-based top-N
recommendation algorithms" (TOIS 2004).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_matrix, vstack

from .interactions import Float32, History, Ids, Int32, find_positions
from .ranking import keep_most_recent, top_k, top_k_per_row
from .serving import Exclude, RecommendedLists, UserModel, chunk_size
from .store import (
    Arrays,
    pack_ids,
    pack_matrix,
    save_arrays,
    unpack_distinct_ids,
    unpack_matrix,
)
from .threads import ordered_map

POPULARITY_DISCOUNT = 0.5  # default of aws-sims' popularity_discount_factor
MIN_COINTERACTIONS = 3  # default of its min_cointeraction_count
FEW_USERS = 10  # if so many users have both items, their number counts one half
NEIGHBORS = 500  # similar items that are kept of each item
BLOCK_COUNTS = 4 << 20  # counts of pairs in memory at once, on each core


@dataclass(frozen=True)
class RelatedItemsModel:
    """Finds items that share users with a given item, then popular items."""

    kind: ClassVar[str] = "related-items"

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    weights: csr_matrix
    """(n_items, n_items) float32 above 0: a row is the item of a request, a column is similar."""

    def similar(
        self, item_ids: Sequence[str], num_results: int, *, exclude: Exclude | None = None
    ) -> Iterator[RecommendedLists]:
        """Yield the lists of similar items in chunks, in the order of the given items.

        An item itself is never in its list. Popular items follow when too few are similar, and are
        the list of an unknown item. Scores are 0. Lists that run out of items are padded with item
        -1.

        num_results: the length of each list.
        exclude: removes items from the lists.
        """
        queries = find_positions(self.item_ids, item_ids)
        size = chunk_size(len(self.item_ids))

        def chunk(start: int) -> RecommendedLists:
            block = slice(start, start + size)
            scores = self.similarities(queries[block])
            if exclude is not None:
                exclude(block, scores)
            items = top_k(scores, num_results)
            return RecommendedLists(items, np.zeros(items.shape))

        return ordered_map(chunk, range(0, len(queries), size))

    def similarities(self, items: Int32) -> Float32:
        """(len(items), n_items): the similarity of all items to each of the given ones.

        It is -inf for an item itself.

        items: item indices; the similarities to -1, an unknown item, are 0.
        """
        rows = np.flatnonzero(items >= 0)
        # Items that are not similar tie at 0, and ties go to the more popular.
        scores = np.zeros((len(items), len(self.item_ids)), dtype=np.float32)
        scores[rows] = self.weights[items[rows]].toarray()
        scores[rows, items[rows]] = -np.inf
        return scores

    def save(self, folder: Path) -> None:
        arrays = {**pack_ids(self.item_ids), **pack_matrix(self.weights)}
        save_arrays(folder, self.kind, arrays, {})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> RelatedItemsModel:
        """The model that was saved. Raises KeyError, or ValueError that names the file."""
        item_ids, weights = unpack_distinct_ids(arrays), unpack_matrix(arrays)
        if weights.shape[0] != len(item_ids):
            raise ValueError(
                f"indptr.npy is of {weights.shape[0]} items, but there are {len(item_ids)}"
            )
        return cls(item_ids, weights)


class LastItemRecommender(UserModel):
    """Recommends to users the items related to their last one: used to evaluate related items."""

    def __init__(self, model: RelatedItemsModel) -> None:
        self._model = model
        self.item_ids = model.item_ids

    def score(self, history: History) -> Float32:
        """(users, n_items) similarities; every user must have an interaction."""
        return self._model.similarities(history.items[history.starts[:-1]])


def fit(
    matrix: csr_matrix,
    *,
    discount: float = POPULARITY_DISCOUNT,
    min_cointeractions: int = MIN_COINTERACTIONS,
) -> csr_matrix:
    """Similarities (n_items, n_items) float32: users of both items, over users(column)^discount.

    c users of both count as c² / (c + FEW_USERS).

    An item keeps its NEIGHBORS largest similarities; of equal ones those of the lower columns.

    matrix: (users, n_items) of ones, the entries of a row from new to old. Of long histories only
        the newest entries are paired (`ranking.keep_most_recent`).
    discount: how much less similar popular items are.
    min_cointeractions: how many users a pair of items needs.
    """
    n = matrix.shape[1]
    divisor = np.maximum(np.bincount(matrix.indices, minlength=n), 1) ** discount
    divisor = divisor.astype(np.float32)
    paired = keep_most_recent(matrix)
    by_item = paired.T.tocsr()

    def rows(block: slice) -> csr_matrix:
        counts = by_item[block] @ paired
        row_item = np.repeat(np.arange(block.start, block.stop), np.diff(counts.indptr))
        is_itself = counts.indices == row_item
        counts.data[(counts.data < min_cointeractions) | is_itself] = 0
        counts.data *= counts.data / (counts.data + np.float32(FEW_USERS))
        counts.data /= divisor[counts.indices]
        return top_k_per_row(counts, NEIGHBORS)

    step = max(1, BLOCK_COUNTS // max(1, n))
    blocks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    weights: csr_matrix = vstack(list(ordered_map(rows, blocks)), format="csr", dtype=np.float32)
    weights.sort_indices()
    return weights
