"""Selects the components of a blend on a sample, where the data are large.

Half of a training was spent on components that the blend then did without. So above MAX_ROWS
interactions or MAX_ITEMS items, components and recency exponents are selected on some of the users,
with all of their history, and the most popular items. Fewer items make up for fewer users. What is
selected is fitted on all users but the held-out ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .evaluation import Split
from .interactions import Interactions

MAX_ROWS = 3_000_000  # interactions; up to these, no user is left out
MAX_ITEMS = 100_000  # with interactions; each is scored for each user, and keeps weights
SAMPLE_ROWS = 1_000_000
SAMPLE_ITEMS = 6_000
MIN_SAMPLE_USERS = 5_000
MAX_SAMPLE_SHARE = 0.5  # a sample of more users would save too little


def is_large(interactions: Interactions) -> bool:
    """Whether the components are selected on a sample, of users or of items alone."""
    if np.count_nonzero(interactions.item_counts) > MAX_ITEMS:
        return True
    return len(interactions) > MAX_ROWS and sample_share(interactions) <= MAX_SAMPLE_SHARE


def sample_share(interactions: Interactions) -> float:
    """The share of the users that makes about SAMPLE_ROWS, and at least MIN_SAMPLE_USERS."""
    users = int(np.count_nonzero(np.diff(interactions.starts)))
    return max(SAMPLE_ROWS / max(1, len(interactions)), MIN_SAMPLE_USERS / max(1, users))


def sample(held_out: Split, seed: int) -> Split:
    """The split with a part of the users to train on, chosen by the seed, and their popular items.

    The held-out users stay the same.
    """
    train = held_out.train
    is_sampled = np.random.default_rng(seed).random(len(train.user_ids)) < sample_share(train)
    sampled = train.filter(is_sampled[train.users])
    popular = np.sort(np.argsort(-sampled.item_counts, kind="stable")[:SAMPLE_ITEMS])
    return replace(
        held_out,
        train=_select_items(sampled, popular),
        inputs=_select_items(held_out.inputs, popular),
        truth=_select_items(held_out.truth, popular),
    )


def _select_items(interactions: Interactions, items: npt.NDArray[np.intp]) -> Interactions:
    """The interactions with the items of these sorted indices."""
    new_index = np.full(len(interactions.item_ids), -1, dtype=np.int32)
    new_index[items] = np.arange(len(items), dtype=np.int32)
    rows = interactions.filter(new_index[interactions.items] >= 0)
    ids = interactions.item_ids[items]
    return replace(rows, item_ids=ids, items=new_index[rows.items])
