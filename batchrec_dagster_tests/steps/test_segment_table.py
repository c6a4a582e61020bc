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
from batchrec_dagster.storage.list_file import ListWriter

USERS = ["1", "2", "é", "4"]
segments = st.lists(
    st.tuples(st.sampled_from(["10", "11", "12", "ü"]), st.lists(st.sampled_from(USERS))),
    min_size=1,
    unique_by=lambda segment: segment[0],
)


def build_table(
    lines: list[str], size: int, titles: pl.DataFrame | None
) -> tuple[SegmentTable, pl.DataFrame]:
    content = [f"{line}\n".encode() for line in lines]
    table = SegmentTable(titles)
    with tempfile.TemporaryDirectory() as folder:
        with ListWriter(Path(folder) / "table.parquet") as writer:
            table.write(map(read_segments, split_at_lines(content, size)), writer)
        return table, pl.read_parquet(writer.path)


@pytest.mark.slow
@settings(deadline=None)
@given(answers=segments, size=st.sampled_from([1, 100, 10_000]), has_titles=st.booleans())
def test_by_pieces_of_any_size(
    answers: list[tuple[str, list[str]]], size: int, has_titles: bool
) -> None:
    titles = pl.DataFrame({"item_id": ["10", "11"], "title": ["Ten", None]}) if has_titles else None
    table, rows_written = build_table(
        [format_segment_line({"itemId": s}, users) for s, users in answers], size, titles
    )
    title_by_id = {"10": "Ten"}
    rows_expected = [
        (segment, *([title_by_id.get(segment)] if has_titles else []), rank, user)
        for segment, users in answers
        for rank, user in enumerate(users, start=1)
    ]
    assert rows_written.rows() == rows_expected
    assert rows_written.columns == [
        "segment",
        *(["title"] if has_titles else []),
        "rank",
        "user_id",
    ]
    assert table.rows == len(rows_expected)
    assert table.sample.rows() == rows_expected[:5]
    assert sorted(table.users) == sorted({user for _, users in answers for user in users})
    assert table.sizes.rows() == [(segment, len(users)) for segment, users in answers if users]
    whole, failed_segments, duplicates = table.checks(
        [segment for segment, _ in answers], "segments.items"
    )
    assert whole.passed
    assert failed_segments.passed
    assert duplicates.passed == all(len(users) == len(set(users)) for _, users in answers)


def test_failed_segments_are_reported() -> None:
    lines = [
        format_segment_line({"itemId": "10"}, ["1"]),
        format_segment_line({"itemId": "11"}, [], "User error: no such item"),
        format_segment_line({"itemId": "11"}, []),
    ]
    table, _ = build_table(lines, 1, None)
    whole, failed_segments, duplicates = table.checks(["10", "11", "12"], "segments.items")
    assert not whole.passed
    assert "missing: '12'" in whole.text
    assert "1 of 3 segments failed" in failed_segments.text
    assert "'11': User error: no such item; fix segments.items" in failed_segments.text
    assert duplicates.passed
