"""The table of everyone's list, made a piece at a time, is the one that is made at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from threading import Event

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.config.rules import ListRules
from batchrec_dagster.personalize.file_formats import format_inference_line, read_inference
from batchrec_dagster.steps.batch_jobs import JobOutput, read_ahead, split_at_lines
from batchrec_dagster.steps.list_builder import ListBuilder, ListInputs
from batchrec_dagster.steps.rule_context import RuleContext
from batchrec_dagster.steps.rules import Rules
from batchrec_dagster.storage.connection import S3Connection, Storage


@given(chunks=st.lists(st.binary(max_size=6) | st.just(b"\n")), size=st.integers(0, 8))
def test_lines_are_cut_where_they_end(chunks: list[bytes], size: int) -> None:
    pieces = list(split_at_lines(chunks, size))
    assert b"".join(pieces) == b"".join(chunks)
    assert pieces
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])


def test_a_piece_is_read_while_the_one_before_is_in_use() -> None:
    is_second_read = Event()

    def read_pieces() -> Iterator[pl.DataFrame]:
        for number in range(3):
            if number == 1:
                is_second_read.set()
            yield pl.DataFrame({"number": [number]})
        raise ValueError("the rest is damaged")

    pieces = read_ahead(read_pieces())
    assert next(pieces).item() == 0
    assert is_second_read.wait(timeout=60)
    assert [next(pieces).item(), next(pieces).item()] == [1, 2]
    with pytest.raises(ValueError, match="damaged"):
        next(pieces)


def test_a_line_that_failed_is_reported_from_whichever_piece_it_is_in() -> None:
    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    context = RuleContext(2, pl.Series([*"abcd"]), pl.LazyFrame(schema=schema), 0, date(2026, 1, 1))
    builder = ListBuilder(ListInputs(2, Rules(ListRules(), None, context)))
    for user, error in [("a", None), ("b", "User error"), ("c", "other"), ("a", None)]:
        line = format_inference_line({"userId": user}, [] if error else ["1"], error=error)
        builder.add(read_inference(line.encode()))
    everyone, failed_lines, *_ = builder.checks(pl.Series(["a", "b", "c", "d"]), filtered=False)
    assert everyone.text.startswith("3 of 4 users have a result; 1 missing")
    assert everyone.text.endswith("1 results are repeated")
    assert failed_lines.text.startswith("2 of 4 users failed (at most 0 % may: ")
    assert failed_lines.text.endswith("; the first: User error")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(root=str(tmp_path), s3=S3Connection())


def test_all_files_are_read_in_order_and_an_empty_one_too(storage: Storage) -> None:
    folder = storage.uri("out/")
    job = {"jobOutput": {"s3DataDestination": {"path": folder}}}
    for name, content in [("b.out", b""), ("c.out", b""), ("ignored.txt", b"{")]:
        storage.store.put(folder + name, content)
    assert [piece.height for piece in JobOutput(storage, job).pieces(read_inference)] == [0, 0]
    for name, user in [("b.out", "1"), ("a.out", "2")]:
        line = json.dumps({"input": {"userId": user}, "output": None, "error": "no"}) + "\n"
        storage.store.put(folder + name, line.encode())
    pieces = pl.concat(JobOutput(storage, job).pieces(read_inference))
    assert pieces.get_column("user_id").to_list() == ["2", "1"]
