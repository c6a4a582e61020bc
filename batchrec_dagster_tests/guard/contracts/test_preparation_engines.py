"""Tests that all engines, on this machine or Spark, prepare the same interactions.

The engines leave out the same rows for the same reasons.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.builders import real_data, write_source
from batchrec_dagster_tests.guard.repeats import nightly, repeats
from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.servers.spark import quick_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

Prepare = Callable[..., preparation.Interactions]

COLUMNS = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time"}
at_night = nightly("each takes Spark seconds")


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    with quick_session() as session:
        yield session


@pytest.fixture(params=["local", pytest.param("spark", marks=at_night)])
def prepare(request: pytest.FixtureRequest, tmp_path: Path) -> Prepare:
    """Return a function that prepares a declaration's blocks in the test's folder by an engine."""
    session = request.getfixturevalue("spark") if request.param == "spark" else None

    def prepare(ratings: dict[str, Any], erased: tuple[str, ...] = (), **blocks: Any) -> Any:
        return preparation.prepare(
            tmp_path, {"ratings": ratings, **blocks}, erased=erased, spark=session
        )

    return prepare


def test_csv_of_several_files_with_bad_rows(prepare: Prepare, tmp_path: Path) -> None:
    header = "user,item,rating,time\n"
    gone = "person-of-no-return"
    files: dict[str, str | bytes] = {
        "a.csv": f'\ufeff{header}b,1,5,1000\n"a,b",010,5,1001\n\n,1,5,10\n1,NULL,5,10\n'
        f"{gone},1,bad,10\n{gone},1,5,1002\n",
        "b.csv.gz": gzip.compress(b"rating,time,item,user,more\r\n5,30,2,c,x\r\nx,1,1,1,1\r\n"),
        "c.csv": "",
        "d.csv": f"{header}caf\xe9,1,5,40\n1,1,5,0\n".encode("latin-1"),
        "e.csv": f"{header}ü,1,3,50\n{'x' * 257},1,5,1\n",
    }
    ratings = {
        "source": write_source(tmp_path, files),
        **{"columns": COLUMNS, "on_bad_rows": "skip", "timestamp_unit": "s"},
    }
    interactions = prepare(ratings, (gone, "never-there"), interactions={"min_rating": 4})
    assert sorted(interactions.rows) == [
        ("a,b", "010", 1001),
        ("b", "1", 1000),
        ("c", "2", 30),
        ("café", "1", 40),
    ]
    assert interactions.rows_read == 12
    reasons = sorted(reason.partition(" (")[0] for reason in interactions.left_out)
    assert reasons == [
        "an id longer than 256 characters",
        "an id that means no value",
        "no user",
        "of a user who was erased",
        "rating below min_rating",
        "the rating is not a number",
        "the timestamp is 0 or after 2099",
    ]
    assert sum(interactions.left_out.values()) == 8
    assert interactions.erased_users == 1
    assert interactions.bad_rows[0].startswith("a.csv")
    assert "no user" in interactions.bad_rows[0]
    assert gone not in str(interactions)


def test_a_bad_row_stops_the_run_and_is_named(prepare: Prepare, tmp_path: Path) -> None:
    content = "user,item,rating,time\n1,2,5,10\n1,2,x,10\n"
    ratings = {"source": write_source(tmp_path, content), "columns": COLUMNS}
    with pytest.raises(preparation.UserError) as error:
        prepare(ratings)
    assert str(error.value).startswith("data.csv")
    assert "the rating is not a number" in str(error.value)
    assert "\n" not in str(error.value)


def make_ratings() -> str:
    """Return rows with some for each rule to leave out; the rows of a pair differ in time."""
    chance = random.Random(0)
    rows = [
        f"u{chance.randrange(8)},i{chance.randrange(9)},{chance.choice([1, 3.5, 4, 5])},"
        f"{1_000_000_000 + number * 9_973},{chance.choice('ab')}"
        for number in range(80)
    ]
    bad = ["u1,,5,1000000000,a", ",i1,5,1000000000,a", "u3,,5,1000000000,a"]
    return "\n".join(["user,item,rating,time,kind", *rows, *bad, *rows[:9], ""])


RULES: dict[str, Any] = {
    "min_rating": 3.5,
    "filter": "rating <> 4 OR kind = 'a'",
    "window": {"days": 7},
    "duplicates": "drop",
    "latest_per_pair": True,
    "min_interactions_per_user": 3,
    "min_interactions_per_item": 2,
}


@at_night
@settings(max_examples=repeats(12, 2), deadline=None)
@given(rules=st.sets(st.sampled_from([*RULES])))
@example(rules={*RULES})
def test_spark_leaves_out_the_same_rows_by_every_rule(spark: SparkSession, rules: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = {**COLUMNS, "event_type": "kind"}
        source = write_source(folder, make_ratings())
        ratings = {"source": source, "columns": columns, "on_bad_rows": "skip"}
        interactions = {rule: RULES[rule] for rule in rules}
        blocks = {"ratings": ratings, "interactions": interactions}
        expected = preparation.prepare(folder, blocks, erased=["u3"])
        assert len(expected.left_out) >= len(rules) + 1
        outcome = preparation.prepare(folder, blocks, erased=["u3"], spark=spark)
    assert outcome.left_out == expected.left_out
    assert sorted(zip(outcome.rows, outcome.events, strict=True)) == sorted(
        zip(expected.rows, expected.events, strict=True)
    )


def test_the_last_of_the_rows_of_a_pair_and_a_time_stays(prepare: Prepare, tmp_path: Path) -> None:
    header = "user,item,rating,time,kind\n"
    rows = "".join(f"1,{row % 7},5,1000,{row}\n" for row in range(60))
    files = {"a.csv": header + rows, "b.csv": f"{header}1,3,5,1000,b\n"}
    columns = {**COLUMNS, "event_type": "kind"}
    ratings = {"source": write_source(tmp_path, files), "columns": columns, "timestamp_unit": "s"}
    interactions = prepare(ratings, interactions={"latest_per_pair": True})
    items = [item for _, item, _ in interactions.rows]
    kinds = dict(zip(items, (kind for (kind,) in interactions.events), strict=True))
    assert kinds == {**{f"{row % 7}": f"{row}" for row in range(60)}, "3": "b"}


HEADER = "user,item,rating,time\n"
ROW = "1,2,5,1000\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            f'{HEADER}{ROW}"a"b,10,5,1000\n{ROW}',
            'a field that starts with " does not end with one',
        ),
        ("a.csv", HEADER + "1,10,5,1000000000\n1,10,5,1000000000000\n", "in milliseconds"),
        ("a.csv", HEADER + "é" * 60_000, "line 2 is longer than 100 KB"),
        ("a.csv", HEADER, "has a header and no rows"),
        (
            "a.csv.gz",
            gzip.compress((HEADER + ROW * 200_000).encode(), mtime=0),
            "BATCHREC_MAX_FILE_GB",
        ),
        ("a.csv.gz", b"\x1f\x8bbroken", "download or copy it again"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes,
    message: str,
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.0015")
    monkeypatch.setenv("BATCHREC_MAX_LINE_KB", "100")
    source = write_source(tmp_path, {name: content})
    with pytest.raises(preparation.UserError) as error:
        prepare({"source": source, "columns": COLUMNS, "on_bad_rows": "skip"})
    assert name in str(error.value)
    assert message in str(error.value)


@at_night
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"user": 1, "item": 2, "rating": 5, "time": 1000}]', "a JSON array"),
        ("a.csv", f'{HEADER}"1\n",2,5,1000\n{ROW}', "goes on in the next line"),
        ("a.csv", (HEADER + ROW).encode("utf-16"), "not plain text"),
        ("a.csv", gzip.compress((HEADER + ROW).encode(), mtime=0), "has to be named .gz"),
    ],
)
def test_formats_that_spark_does_not_read_are_refused_by_name(
    spark: SparkSession, tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    source = write_source(tmp_path, {name: content})
    ratings = {"source": source, "columns": COLUMNS, "on_bad_rows": "skip", "timestamp_unit": "s"}
    assert ("1", "2", 1000) in preparation.prepare(tmp_path, {"ratings": ratings}).rows
    with pytest.raises(preparation.UserError) as error:
        preparation.prepare(tmp_path, {"ratings": ratings}, spark=spark)
    assert f"{name}" in str(error.value)
    assert message in str(error.value)
    assert "preparation.engine: local" in str(error.value)


def test_events_in_json_lines(prepare: Prepare, tmp_path: Path) -> None:
    events = [
        {"user": 1, "item": "010", "time": 1000, "kind": "buy", "price": 4.5},
        {"user": "é", "item": 7, "time": 1001, "kind": "view"},
        {"user": None, "item": 7, "time": 1002, "kind": "view"},
    ]
    text = "".join(json.dumps(event) + "\n" for event in events) + '{"user": 1, "it'
    columns = {"user": "user", "item": "item", "timestamp": "time"}
    columns |= {"event_type": "kind", "event_value": "price"}
    ratings = {
        "source": write_source(tmp_path, text, "events.jsonl"),
        **{"columns": columns, "on_bad_rows": "skip", "timestamp_unit": "s"},
    }
    interactions = prepare(ratings)
    assert sorted(interactions.rows) == [("1", "010", 1000), ("é", "7", 1001)]
    assert sorted(interactions.events) == [("buy", "4.5"), ("view", "")]
    assert (interactions.rows_read, sum(interactions.left_out.values())) == (4, 2)


def test_parquet_with_times_of_its_own(prepare: Prepare, tmp_path: Path) -> None:
    noon = datetime(2020, 1, 2, 12, 0, 5, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "user": ["a", None, "c", "007"],
            "item": [1, 2, 3, 4],
            "rating": [1.5, 2.0, float("nan"), 5.0],
            "time": [noon] * 4,
        }
    )
    (tmp_path / "in").mkdir()
    frame.write_parquet(tmp_path / "in/a.parquet", row_group_size=2)
    days = frame.with_columns(time=pl.lit(date(2020, 1, 2)), user=pl.lit("d"))
    days.write_parquet(tmp_path / "in/b.parquet")
    ratings = {"source": "in/", "columns": COLUMNS, "on_bad_rows": "skip"}
    interactions = prepare({**ratings, "timezone": "Asia/Tokyo"})
    midnight = int(datetime(2020, 1, 2, tzinfo=UTC).timestamp()) - 9 * 3600
    seconds = int(noon.timestamp())
    assert sorted(interactions.rows) == [
        *(("007", "4", seconds), ("a", "1", seconds)),
        *(("d", "1", midnight), ("d", "2", midnight), ("d", "4", midnight)),
    ]
    assert sorted(interactions.left_out.values()) == [1, 2]


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", "::"])
def test_files_without_a_header(prepare: Prepare, tmp_path: Path, delimiter: str) -> None:
    lines = [["u1", "i 1", "1000"], ["u2", "é", "1001"], ["u3", "", "1002"]]
    text = "".join(delimiter.join(line) + "\n" for line in lines)
    ratings = {
        **{"source": write_source(tmp_path, text), "delimiter": delimiter},
        **{"columns": {"user": 1, "item": 2, "timestamp": 3}, "timestamp_unit": "s"},
    }
    interactions = prepare({**ratings, "on_bad_rows": "skip"})
    assert sorted(interactions.rows) == [("u1", "i 1", 1000), ("u2", "é", 1001)]


@at_night
def test_real_ratings(spark: SparkSession, tmp_path: Path) -> None:
    ratings = {"source": str(real_data("ml-latest-small") / "ratings.csv")}
    rules = {"min_rating": 1.5, "window": {"days": 3000}, "min_interactions_per_user": 20}
    blocks = {"ratings": ratings, "interactions": rules}
    interactions = preparation.prepare(tmp_path, blocks, spark=spark)
    expected = preparation.prepare(tmp_path, blocks)
    assert sorted(interactions.rows) == sorted(expected.rows)
    assert interactions.left_out == expected.left_out


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"preparation": {"engine": "glue"}}, "engine glue needs job_name"),
        ({"preparation": {"engine": "spark", "workers": 3}}, "workers is a setting of engine glue"),
        (
            {"preparation": {"engine": "glue", "job_name": "j", "role": "me"}},
            "write an ARN such as",
        ),
        ({"preparation": {"engine": "spark", "memory": "much"}}, "write a size such as 4g"),
        (
            {"ratings": {"source": "a/", "query": "SELECT 1"}, "preparation": {"engine": "spark"}},
            "preparation.engine spark runs no query",
        ),
        (
            {"ratings": {"source": "a/", "format": "delta"}, "preparation": {"engine": "spark"}},
            "preparation.engine spark reads no Delta table",
        ),
    ],
)
def test_settings_that_an_engine_lacks_are_refused_by_name(
    blocks: dict[str, Any], message: str
) -> None:
    with pytest.raises(preparation.UserError) as error:
        preparation.declare({"ratings": {"source": "a.csv"}, **blocks})
    assert message in str(error.value)
