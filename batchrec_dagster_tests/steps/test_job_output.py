"""Tests of reading the lines of a batch job's output in pieces."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.steps.lists.job_output import JobOutput, split_at_lines
from batchrec_dagster.storage.connection import Storage


@given(chunks=st.lists(st.binary(max_size=6) | st.just(b"\n")), size=st.integers(0, 8))
def test_lines_are_cut_where_they_end(chunks: list[bytes], size: int) -> None:
    pieces = list(split_at_lines(chunks, size))
    assert b"".join(pieces) == b"".join(chunks)
    assert pieces
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])


def test_all_files_are_read_in_order_and_empty_ones_too(tmp_path: Path) -> None:
    storage = Storage(root=str(tmp_path))
    folder = storage.uri("out/")
    line = '{{"input": {{"userId": "{}"}}, "output": null, "error": "no"}}\n'
    contents = {"b.out": line.format(1), "a.out": line.format(2), "c.out": "", "d.txt": "{"}
    for name, content in contents.items():
        storage.store.put(folder + name, content.encode())
    job = {"jobOutput": {"s3DataDestination": {"path": folder}}}
    pieces = pl.concat(JobOutput(storage, job).lines())
    assert pieces.get_column("subject").to_list() == ["2", "1"]
