"""The choice of tested users and held-out interactions, to measure models and popular items.

The split follows Amazon Personalize (developer guide, "Evaluating a solution version with
metrics"). A tenth of the users is not trained on. Lists for these users are made from the oldest
90% of each user's history, and compared with the newest 10%. If there are few users, a larger share
is tested, because a small sample tells little. If there are very many users, a smaller share is
enough.

Hashes of ids decide everything. So a model and popular items are tested on the same users and the
same held-out interactions, wherever they are measured. Each user also stays in the same group, so
that two measurements can be compared group by group.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import numpy.typing as npt
import polars as pl

# The share of a tested user's history from which lists are made.
INPUT_SHARE = 0.9
# The usual and the largest share of users to test.
TESTED_SHARE, LARGEST_SHARE = 0.1, 0.3
# The smallest number of users to test, unless this is more than the largest share.
LEAST_USERS = 400
# The largest number of users to test. With this many, NDCG has a standard error of about 0.002.
MOST_USERS = 10_000
# 100 groups are enough for a t distribution near the normal one, and few enough to store for each
# edition.
GROUPS = 100

Hashes = npt.NDArray[np.uint64]


def hash_ids(ids: pl.Series) -> Hashes:
    """Return (len(ids),) numbers from 0 to 2^32 - 1 that depend on the ids alone."""
    return np.fromiter((crc32(text.encode()) for text in ids), np.uint64, len(ids))


def choose_users(user_ids: pl.Series, lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return (len(user_ids),) whether each user is tested.

    The users with the lowest hashes are tested, at least one user if any can be tested.

    lengths: (len(user_ids),) the number of each user's interactions. A user with fewer than two
        interactions is not tested.
    """
    candidates = np.flatnonzero(lengths >= 2)
    hashes = _mix(hash_ids(user_ids.gather(candidates)), 1)
    ordered = candidates[np.argsort(hashes, kind="stable")]
    size = max(TESTED_SHARE * len(candidates), min(LEAST_USERS, LARGEST_SHARE * len(candidates)))
    is_chosen = np.zeros(len(user_ids), bool)
    is_chosen[ordered[: max(1, round(min(size, MOST_USERS)))]] = True
    return is_chosen


def assign_groups(user_ids: pl.Series) -> npt.NDArray[np.int64]:
    """Return (len(user_ids),) the group of each user, 0 to GROUPS - 1, whether tested or not."""
    return np.asarray(_mix(hash_ids(user_ids), 2) % np.uint64(GROUPS)).astype(np.int64)


def sum_groups(
    groups: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[list[int], list[float]]:
    """Return (GROUPS,) the number of users in each group, and (GROUPS,) the sums of their values.

    The sums are rounded to 6 decimals.
    groups, values: (users,) the group and the measured value of each user.
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
    """Return (n,) the order of the rows by user and time.

    Hashes decide the order of rows of the same user and second. If such rows were ordered by item
    id, the held-out items would be the ones with the highest ids, and models could learn that.

    users: (n,) numbers of the users.
    user_hashes, item_hashes: (n,) the hashes of each row's ids.
    """
    mixed = _mix(user_hashes * np.uint64(0x9E3779B1) + item_hashes, 3)
    return np.lexsort((item_hashes, mixed, times, users))


def mark_inputs(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return (n,) whether each row of the tested users is an input, and so not held out.

    The rows are sorted by user and, within a user, from the oldest to the newest.

    lengths: (users,) the number of rows of each user.
    """
    index = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(index < np.repeat(np.floor(INPUT_SHARE * lengths), lengths))


def _mix(hashes: Hashes, purpose: int) -> Hashes:
    """Mix the hashes into new numbers from 0 to 2^32 - 1, different for each purpose.

    The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable
    pseudorandom number generators", 2014).
    """
    mixed = hashes + np.uint64(purpose * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32))
