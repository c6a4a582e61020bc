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


def plainly(found: list[Row], user: str) -> list[tuple[str, float]]:
    """Items and ranks, newest first; at the same second the item id decides the order."""
    latest: dict[str, int] = {}
    for owner, item, moment in found:
        if owner == user and item in KNOWN:
            latest[item] = max(moment, latest.get(item, moment))
    order = sorted(latest, key=lambda item: (latest[item], item), reverse=True)
    out = []
    for item in order:
        same = [place for place, other in enumerate(order) if latest[other] == latest[item]]
        out.append((item, sum(same) / len(same)))
    return out


@given(rows, st.lists(st.sampled_from(["a", "b", "c", "nobody"]), max_size=6), st.integers(1, 30))
@settings(deadline=None)
def test_a_history_has_distinct_items_newest_first(
    found: list[Row], asked: list[str], at_once: int
) -> None:
    lookup = Histories(interactions_of(found), np.array(KNOWN, dtype=object))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions, "ROWS_AT_ONCE", at_once)
        history = lookup.of_users(lookup.users(asked))
    assert len(history.lengths) == len(asked)
    for place, user in enumerate(asked):
        own = history.slice(place, place + 1)
        read = [(KNOWN[item], float(rank)) for item, rank in zip(own.items, own.ranks, strict=True)]
        assert read == plainly(found, user)
