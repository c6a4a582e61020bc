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
# Rows of co-occurrence counts at a time: what they take stays small beside the data.
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
    users_of = np.asarray(counted.sum(axis=0)).astype(np.float64)
    of_item = counted.T.tocsr()
    listed = sorted(wanted)
    for start in range(0, len(listed), BLOCK):
        block = listed[start : start + BLOCK]
        together = (of_item[block] @ counted).toarray()
        for item, both in zip(block, together, strict=True):
            both[item] = 0  # An item says nothing of itself.
            size = np.sqrt(np.maximum(1, users_of[item] * users_of))
            scores = both / size * (both / (both + DISCOUNT))
            for user, place in wanted[item]:
                history = histories[user]
                if not len(history):
                    continue
                best = history[scores[history].argmax()]
                if both[best]:
                    found[user][0][place], found[user][1][place] = best, both[best]
    return found
