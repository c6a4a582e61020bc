"""What Spark cannot use, or does not read, is refused by name, with what to do."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from dagster_pipes import PipesContext, PipesContextData, encode_param
from pyspark.sql import SparkSession

from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.spark.task import SUPPRESSED
from batchrec_dagster.storage.erased import NOBODY
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.preparation.spark_support import (
    COMMA,
    HEADER,
    SKIP,
    Layout,
    build_spark_task,
    prepare_by_both,
    prepare_on_polars,
    prepare_on_spark,
    spark,
)

__all__ = ["spark"]

pytestmark = [pytest.mark.slow, nightly("Spark takes seconds for each")]


def test_a_line_that_is_too_long_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_LINE_KB", "0.1")
    outcome = prepare_by_both(
        spark, tmp_path, {"a.csv": f"{HEADER}1,10,5,1000\n", "b.csv": HEADER + "é" * 51}
    )
    assert outcome.error == (
        "b.csv: a line is longer than 0.1 KB: fix the file, or set BATCHREC_MAX_LINE_KB if that is"
        " real data"
    )


@pytest.mark.parametrize("row", ['"a"b,10,5,1000', '"a,10,5,1000', 'a"b,10,5,1000'])
def test_a_quote_that_does_not_end_is_refused(
    spark: SparkSession, tmp_path: Path, row: str
) -> None:
    outcome = prepare_by_both(spark, tmp_path, f"{HEADER}1,10,5,1000\n{row}\n2,10,5,1000\n")
    assert outcome.error.startswith('ratings.csv: a line has a " too many')


def test_times_in_several_units_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    rows = "1,2,5,1000000000\n1,2,5,1000000000000\n"
    outcome = prepare_by_both(spark, tmp_path, HEADER + rows)
    assert outcome.error.startswith("ratings.csv: the timestamp is in milliseconds, those before")


def test_what_cannot_be_used_says_why(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.0015")
    row = {"userId": 1, "movieId": 1, "rating": 5, "timestamp": 1000}
    pl.DataFrame(row).select(pl.all().repeat_by(200_000).explode()).write_parquet(
        tmp_path / "many.parquet"
    )
    many_rows = (tmp_path / "many.parquet").read_bytes()
    many_lines = gzip.compress(b"1,1,5,1000\n" * 200_000)
    parquet = replace(COMMA, format="parquet")
    cases: list[tuple[str, Any, Layout, str]] = [
        ("a.csv", "", COMMA, "a.csv is empty"),
        ("a.csv", HEADER, COMMA, "a.csv has a header and no rows"),
        ("a.csv", "\n1,2\n", COMMA, "starts with an empty line"),
        ("a.csv", "a,b,c,d\n1,2,3,4\n", COMMA, "has no column 'userId' (ratings.columns.user)"),
        ("a.csv", "1,2,3\n", Layout(",", 1, 2, 3, 4), "column 4, but line 1 has 3"),
        ("a.csv", HEADER + "1,2,x,4\n", COMMA, "no row can be read; a.csv: the rating is not"),
        ("b.csv.gz", many_lines, COMMA, "BATCHREC_MAX_FILE_GB allows"),
        ("c.csv.gz", b"\x1f\x8bbroken", COMMA, "c.csv.gz: copy the file again"),
        ("d.parquet", many_rows, parquet, "d.parquet: it would unfold to"),
        ("d.parquet", many_rows[:-9], parquet, "d.parquet"),
    ]
    for name, content, layout, message in cases:
        outcome = prepare_by_both(spark, tmp_path, {name: content}, layout)
        assert message in outcome.error
        assert "\n" not in outcome.error
    assert not list(tmp_path.glob("parts*"))


ZSTD = pa.Codec("zstd").compress(f"{HEADER}1,2,5,1000\n".encode(), asbytes=True)
ROW = {"userId": 1, "movieId": 2, "rating": 5, "timestamp": 1000}


@pytest.mark.parametrize(
    ("name", "content", "layout", "message"),
    [
        ("a.json", json.dumps([ROW]), replace(COMMA, format="json"), "a JSON array"),
        ("a.csv", f'{HEADER}"1\n",2,5,1000\n1,2,5,1000\n', COMMA, "goes on in the next line"),
        ("a.csv", (HEADER + "1,2,5,1000\n").encode("utf-16"), COMMA, "not plain text"),
        ("a.csv", gzip.compress(f"{HEADER}1,2,5,1000\n".encode()), COMMA, "has to be named .gz"),
        ("a.csv.zst", ZSTD, COMMA, "packed with zstd"),
    ],
    ids=["array", "line break", "UTF-16", "gzip by another name", "zstd"],
)
def test_what_only_the_local_engine_reads_is_refused_by_name(
    spark: SparkSession,
    tmp_path: Path,
    name: str,
    content: str | bytes,
    layout: Layout,
    message: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert "1,2,1000" in prepare_on_polars([path], layout, Rules(on_bad_rows="skip")).lines
    error = prepare_on_spark(spark, [path], layout, SKIP).error
    assert error.startswith(name)
    assert message in error
    assert "preparation.engine: local" in error


def test_the_script_reports_why_it_refuses_the_files(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script runs as in a process of Dagster Pipes, with the session that exists."""
    from batchrec_dagster.preparation.spark import job

    (tmp_path / "ratings.csv").write_text(f"{HEADER}1,ten,5,1000\n")
    task = build_spark_task(
        [tmp_path / "ratings.csv"],
        replace(COMMA, types={"movieId": "string"}),
        Rules(filter="CAST(movieId AS INT) > 1"),
        tmp_path,
    )
    (tmp_path / SUPPRESSED).write_bytes(NOBODY.encode())
    messages = tmp_path / "messages"
    context = dict.fromkeys(PipesContextData.__annotations__) | {"extras": {"task": asdict(task)}}
    monkeypatch.setattr(PipesContext, "_instance", None)
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", encode_param({"data": context}))
    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", encode_param({"path": str(messages)}))
    job.main()
    (refusal,) = [
        message["params"]["payload"]["refused"]
        for message in map(json.loads, messages.read_text().splitlines())
        if message["method"] == "report_custom_message"
    ]
    assert refusal.startswith(
        "ratings.csv: interactions.filter fails: conversion from `str` to `i32`"
    )
