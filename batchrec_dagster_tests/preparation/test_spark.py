"""Spark makes the same interactions of files as the local engine, and leaves out the same rows."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from pyspark.sql import SparkSession

from batchrec_dagster.preparation.layout import CUT_OFF
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.preparation.spark_support import (
    COMMA,
    DIRTY,
    HEADER,
    QUOTED,
    SKIP,
    Layout,
    compare_engines,
    prepare_by_both,
    prepare_on_spark,
    spark,
)

__all__ = ["spark"]

pytestmark = [pytest.mark.slow, nightly("Spark takes seconds for each")]


def test_dirty_rows_are_left_out_for_the_same_reasons(spark: SparkSession, tmp_path: Path) -> None:
    lines = [HEADER.strip(), "1,10,5,1000", *DIRTY, "2,10,5,1000"]
    outcome = prepare_by_both(spark, tmp_path, "\ufeff" + "\r\n".join(lines) + "\r\n3,10,5,10")
    assert outcome.left_out is not None
    assert len(outcome.left_out) >= 9
    assert "ratings.csv: the rating is not a number" in outcome.examples


def test_quotes(spark: SparkSession, tmp_path: Path) -> None:
    lines = "\n".join([HEADER.strip(), *QUOTED, "2,10,bad,1000", ""])
    outcome = prepare_by_both(spark, tmp_path, {"a.csv": lines, "b.csv": lines})
    assert outcome.rows_read == 2 * (len(QUOTED) + 1)


def test_files_in_many_blocks(spark: SparkSession, tmp_path: Path) -> None:
    rows = [*(line for line in DIRTY if len(line) < 20), *QUOTED] * 3
    files: dict[str, str | bytes] = {
        name: HEADER + ending.join(rows) for name, ending in (("a.csv", "\n"), ("b.csv", "\r\n"))
    }
    spark.conf.set("spark.sql.files.openCostInBytes", "1")
    try:
        whole = prepare_by_both(spark, tmp_path, files)
        assert prepare_by_both(spark, tmp_path, {"c.csv": HEADER + "\n".join(DIRTY)}).rows_read > 20
    finally:
        spark.conf.unset("spark.sql.files.openCostInBytes")
    assert whole.rows_read > 200


def test_files_in_order_each_with_its_header_some_empty(
    spark: SparkSession, tmp_path: Path
) -> None:
    files: dict[str, str | bytes] = {
        "a b[1]%20é.csv": f"{HEADER}b,1,5,10\na,1,5,20\n",
        "b.csv.gz": gzip.compress(
            b"rating,timestamp,movieId,userId,more\n5,30,2,c,x\n1,1,1,1,1,1\n"
        ),
        "c.csv": "",
        "d.csv": "userId,movieId,rating,timestamp\ncaf\xe9,1,5,40\n".encode("latin-1"),
        "e.csv": f"{HEADER}caf\xe9,1,5,50\n".encode() + b"\xff,1,5,60\n",
        "f.csv": HEADER,
        "f2.csv": f"{HEADER}1,1,5,60\n\n1,1,5",
        "g.csv": HEADER.encode() + b"\x8015\x92s,1,5,70\n\x81,1,5,80\n",
    }
    outcome = prepare_by_both(spark, tmp_path, files)
    assert outcome.lines == (
        *("1,1,60", "a,1,20", "b,1,10", "c,2,30"),
        *("café,1,40", "café,1,50", "€15\u2019s,1,70"),
    )
    assert outcome.left_out == {
        CUT_OFF: 1,
        "more than the 5 fields": 1,
        "an id that is not UTF-8 text": 2,
    }


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        ("1\t10\t5\t1000\n2\t10\t5\n", Layout("\t", 1, 2, 3, 4)),
        (
            '\ufeff1::10::5::1000\n::::::\n1::2::3::4::\n1::2::3::4::::x\n"::"::3::4\n',
            Layout("::", 1, 2, 3, 4),
        ),
        ("1000;10;'5;1\n\n1000;1'0;5;1\n", Layout(";", 4, 2, 3, 1, event_type=2)),
        ("10'1'1000\n", Layout("'", 2, 1, None, 3)),
        ('"1,0",1,1000\n10,1,1000\n', Layout(",", 2, 1, None, 3)),
        ('10\\1\\1000\n"a\\b"\\1\\2\n', Layout("\\", 2, 1, None, 3)),
        ('10|1|1000\n"1"|2|5\n', Layout("|", 2, 1, None, 3, quoted=False)),
        (
            "10^1^1000^\n10^1^1000^7.5\n1^2^3^ x\n1^2^3^ 1e3 \n1^2^3^NULL\n-1^2^3^4\n",
            Layout("^", 2, 1, None, 3, event_value=4, null_values=["NULL", "-1"]),
        ),
    ],
    ids=[
        "tab",
        "colons",
        "semicolon, event type",
        "apostrophe",
        "quotes",
        "backslash",
        "no quotes",
        "value",
    ],
)
def test_layouts_without_a_header(
    spark: SparkSession, tmp_path: Path, content: str, layout: Layout
) -> None:
    outcome = prepare_by_both(spark, tmp_path, content, layout, replace(SKIP, event_type=True))
    assert outcome.lines


def test_lines_before_the_rows(spark: SparkSession, tmp_path: Path) -> None:
    """Among them blank ones, and quotes that would go on over the rows."""
    report = 'Report "of May\r\n\n,by,Ann,\n'
    files: dict[str, str | bytes] = {
        "a.csv": f"{report}{HEADER}1,10,5,1000\n3,,5,1000\n",
        "b.csv": f"\ufeff{report}{HEADER.replace('rating', 'more')}4,10,5,1000,x\n1,10,5",
    }
    layout = replace(COMMA, rating=None, skipped_lines=3)
    outcome = prepare_by_both(spark, tmp_path, files, layout)
    assert outcome.lines == ("1,10,1000",)
    assert outcome.left_out.keys() == {"no item", "more than the 4 fields", CUT_OFF}
    layout = Layout("::", 1, 2, None, 3, skipped_lines=3)
    content = f"{report}1::10::1000\n\n2::10::1000::x\n3::::1\n"
    outcome = prepare_by_both(spark, tmp_path, content, layout)
    assert outcome.examples == ["ratings.csv: more than the 3 fields", "ratings.csv: no item"]
    assert outcome.rows_read == 3


def test_a_declared_encoding(spark: SparkSession, tmp_path: Path) -> None:
    content = f"{HEADER}Łódź,1,5,10\n".encode("cp1250")
    outcome = prepare_by_both(spark, tmp_path, content, replace(COMMA, encoding="cp1250"))
    assert outcome.lines == ("Łódź,1,10",)


def test_json_lines(spark: SparkSession, tmp_path: Path) -> None:
    lines = [
        '\ufeff{"userId": 1, "movieId": "010", "rating": 4.50, "timestamp": 1000, "event": "buy"}',
        '{"userId": 1.10, "movieId": 1e3, "rating": "5", "timestamp": "1000", "event": true}',
        *('{"userId": "a"}', "[1]", "{", "", " ", '{"userId": null, "movieId": [1]}', "nul"),
        '{"userId": "\\ud800", "movieId": 1, "rating": NaN, "timestamp": 1, "event": "x"}',
        '{"userId": "\\u00e9\\n", "movieId": 1, "rating": 1, "timestamp": 1, "event": "x"}',
        '{"userId": 12345678901234567890, "movieId": false, "rating": 1, "timestamp": 9,'
        ' "event": 3}',
    ]
    layout = replace(COMMA, format="json", event_type="event", event_value="rating")
    outcome = prepare_by_both(
        spark, tmp_path, "\r\n".join(lines), layout, replace(SKIP, event_type=True)
    )
    assert "1,010,1000,buy,4.50" in outcome.lines
    assert outcome.rows_read == 10


def test_parquet(spark: SparkSession, tmp_path: Path) -> None:
    first = pl.DataFrame(
        {
            "userId": ["a", None, "c", "d"],
            "movieId": [1, 2, 3, 4],
            "rating": [1.5, 2.0, float("nan"), None],
            "timestamp": [1000, 2000, -1, 3],
        }
    )
    second = first.with_columns(
        pl.col("movieId").cast(pl.String), pl.col("rating").cast(pl.Float32)
    )
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    first.write_parquet(files[0], row_group_size=2)
    second.write_parquet(files[1])
    layout = replace(COMMA, format="parquet", event_value="rating")
    outcome = compare_engines(spark, files, layout, SKIP)
    assert outcome.rows_read == 8
    assert "b.parquet: no user" in outcome.examples


def test_times_in_parquet(spark: SparkSession, tmp_path: Path) -> None:
    """Each type is in a file of its own. A time zone applies to the times that have none."""
    time = pl.Series([1_500_000_000_123_456_789]).cast(pl.Datetime("ns"))
    kinds = (pl.Datetime("us"), pl.Datetime("us", "Europe/Berlin"), pl.Date(), pl.Datetime("ns"))
    files = [tmp_path / f"{number}.parquet" for number in range(len(kinds))]
    for number, kind in enumerate(kinds):
        row = {"userId": ["a"], "movieId": [number], "timestamp": time.cast(kind)}
        pl.DataFrame(row).write_parquet(files[number])
    layout = replace(COMMA, rating=None, format="parquet", timestamp_unit="datetime")
    midnight = 1_500_000_000 - 1_500_000_000 % 86_400
    seconds = [1_500_000_000, 1_500_000_000, midnight, 1_500_000_000]
    outcome = compare_engines(spark, files, layout, SKIP)
    assert [int(line.split(",")[2]) for line in outcome.lines] == seconds
    layout = replace(layout, timezone="Asia/Tokyo")
    outcome = compare_engines(spark, files[:3], layout, SKIP)
    tokyo = 9 * 3600
    shifted_seconds = [seconds[0] - tokyo, seconds[1], midnight - tokyo]
    assert [int(line.split(",")[2]) for line in outcome.lines] == shifted_seconds
    error = prepare_on_spark(spark, files[3:], layout, SKIP).error
    assert error.startswith("3.parquet: Spark cannot tell whether times in nanoseconds have a zone")
