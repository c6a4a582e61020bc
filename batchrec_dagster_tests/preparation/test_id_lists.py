"""Tests of files that list the users who get recommendations."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.personalize.formats import MAX_INPUT_BYTES
from batchrec_dagster.preparation.file_form import PreparationError
from batchrec_dagster.preparation.id_lists import list_distinct_users, require_within_limits


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.text(min_size=1, max_size=3), st.integers(0, 9)), min_size=1))
def test_users_are_distinct_and_in_the_order_of_their_bytes(rows: list[tuple[str, int]]) -> None:
    rows = [(user.encode("utf-8", "replace").decode(), time) for user, time in rows]
    frame = pl.LazyFrame(rows, schema={"USER_ID": pl.String, "TIMESTAMP": pl.Int64}, orient="row")
    for since in (None, 5):
        expected_ids = {user for user, time in rows if time >= (since or 0)}
        user_ids = list_distinct_users(frame, since).get_column("userId").to_list()
        assert user_ids == sorted(expected_ids, key=str.encode)


def test_more_users_than_a_job_takes_are_refused() -> None:
    require_within_limits(50_000_000, MAX_INPUT_BYTES)
    with pytest.raises(PreparationError, match=r"7 users are 1.00 GB .* batch_users.active_since"):
        require_within_limits(7, MAX_INPUT_BYTES + 1)
    with pytest.raises(PreparationError, match=r"takes 1 GB and 50,000,000 users"):
        require_within_limits(50_000_001, MAX_INPUT_BYTES)
