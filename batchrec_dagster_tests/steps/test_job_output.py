"""The lines of a batch job's output, which are read piece by piece."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.steps.job_output import JobOutput, split_at_lines
from batchrec_dagster.storage.connection import S3Connection, Storage


@given(chunks=st.lists(st.binary(max_size=6) | st.just(b"\n")), size=st.integers(0, 8))
def test_lines_are_cut_where_they_end(chunks: list[bytes], size: int) -> None:
    pieces = list(split_at_lines(chunks, size))
    assert b"".join(pieces) == b"".join(chunks)
    assert pieces
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(root=str(tmp_path), s3=S3Connection())


def test_all_files_are_read_in_order_and_an_empty_one_too(storage: Storage) -> None:
    folder = storage.uri("out/")
    job = {"jobOutput": {"s3DataDestination": {"path": folder}}}
    for name, content in [("b.out", b""), ("c.out", b""), ("ignored.txt", b"{")]:
        storage.store.put(folder + name, content)
    assert [piece.height for piece in JobOutput(storage, job).lines()] == [0, 0]
    for name, user in [("b.out", "1"), ("a.out", "2")]:
        line = json.dumps({"input": {"userId": user}, "output": None, "error": "no"}) + "\n"
        storage.store.put(folder + name, line.encode())
    pieces = pl.concat(JobOutput(storage, job).lines())
    assert pieces.get_column("subject").to_list() == ["2", "1"]
