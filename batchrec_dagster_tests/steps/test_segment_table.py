"""The table of segments, made a piece at a time, is the one that is made at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.personalize.file_formats import format_segment_line, read_segments
from batchrec_dagster.steps.batch_jobs import split_at_lines
from batchrec_dagster.steps.segment_table import SegmentTable
from batchrec_dagster.storage.published_table import TableWriter

USERS = ["1", "2", "é", "4"]
segments = st.lists(
    st.tuples(st.sampled_from(["10", "11", "12", "ü"]), st.lists(st.sampled_from(USERS))),
    min_size=1,
    unique_by=lambda segment: segment[0],
)


def made(
    lines: list[str], size: int, titles: pl.DataFrame | None
) -> tuple[SegmentTable, pl.DataFrame]:
    content = [f"{line}\n".encode() for line in lines]
    table = SegmentTable(titles)
    with tempfile.TemporaryDirectory() as folder:
        with TableWriter(Path(folder) / "table.parquet") as writer:
            table.write(map(read_segments, split_at_lines(content, size)), writer)
        return table, pl.read_parquet(writer.path)


@pytest.mark.slow
@settings(deadline=None)
@given(asked=segments, size=st.sampled_from([1, 100, 10_000]), with_titles=st.booleans())
def test_by_pieces_of_any_size(
    asked: list[tuple[str, list[str]]], size: int, with_titles: bool
) -> None:
    titles = (
        pl.DataFrame({"item_id": ["10", "11"], "title": ["Ten", None]}) if with_titles else None
    )
    table, written = made(
        [format_segment_line({"itemId": s}, users) for s, users in asked], size, titles
    )
    named = {"10": "Ten"}
    wanted = [
        (segment, *([named.get(segment)] if with_titles else []), rank, user)
        for segment, users in asked
        for rank, user in enumerate(users, start=1)
    ]
    assert written.rows() == wanted
    assert written.columns == ["segment", *(["title"] if with_titles else []), "rank", "user_id"]
    assert table.rows == len(wanted)
    assert table.sample.rows() == wanted[:5]
    assert sorted(table.users) == sorted({user for _, users in asked for user in users})
    assert table.sizes.rows() == [(segment, len(users)) for segment, users in asked if users]
    whole, failed, twice = table.checks([segment for segment, _ in asked], "segments.items")
    assert whole.passed
    assert failed.passed
    assert twice.passed == all(len(users) == len(set(users)) for _, users in asked)


def test_failed_segments_are_reported() -> None:
    lines = [
        format_segment_line({"itemId": "10"}, ["1"]),
        format_segment_line({"itemId": "11"}, [], "User error: no such item"),
        format_segment_line({"itemId": "11"}, []),
    ]
    table, _ = made(lines, 1, None)
    whole, failed, twice = table.checks(["10", "11", "12"], "segments.items")
    assert not whole.passed
    assert "missing: '12'" in whole.finding
    assert "1 of 3 segments failed" in failed.finding
    assert "'11': User error: no such item; fix segments.items" in failed.finding
    assert twice.passed
