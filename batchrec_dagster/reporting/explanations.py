"""Explains a recommendation by the item of the user's history whose audience overlaps most.

The measure is the cosine of the two items' sets of users, discounted where few users have both,
because few can be chance. It shows association, not the model's reasoning.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

if TYPE_CHECKING:
    from scipy import sparse

# At this many common users, the discount is one half.
DISCOUNT = 10
# Items whose co-occurrences are counted at a time, to bound the memory.
BLOCK = 256

Indices = npt.NDArray[np.int64]


def user_item_matrix(pairs: pl.LazyFrame, items: pl.Series) -> sparse.csr_array:
    """A row for each user and a column for each of the items, in order: 1 where the user has it.

    pairs: user_id, item; duplicates and other items do not count.
    """
    from scipy import sparse  # of an extra

    numbers = items.alias("item").to_frame().with_row_index("column").lazy()
    found = pairs.join(numbers, on="item").unique().collect(engine="streaming")
    users = found.select(pl.col("user_id").unique()).with_row_index("row")
    found = found.join(users, on="user_id")
    places = (found.get_column("row").to_numpy(), found.get_column("column").to_numpy())
    shape = (users.height, len(items))
    return sparse.csr_array((np.ones(found.height, np.int32), places), shape=shape)


def best_explanations(
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
    found = [(np.full(len(items), -1), np.zeros(len(items), np.int64)) for items in lists]
    wanted: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for user, items in enumerate(lists):
        for place, item in enumerate(items):
            wanted[int(item)].append((user, place))
    users_of = np.maximum(1, np.asarray(matrix.sum(axis=0)))
    by_item = matrix.T.tocsr()
    both = np.zeros(matrix.shape[1], np.int64)
    listed = sorted(wanted)
    often = {*sorted(wanted, key=lambda item: -len(wanted[item]))[:most_items]}
    neighbours: dict[int, list[tuple[int, int]]] = {}
    for start in range(0, len(listed), BLOCK):
        block = listed[start : start + BLOCK]
        rows = by_item[block] @ matrix
        for place, item in enumerate(block):
            row = slice(*rows.indptr[place : place + 2])
            both[rows.indices[row]] = rows.data[row]
            both[item] = 0  # An item does not explain itself.
            for user, at in wanted[item]:
                history = histories[user]
                if not len(history):
                    continue
                shared = both[history]
                # The recommended item's own audience scales all scores alike: left out.
                scores = shared / np.sqrt(users_of[history]) * (shared / (shared + DISCOUNT))
                best = scores.argmax()
                if shared[best]:
                    found[user][0][at], found[user][1][at] = history[best], shared[best]
            both[rows.indices[row]] = 0
            if item in often:
                overlap = rows.indices[row], rows.data[row]
                neighbours[item] = _nearest(item, *overlap, users_of, near)
    return found, neighbours


def _nearest(
    item: int, others: Indices, both: Indices, users_of: Indices, most: int
) -> list[tuple[int, int]]:
    """The other columns whose audiences overlap most with the item's, and how many users have both,
    best first.

    others: the columns that share users; both: how many; users_of: the users of each column.
    """
    scores = both / np.sqrt(users_of[others]) * (both / (both + DISCOUNT))
    scores[others == item] = 0  # It is not its own neighbour.
    # Of thousands only a few are wanted.
    least = np.partition(scores, -most)[-most] if len(scores) > most else 0.0
    high = np.flatnonzero(scores >= least)
    best = high[np.argsort(-scores[high], kind="stable")[:most]]
    return [(int(others[at]), int(both[at])) for at in best if scores[at]]


def similar_items(pairs: pl.LazyFrame, item: str, most: int) -> list[tuple[str, int]]:
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
