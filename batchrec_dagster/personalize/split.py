"""Who is tested and what is held out, when a model or popular items are measured.

As Amazon Personalize does (developer guide, "Evaluating a solution version with metrics"), a tenth
of the users is not trained on; the oldest 90 % of each of their histories is what lists are made
from, and the newest 10 % is what the lists are compared with. Of few users more are tested, since
few tell little apart; of very many, fewer are enough.

Everything is decided by hashes of ids. So a model and popular items are tested on the same users
and what they chose, wherever they are measured, and users stay in their groups, by which two
measurements are compared.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import numpy.typing as npt
import polars as pl

INPUT_SHARE = 0.9  # of a tested user's history
TESTED_SHARE, LARGEST_SHARE = 0.1, 0.3  # of the users
LEAST_USERS = 400  # if they are at most the largest share
MOST_USERS = 10_000  # with whom NDCG has a standard error of about 0.002
# Enough groups for a t distribution near the normal one, and few enough to store for each edition.
GROUPS = 100

Hashes = npt.NDArray[np.uint64]


def hash_ids(ids: pl.Series) -> Hashes:
    """(len(ids),) numbers from 0 to 2^32 - 1, which depend on nothing but the id."""
    return np.fromiter((crc32(text.encode()) for text in ids), np.uint64, len(ids))


def choose_users(user_ids: pl.Series, lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """(len(user_ids),) whether each user is tested: those with the lowest hashes, at least one.

    lengths: (len(user_ids),) how many interactions each has. One with fewer than two is not tested.
    """
    candidates = np.flatnonzero(lengths >= 2)
    hashes = _mix(hash_ids(user_ids.gather(candidates)), 1)
    ordered = candidates[np.argsort(hashes, kind="stable")]
    size = max(TESTED_SHARE * len(candidates), min(LEAST_USERS, LARGEST_SHARE * len(candidates)))
    is_chosen = np.zeros(len(user_ids), bool)
    is_chosen[ordered[: max(1, round(min(size, MOST_USERS)))]] = True
    return is_chosen


def assign_groups(user_ids: pl.Series) -> npt.NDArray[np.int64]:
    """(len(user_ids),) the group of each user, 0 to GROUPS - 1, whether tested or not."""
    return np.asarray(_mix(hash_ids(user_ids), 2) % np.uint64(GROUPS)).astype(np.int64)


def sum_groups(
    groups: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[list[int], list[float]]:
    """(GROUPS,) how many of these users each group has, and the sum of their values.

    groups, values: (users,) the group of each user, and what was measured.
    """
    users = np.bincount(groups, minlength=GROUPS)
    sums = np.bincount(groups, values, minlength=GROUPS)
    return users.tolist(), sums.round(6).tolist()


def order_rows(
    users: npt.NDArray[np.integer],
    times: npt.NDArray[np.integer],
    user_hashes: Hashes,
    item_hashes: Hashes,
) -> npt.NDArray[np.intp]:
    """(n,) the order of rows by user and time.

    Rows of the same user and second are in an order that their hashes decide. By item id, what is
    held out would be the highest ids of a second, which models could learn.

    users: (n,) numbers of the users.
    user_hashes, item_hashes: (n,) the hashes of each row's ids.
    """
    mixed = _mix(user_hashes * np.uint64(0x9E3779B1) + item_hashes, 3)
    return np.lexsort((item_hashes, mixed, times, users))


def mark_inputs(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """(n,) whether each of the rows of tested users, oldest first within a user, is not held out.

    lengths: (users,) how many rows each has.
    """
    index = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(index < np.repeat(np.floor(INPUT_SHARE * lengths), lengths))


def _mix(hashes: Hashes, purpose: int) -> Hashes:
    """Numbers from 0 to 2^32 - 1, as if hashed again: the finalizer of SplitMix64 (Steele, Lea,
    Flood, "Fast splittable pseudorandom number generators", 2014)."""
    mixed = hashes + np.uint64(purpose * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32))
