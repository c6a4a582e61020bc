"""Amazon Personalize's own split of the data, to measure a model by.

Source: developer guide, "Evaluating a solution version with metrics": train on 90 % of the users;
of the other 10 % the oldest 90 % of each history is the input, the newest 10 % the truth. For user
segmentation, 80 % of each user's interactions are trained on and 20 % are the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.interactions import Int32, Interactions

HELD_OUT_SHARE = 0.1
INPUT_SHARE = 0.9
SEGMENT_INPUT_SHARE = 0.8
EARLIER = (0.8, 0.7, 0.6, 0.5)  # shares of the history at which few users are asked too
ENOUGH_TIMES = 600  # users times the times each is asked at


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of rows over the same ids; `users` (held,) are those held out.

    What a held-out user met at one moment is in an order that tells nothing, not by item id.
    """

    train: Interactions
    inputs: Interactions
    truth: Interactions
    users: Int32


def split(
    interactions: Interactions,
    seed: int,
    *,
    without: Int32 | None = None,
    share: float = HELD_OUT_SHARE,
) -> Split | None:
    """Hold out a share of the users with at least two interactions, at least one of them.

    None of `without`, which are user indices, is held out: for a second, disjoint split.
    None when nobody has two, or when nobody would be left to train on.
    """
    lengths = np.diff(interactions.starts)
    candidates = np.flatnonzero(lengths >= 2)
    size = max(1, round(share * len(candidates)))
    if without is not None:
        candidates = np.setdiff1d(candidates, without)
    if np.count_nonzero(lengths) <= size or len(candidates) < size:
        return None
    chosen = np.random.default_rng(seed).choice(candidates, size=size, replace=False)
    return split_users(interactions, np.sort(chosen).astype(np.int32))


def split_users(interactions: Interactions, held: Int32) -> Split:
    """The split that holds out these users, given by index."""
    is_held = np.zeros(len(interactions.user_ids), dtype=bool)
    is_held[held] = True
    out = is_held[interactions.users]
    asked = _ties_scattered(interactions.of(out))
    old = _oldest(asked, INPUT_SHARE)
    return Split(
        train=interactions.of(~out),
        inputs=asked.of(old),
        truth=asked.of(~old),
        users=held,
    )


def split_histories(interactions: Interactions) -> Split | None:
    """The split of segmentation: each user's oldest 80 % are trained on and are the input.

    `users` are all who have something in both halves; None when nobody has.
    """
    old = _oldest(interactions, SEGMENT_INPUT_SHARE)
    train, truth = interactions.of(old), interactions.of(~old)
    users = np.intersect1d(train.users, truth.users).astype(np.int32)
    return Split(train, train, truth, users) if len(users) else None


def asked_often(held_out: Split) -> list[Split]:
    """The split, and if its users are few the same users asked at earlier times of their history.

    That tells models apart as well as more users would.
    """
    times = -(-ENOUGH_TIMES // len(held_out.users)) - 1
    return [held_out, *(asked_earlier(held_out, share) for share in EARLIER[:times])]


def asked_earlier(held_out: Split, share: float) -> Split:
    """The same users at an earlier time: the oldest share of each history is the input, the
    tenth after it, of one interaction at least, is the truth; `share` is 0.8 at most."""
    data = held_out.inputs
    whole = np.diff(data.starts) + np.diff(held_out.truth.starts)
    first = np.floor(share * whole)
    last = first + np.maximum(1, np.floor(0.1 * whole))
    age = np.arange(len(data)) - data.starts[data.users]
    old, following = age < first[data.users], age < last[data.users]
    return Split(held_out.train, data.of(old), data.of(~old & following), held_out.users)


def _ties_scattered(interactions: Interactions) -> Interactions:
    """What a user met at one moment in an order that tells nothing, the same each time.

    By item id the truth would be the highest ids of a moment, which a model could learn from the
    order of ids in other histories and seem to foretell. The numbers are those of the last steps
    of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    users, items, times = interactions.users, interactions.items, interactions.timestamps
    mixed = users.astype(np.uint64) << np.uint64(32) | items.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> np.uint64(shift)) * np.uint64(factor)
    order = np.lexsort((mixed ^ mixed >> np.uint64(31), times, users))
    return Interactions(
        interactions.user_ids, interactions.item_ids, users[order], items[order], times[order]
    )


def _oldest(interactions: Interactions, share: float) -> npt.NDArray[np.bool_]:
    """(n,): whether an interaction is in the oldest share of its user's, rounded down."""
    age = np.arange(len(interactions)) - interactions.starts[interactions.users]
    oldest = np.floor(share * np.diff(interactions.starts)).astype(np.int64)
    return np.asarray(age < oldest[interactions.users])


def matrix_rows(interactions: Interactions, users: Int32) -> npt.NDArray[np.int64]:
    """(n,): for each interaction the place of its user in `users`, which are in rising order."""
    return np.searchsorted(users, interactions.users)
