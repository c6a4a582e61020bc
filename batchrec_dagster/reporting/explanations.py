"""Which item of a user's history speaks most for an item of their list: numbers only.

Two items speak for one another when the same users have both. The measure is the cosine of their
sets of users, discounted where few users have both, as chance plays a part there.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
from scipy import sparse

# So many common users count half as much as any number of them.
DISCOUNT = 10
# Items at a time whose co-occurrences are counted: what they take stays small beside the data.
BLOCK = 256

Indices = npt.NDArray[np.int64]


def strongest(
    counted: sparse.csr_array, histories: list[Indices], lists: list[Indices]
) -> list[tuple[Indices, Indices]]:
    """For each user and each item of their list, the item of their history that speaks most for
    it and how many users have both; -1 and 0 where nothing does.

    counted: a row for each user counted and a column for each item, 1 where the user has it;
    histories, lists: for each user asked about, columns of `counted`.
    """
    found = [(np.full(len(items), -1), np.zeros(len(items), np.int64)) for items in lists]
    wanted: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for user, items in enumerate(lists):
        for place, item in enumerate(items):
            wanted[int(item)].append((user, place))
    users_of = np.maximum(1, np.asarray(counted.sum(axis=0)))
    of_item = counted.T.tocsr()
    both = np.zeros(counted.shape[1], np.int64)
    listed = sorted(wanted)
    for start in range(0, len(listed), BLOCK):
        block = listed[start : start + BLOCK]
        rows = of_item[block] @ counted
        for place, item in enumerate(block):
            row = slice(*rows.indptr[place : place + 2])
            both[rows.indices[row]] = rows.data[row]
            both[item] = 0  # An item says nothing of itself.
            for user, at in wanted[item]:
                history = histories[user]
                if not len(history):
                    continue
                shared = both[history]
                # The size of the item's own set is the same for all of them.
                scores = shared / np.sqrt(users_of[history]) * (shared / (shared + DISCOUNT))
                best = scores.argmax()
                if shared[best]:
                    found[user][0][at], found[user][1][at] = history[best], shared[best]
            both[rows.indices[row]] = 0
    return found
