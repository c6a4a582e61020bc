"""Interactions, compared with a plain sort of the rows."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import interactions
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster_tests.local_personalize.learning.support import SCHEMA, Row

ids = st.sampled_from(["a", "b", "ü", "10", "9", "long " * 50])
rows = st.lists(st.tuples(ids, ids, st.integers(-3, 3)), max_size=30)


def read(data: Interactions) -> list[Row]:
    """The rows, with their ids."""
    return [
        (str(data.user_ids[user]), str(data.item_ids[item]), int(moment))
        for user, item, moment in zip(data.users, data.items, data.timestamps, strict=True)
    ]


@given(rows, st.integers(1, 40))
@settings(deadline=None)
def test_rows_are_sorted_by_user_time_and_item(given_rows: list[Row], at_once: int) -> None:
    frame = pl.DataFrame(given_rows, schema=SCHEMA, orient="row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions, "SORTED_AT_ONCE", at_once)
        data = Interactions.from_frame(frame)
    assert read(data) == sorted(given_rows, key=lambda row: (row[0], row[2], row[1]))
    assert data.user_ids.tolist() == sorted({user for user, _, _ in given_rows})
    assert data.item_ids.tolist() == sorted({item for _, item, _ in given_rows})


def test_a_lazy_frame_gives_the_same_interactions(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        [("u2", "i1", 5), ("u1", "i2", 7), ("u1", "i1", 7)], schema=SCHEMA, orient="row"
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    lazy = Interactions.from_frame(pl.scan_parquet(tmp_path / "rows.parquet"))
    assert read(lazy) == read(Interactions.from_frame(frame))
    assert read(lazy) == [("u1", "i1", 7), ("u1", "i2", 7), ("u2", "i1", 5)]
