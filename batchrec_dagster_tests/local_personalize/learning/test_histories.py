"""Histories, compared with reading them row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import interactions
from batchrec_dagster.local_personalize.learning.interactions import Histories
from batchrec_dagster_tests.local_personalize.learning.support import Row, interactions_of

# Few users, items and moments: repeated items and equal times are everywhere.
rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y", "z", "w"]), st.integers(0, 3)
    ),
    max_size=20,
)
KNOWN = ["y", "x", "z", "never met"]  # a model's items; "w" came later


def list_history(rows_of_users: list[Row], user: str) -> list[tuple[str, float]]:
    """Items and ranks, newest first; at the same second the item id decides the order."""
    latest: dict[str, int] = {}
    for owner, item, moment in rows_of_users:
        if owner == user and item in KNOWN:
            latest[item] = max(moment, latest.get(item, moment))
    order = sorted(latest, key=lambda item: (latest[item], item), reverse=True)
    out = []
    for item in order:
        tied_places = [
            place for place, other_item in enumerate(order) if latest[other_item] == latest[item]
        ]
        out.append((item, sum(tied_places) / len(tied_places)))
    return out


@given(rows, st.lists(st.sampled_from(["a", "b", "c", "nobody"]), max_size=6), st.integers(1, 30))
@settings(deadline=None)
def test_a_history_has_distinct_items_newest_first(
    rows_of_users: list[Row], user_ids: list[str], at_once: int
) -> None:
    lookup = Histories(interactions_of(rows_of_users), np.array(KNOWN, dtype=object))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions, "ROWS_AT_ONCE", at_once)
        history = lookup.of_users(lookup.users(user_ids))
    assert len(history.lengths) == len(user_ids)
    for place, user in enumerate(user_ids):
        own = history.slice(place, place + 1)
        read = [(KNOWN[item], float(rank)) for item, rank in zip(own.items, own.ranks, strict=True)]
        assert read == list_history(rows_of_users, user)
