"""Tests that counting interactions in pieces gives the counts of all interactions at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.preparation import counting as module
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.row_rules import InteractionCounts

rows = st.tuples(
    st.sampled_from(["1", "2", "é", "4"]),
    st.sampled_from("abc"),
    st.integers(0, 99),
    st.sampled_from(["view", "buy"]),
)


@settings(deadline=None)
@given(rows=st.lists(rows, max_size=40), piece=st.integers(1, 5))
def test_counts(rows: list[tuple[str, str, int, str]], piece: int) -> None:
    schema = {
        "USER_ID": pl.String,
        "ITEM_ID": pl.String,
        "TIMESTAMP": pl.Int64,
        "EVENT_TYPE": pl.String,
    }
    frame = pl.LazyFrame(rows, schema=schema, orient="row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_ROWS", piece)
        counts = count_rows(frame)
    users = Counter(row[0] for row in rows)
    times = [row[2] for row in rows]
    assert replace(counts, digest="") == InteractionCounts(
        users=len(users),
        users_with_two=sum(count > 1 for count in users.values()),
        items=len({row[1] for row in rows}),
        earliest=min(times, default=None),
        latest=max(times, default=None),
        event_types=len({row[3] for row in rows}),
        events=Counter(row[3] for row in rows),
    )


def test_the_digest_changes_with_the_rows_but_not_with_their_order() -> None:
    frame = pl.DataFrame({"USER_ID": ["a", "b", "b"], "ITEM_ID": ["x", "x", "y"], "TIMESTAMP": 1})
    rows = frame.with_columns(EVENT_VALUE=pl.Series([None, "1", "2"]))
    variants = [
        *(rows, rows.reverse(), rows.head(2), pl.concat([rows, rows.head(1)])),
        *(rows.with_columns(USER_ID="ITEM_ID", ITEM_ID="USER_ID"), rows.drop("EVENT_VALUE")),
    ]
    digest, *digests = (count_rows(variant.lazy()).digest for variant in variants)
    assert digests[0] == digest
    assert len({digest, *digests}) == len(variants) - 1
