"""Preparation on Spark: the same rows and counts, to the byte, as on this machine without it."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dagster_pipes import PipesContext, PipesContextData, encode_param
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from batchrec_dagster.preparation.layout import CUT_OFF, PreparationError
from batchrec_dagster.preparation.polars.row_problems import FUTURE, SENTINEL, TWO_DIGITS
from batchrec_dagster.preparation.rules import ERASED_USER, Rules
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers
from batchrec_dagster_tests.guard.builders import real_data
from batchrec_dagster_tests.guard.repeats import IS_LONG, repeats
from batchrec_dagster_tests.preparation.spark_support import (
    Layout,
    Outcome,
    build_spark_task,
    prepare_on_polars,
    prepare_on_spark,
    quick_session,
)

pytestmark = pytest.mark.slow

COMMA = Layout(",", "userId", "movieId", "rating", "timestamp")
HEADER = "userId,movieId,rating,timestamp\n"
SKIP = Rules(on_bad_rows="skip")


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    with quick_session() as session:
        yield session


def prepare_by_both(
    spark: SparkSession,
    folder: Path,
    contents: str | bytes | Mapping[str, str | bytes],
    layout: Layout = COMMA,
    rules: Rules = SKIP,
    suppressed: ErasedUsers = NOBODY,
) -> Outcome:
    """What both engines did, which is the same."""
    if not isinstance(contents, Mapping):
        contents = {"ratings.csv": contents}
    files = []
    for name, content in contents.items():
        files.append(folder / name)
        files[-1].write_bytes(content.encode() if isinstance(content, str) else content)
    return compare_engines(spark, files, layout, rules, suppressed)


def compare_engines(
    spark: SparkSession,
    files: Sequence[Path],
    layout: Layout,
    rules: Rules,
    suppressed: ErasedUsers = NOBODY,
) -> Outcome:
    polars_outcome = prepare_on_polars(files, layout, rules, suppressed)
    spark_outcome = prepare_on_spark(spark, files, layout, rules, suppressed)
    # The engines word their errors differently.
    assert replace(spark_outcome, error="") == replace(polars_outcome, error="")
    assert bool(spark_outcome.error) == bool(polars_outcome.error)
    return spark_outcome


DIRTY = [
    *("1,10,good,1000", "1,10,nan,1000", "1,10,inf,1000", "1,10,1e400,1000", "1,10,.5,1000"),
    *("1,10,5.,1000", "1,10,+5,+1000", "1,10, 5 ,\t1000 ", "1,10,1e1,1000", "1,10,0x5,1000"),
    *("1,10,5,yesterday", "1,10,5,1000.5", "1,10,5,-1000", "1,10,5,99999999999999999999"),
    *("1,10,5", "1,10", "1", "1,10,5,1000,more", "1,10,5,1000,", "1,10,5,1000,,x"),
    *(",10,5,1000", "1, ,5,1000", "\t,10,5,1000", f"{'x' * 257},10,5,1000", "x" * 300 + ",1,1,1"),
    *(",,,", "", "   ", ",,,,,,x", ",,,,x", "001,010,5,1000", " 1, 10,5,1000", "é,ü,5,1000"),
    *("NULL,10,5,1000", "1,\\N,5,1000", " None ,10,5,1000", "1,10,NULL,1000", "1,10,5,nan"),
    *("-1,10,5,1000", "1,10,-1,1000", "Nonesuch,10,5,1000"),
    *("1\x00,2,5,1000", "😀,2,5,1000", "\u3000,2,5,1000", f"{'é' * 256},10,5,1000"),
]
QUOTED = [
    *('"a,b",10,5,1000', '"a""b",10,5,1000', '1,10,"5","1000"', '"",10,5,1000', '"","","",""'),
    *(',,,,""', '"",,,', '" 1",10," 5 ","\t1000"', 'a"b"c,10,5,1000', '1,"\'",5,1000'),
]
OVER_LINES = ['"over\nlines",2,3,4', 'a,"b\nc",5,1000', '"a\r\n\n""b",1,2,3', '"1\n",10,5,x']


def test_dirty_rows_are_left_out_for_the_same_reasons(spark: SparkSession, tmp_path: Path) -> None:
    lines = [HEADER.strip(), "1,10,5,1000", *DIRTY, "2,10,5,1000"]
    outcome = prepare_by_both(spark, tmp_path, "\ufeff" + "\r\n".join(lines) + "\r\n3,10,5,10")
    assert outcome.left_out is not None
    assert len(outcome.left_out) >= 9
    assert "ratings.csv, line 3: the rating is not a number" in outcome.examples


def test_a_line_that_is_too_long_is_named_by_both(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_LINE_KB", "0.1")
    row, long = "1,10,5,1000", "é" * 51
    files = [tmp_path / name for name in ("a.csv", "b.csv")]
    files[0].write_text(f"{HEADER}{row}\n")
    for lines in ([row, long, row, long], [row, long[1:], long]):
        files[1].write_text(HEADER + "\n".join(lines))
        number = 2 + lines.index(long)
        errors = {
            prepare_on_polars(files, COMMA, SKIP).error,
            prepare_on_spark(spark, files, COMMA, SKIP).error,
        }
        assert errors == {
            f"b.csv: line {number} is longer than 0.1 KB: fix the file, or set"
            " BATCHREC_MAX_LINE_KB if that is real data"
        }


def test_quotes(spark: SparkSession, tmp_path: Path) -> None:
    lines = "\n".join([HEADER.strip(), *QUOTED, "2,10,bad,1000", ""])
    outcome = prepare_by_both(spark, tmp_path, {"a.csv": lines, "b.csv": lines})
    assert outcome.rows_read == 2 * (len(QUOTED) + 1)


def test_files_in_many_blocks(spark: SparkSession, tmp_path: Path) -> None:
    """Lines keep their numbers and their order, and quoted ones go on, over the ends of blocks."""
    rows = [*(line for line in DIRTY if len(line) < 20), *QUOTED, *OVER_LINES] * 3
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


@pytest.mark.parametrize(
    "row", ['"a"b,10,5,1000', '"a,10,5,1000', 'a"b,10,5,1000', '1,10,5,"1000\n1,2,3,4']
)
def test_a_quote_that_does_not_end_is_an_error(
    spark: SparkSession, tmp_path: Path, row: str
) -> None:
    outcome = prepare_by_both(spark, tmp_path, f"{HEADER}1,10,5,1000\n{row}\n2,10,5,1000\n")
    assert outcome.error.startswith("ratings.csv, line 3: a field")


def test_files_in_order_each_with_its_header_some_empty(
    spark: SparkSession, tmp_path: Path
) -> None:
    files: dict[str, str | bytes] = {
        "a b[1].csv": f"{HEADER}b,1,5,10\na,1,5,20\n",
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
    assert outcome.csv_text == (
        "USER_ID,ITEM_ID,TIMESTAMP\nb,1,10\na,1,20\nc,2,30\ncafé,1,40\ncafé,1,50\n"
        "1,1,60\n€15\u2019s,1,70\n"
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
        ('"1\n0",1,1000\n10,1,1000\n', Layout(",", 2, 1, None, 3)),
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
        "line break",
        "backslash",
        "no quotes",
        "value",
    ],
)
def test_layouts_without_a_header(
    spark: SparkSession, tmp_path: Path, content: str, layout: Layout
) -> None:
    outcome = prepare_by_both(spark, tmp_path, content, layout, replace(SKIP, event_type=True))
    assert outcome.csv_text is not None
    assert len(outcome.csv_text.splitlines()) > 1


def test_lines_before_the_rows(spark: SparkSession, tmp_path: Path) -> None:
    """Among them blank ones, and quotes that would go on over the rows."""
    report = 'Report "of May\r\n\n,by,Ann,\n'
    files: dict[str, str | bytes] = {
        "a.csv": f'{report}{HEADER}1,10,5,1000\n"2\n",10,5,1000\n3,,5,1000\n',
        "b.csv": f"\ufeff{report}{HEADER.replace('rating', 'more')}4,10,5,1000,x\n1,10,5",
    }
    layout = replace(COMMA, rating=None, skipped_lines=3)
    outcome = prepare_by_both(spark, tmp_path, files, layout)
    assert outcome.csv_text == "USER_ID,ITEM_ID,TIMESTAMP\n1,10,1000\n"
    assert outcome.examples[1].startswith("a.csv, line 8: no item")
    assert outcome.examples[2].startswith("b.csv, line 5: more than the 4 fields")
    layout = Layout("::", 1, 2, None, 3, skipped_lines=3)
    content = f"{report}1::10::1000\n\n2::10::1000::x\n3::::1\n"
    outcome = prepare_by_both(spark, tmp_path, content, layout)
    assert outcome.examples[0].startswith("ratings.csv, line 6: more than the 3 fields")
    assert outcome.rows_read == 3


def test_times_that_stand_for_none(spark: SparkSession, tmp_path: Path) -> None:
    rows = "1,1,5,1500000000000\n2,1,5,0\n3,1,5,253402300799000\n4,1,5,253402300799\n"
    outcome = prepare_by_both(
        spark, tmp_path, f"{HEADER}{rows}5,1,5,9999-12-31\n6,1,5,1970-01-01\n"
    )
    assert outcome.left_out == {SENTINEL: 3, "the timestamp is not a number": 2}
    assert outcome.examples[0].startswith("ratings.csv, line 3: the timestamp is 0 or after 2099")
    layout = replace(COMMA, timestamp_unit="%d.%m.%Y")
    outcome = prepare_by_both(
        spark, tmp_path, f"{HEADER}1,1,5,31.01.24\n2,1,5,31.01.2024\n", layout
    )
    assert outcome.left_out == {TWO_DIGITS: 1}


def test_rows_without_times(spark: SparkSession, tmp_path: Path) -> None:
    layout = replace(COMMA, timestamp=None, timestamp_unit="none")
    outcome = prepare_by_both(spark, tmp_path, "userId,movieId,rating\n1,2,3\n,2,3\n", layout)
    assert outcome.csv_text == "USER_ID,ITEM_ID,TIMESTAMP\n1,2,946684800\n"


def test_times_of_8_digits_and_those_after_the_latest(spark: SparkSession, tmp_path: Path) -> None:
    days = ["20240131", "20240132", "99991231", "20240201"]
    rows = "".join(f"{number},1,5,{day}\n" for number, day in enumerate(days))
    outcome = prepare_by_both(spark, tmp_path, HEADER + rows, replace(COMMA, latest=1_706_659_200))
    assert outcome.unit == "%Y%m%d"
    assert outcome.csv_text == "USER_ID,ITEM_ID,TIMESTAMP\n0,1,1706659200\n"
    unreadable = "the timestamp cannot be read as %Y%m%d"
    assert outcome.left_out == {unreadable: 1, SENTINEL: 1, FUTURE: 1}


def test_mixed_units_are_an_error(spark: SparkSession, tmp_path: Path) -> None:
    outcome = prepare_by_both(spark, tmp_path, f"{HEADER}1,2,5,1000000000\n\n1,2,5,1000000000000\n")
    assert outcome.error.startswith("ratings.csv, line 4: the timestamp is in milli")


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
    assert outcome.csv_text is not None
    assert "1,010,1000,buy,4.50" in outcome.csv_text.splitlines()
    assert outcome.rows_read == 10


def test_numbers_in_json_are_as_they_are_written(spark: SparkSession, tmp_path: Path) -> None:
    """Among so many plain lines that these do not decide how lines are read."""
    numbers = [
        "6.0",
        "1e3",
        "1E3",
        "-0",
        "1.50",
        "0.1",
        "123456789.5",
        "1234567890123456789",
        '"6"',
    ]
    plain = '{{"userId": {0}, "movieId": {0}, "rating": 4.5, "timestamp": {0}, "price": {0}}}'
    lines = [plain.format(number) for number in [*map(str, range(200)), *numbers]]
    for number in numbers:
        for name in ("userId", "movieId", "timestamp", "price"):
            row = {"userId": "7", "movieId": "8", "rating": "5", "timestamp": "9", "price": "1"}
            row[name] = number
            lines.append("{" + ", ".join(f'"{key}": {cell}' for key, cell in row.items()) + "}")
    layout = replace(COMMA, format="json", event_value="price", timestamp_unit="s")
    outcome = prepare_by_both(
        spark, tmp_path, "\n".join(lines), layout, replace(SKIP, min_rating=4)
    )
    assert outcome.csv_text is not None
    assert {"6.0,8,9,1", "7,1e3,9,1", "7,8,9,1.50", "7,8,6,1"} <= set(outcome.csv_text.splitlines())
    assert outcome.left_out == {SENTINEL: 7}


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
    assert "b.parquet, row 2: no user" in outcome.examples


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
    assert outcome.csv_text is not None
    assert [int(line.split(",")[2]) for line in outcome.csv_text.splitlines()[1:]] == seconds
    outcome = compare_engines(spark, files[:3], replace(layout, timezone="Asia/Tokyo"), SKIP)
    assert outcome.csv_text is not None
    tokyo = 9 * 3600
    shifted_seconds = [seconds[0] - tokyo, seconds[1], midnight - tokyo]
    assert [
        int(line.split(",")[2]) for line in outcome.csv_text.splitlines()[1:]
    ] == shifted_seconds


@pytest.mark.skipif(not IS_LONG, reason="make test-long: the next test has such numbers")
def test_numbers_with_points_between_thousands(spark: SparkSession, tmp_path: Path) -> None:
    layout = replace(COMMA, delimiter=";", decimal=",", event_value="price", types={"n": "double"})
    header = "userId;movieId;rating;timestamp;price;n\n"
    row = "1;10;{0};1000;{0};{0}\n"
    good = ["1.234,56", "1.234.567", "-12.345,", " 1.234,5 ", "1234,5"]
    bad = ["1.234", "12.34,5", "1,234.5", "1234.567,8"]
    rows = "".join(row.format(number) for number in [*good, *bad])
    outcome = prepare_by_both(spark, tmp_path, header + rows, layout)
    assert outcome.csv_text is not None
    values = [line.split(",")[3] for line in outcome.csv_text.splitlines()[1:]]
    assert values == ["1234.56", "1234567", "-12345.", "1234.5", "1234.5"]
    assert outcome.left_out == {"the rating is not a number": len(bad)}


def test_numbers_with_a_comma_for_the_point(spark: SparkSession, tmp_path: Path) -> None:
    cells = ["4,5", "4", ",5e1", " 4,25 ", "4.5", "1.234,5", "4,5,6", "5,", "nan", ",", "3,4", ""]
    good = ["4,5", "4,5", "4,5"]
    numbers = [[*good[:place], cell, *good[place + 1 :]] for place in range(3) for cell in cells]
    rows = [
        ",".join([str(row), "1", f'"{rating}"', "1000", f'"{value}"', f'"{price}"'])
        for row, (rating, value, price) in enumerate(numbers)
    ]
    content = "\n".join(["userId,movieId,rating,timestamp,value,price", *rows, ""])
    layout = replace(COMMA, event_value="value", types={"price": "double"}, decimal=",")
    rules = replace(SKIP, min_rating=3.5, filter="price > 4.2 OR price IS NULL")
    outcome = prepare_by_both(spark, tmp_path, content, layout, rules)
    assert outcome.csv_text is not None
    assert "0,1,1000,4.5" in outcome.csv_text.splitlines()
    assert set(outcome.left_out or {}) >= {
        *("the rating is not a number", "the event value is not a number"),
        *("price is not of type double", "rating below min_rating", "not in the filter"),
    }


FILTERS = [
    "rating >= 3.5 AND kind <> 'gift'",
    "kind IN ('it''s', 'gift') OR kind IS NULL",
    "kind LIKE 'g%' AND count BETWEEN 1 AND 3",
    "NOT new OR count * 2 > 3",
    "\"the kind\" = 'a\\b' OR LOWER(kind) = 'gift'",
    "STARTS_WITH(kind, 'G') OR STRPOS(kind, '''') > 0",
]


def test_filters(spark: SparkSession, tmp_path: Path) -> None:
    """One filter joins all conditions, each of which sees the same rows of its own item."""
    chance = random.Random(0)
    kinds = ["gift", "it's", "Gift", "a\\b", ""]
    numbers = ["1", "2", " 3 ", "", "x", "1.5", "-0", "4"]
    rows = [
        f"1,{chance.choice(numbers)},{row},{chance.choice(kinds)},{chance.choice(numbers)},"
        f"{chance.choice(['true', 'FALSE', '', '1'])},{chance.choice(kinds)}"
        for row in range(60)
    ]
    content = "movieId,userId,rating,timestamp,kind,count,new,the kind"
    for item in range(len(FILTERS)):
        content += "".join(f"\n{item},{row}" for row in rows)
    types = dict.fromkeys(("movieId", "kind", "the kind"), "string")
    types |= {"rating": "double", "count": "long", "new": "boolean"}
    condition = " OR ".join(
        f"(movieId = '{n}' AND ({filter_text}))" for n, filter_text in enumerate(FILTERS)
    )
    layout = replace(COMMA, rating=None, types=types)
    outcome = prepare_by_both(spark, tmp_path, content, layout, replace(SKIP, filter=condition))
    assert outcome.csv_text is not None
    items_kept = Counter(line.split(",")[1] for line in outcome.csv_text.splitlines()[1:])
    assert items_kept.keys() == {str(item) for item in range(len(FILTERS))}
    assert max(items_kept.values()) < 60


RULES = st.builds(
    Rules,
    on_bad_rows=st.sampled_from(["skip", "skip", "skip", "fail"]),
    min_rating=st.none() | st.sampled_from([3.5, 4]),
    filter=st.none() | st.just("rating <> 4 OR kind = 'a'"),
    window_days=st.none() | st.integers(1, 3),
    duplicates=st.sampled_from(["keep", "drop"]),
    latest_per_pair=st.booleans(),
    min_interactions_per_user=st.none() | st.integers(1, 4),
    min_interactions_per_item=st.none() | st.integers(1, 4),
    event_type=st.booleans(),
)


@given(
    rules=RULES,
    event_type=st.sampled_from([None, "kind"]),
    event_value=st.sampled_from([None, "rating"]),
    unit=st.sampled_from(["auto", "s", "ms"]),
    dirt=st.sampled_from([[], DIRTY[:12], QUOTED]),
    seed=st.integers(0, 99),
    erased=st.sets(st.sampled_from(["u1", "u2", "1", "a,b", "é", "x"])),
)
@settings(max_examples=repeats(12, 2), deadline=None)
def test_any_rules(
    spark: SparkSession,
    rules: Rules,
    event_type: str | None,
    event_value: str | None,
    unit: str,
    dirt: list[str],
    seed: int,
    erased: set[str],
) -> None:
    chance = random.Random(seed)
    rows = [
        f"u{chance.randrange(8)},i{chance.randrange(9)},{chance.choice([1, 3.5, 4, 5])},"
        f"{1_000_000_000 + chance.randrange(40) * 10_000},{chance.choice('ab')}"
        for _ in range(80)
    ]
    for line in dirt:
        rows.insert(chance.randrange(len(rows)), line)
    content = HEADER.strip() + ",kind\n" + "\n".join(rows)
    types = {"rating": "double", "kind": "string"} if rules.filter else {}
    layout = replace(
        COMMA,
        timestamp_unit=unit,
        event_type=event_type,
        event_value=event_value,
        types=types,
    )
    with tempfile.TemporaryDirectory() as folder:
        prepare_by_both(spark, Path(folder), content, layout, rules, NOBODY.add(erased))


def test_rows_of_erased_users_are_as_if_they_were_not_there(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Nothing is wrong with them, their times do not count, and no message shows them."""
    gone = "person-of-no-return"
    lines = [
        f"{gone},10,bad,1000",
        f"{gone},10,5,2001-01-01",
        f"{gone},10,5,1000,more",
        f"another field,{gone},10,5,1000",
        "1,10,5,1000",
        "2,ten,bad,1000",
        "another-person,10,5,99",
    ]
    suppressed = NOBODY.add([gone, "another-person", "never-there"])
    outcome = prepare_by_both(
        spark, tmp_path, HEADER + "\n".join(lines) + "\n", suppressed=suppressed
    )
    assert outcome.csv_text == "USER_ID,ITEM_ID,TIMESTAMP\n1,10,1000\n"
    assert outcome.left_out is not None
    assert outcome.left_out[ERASED_USER] == 4
    assert outcome.erased_users == 2
    assert len(outcome.examples) == 2
    assert gone not in str(outcome)


def test_real_ratings_by_every_rule(spark: SparkSession, tmp_path: Path) -> None:
    real = real_data("ml-latest-small") / "ratings.csv"
    ratings = tmp_path / "ratings.csv"
    with real.open() as lines:
        ratings.write_text("".join(islice(lines, 5_001)))
    rules = Rules(
        min_rating=1.5,
        filter="rating <> 2.5",
        window_days=3000,
        duplicates="drop",
        latest_per_pair=True,
        min_interactions_per_user=20,
        min_interactions_per_item=2,
        event_type=True,
    )
    outcome = compare_engines(spark, [ratings], replace(COMMA, types={"rating": "double"}), rules)
    assert outcome.rows_read == 5_000
    assert outcome.left_out is not None
    assert len(outcome.left_out) == 5


def test_what_cannot_be_used_says_why(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.0015")
    row = {"userId": 1, "movieId": 1, "rating": 5, "timestamp": 1000}
    pl.DataFrame(row).select(pl.all().repeat_by(200_000).explode()).write_parquet(
        tmp_path / "many.parquet"
    )
    many_rows = (tmp_path / "many.parquet").read_bytes()
    cases: list[tuple[Any, Layout, Rules, str]] = [
        ("", COMMA, SKIP, "ratings.csv is empty"),
        (HEADER, COMMA, SKIP, "ratings.csv has a header and no rows"),
        ("\n1,2\n", COMMA, SKIP, "starts with an empty line"),
        ("a,b,c,d\n1,2,3,4\n", COMMA, SKIP, "has no column 'userId' (ratings.columns.user)"),
        ("1,2,3\n", Layout(",", 1, 2, 3, 4), SKIP, "column 4, but line 1 has 3"),
        (HEADER + "1,2,x,4\n", COMMA, Rules(), "line 2: the rating is not a number"),
        (HEADER + "1,2,x,4\n", COMMA, SKIP, "no row can be read"),
        ("x" * 200_000, COMMA, SKIP, "has no column 'userId'"),
        ("x" * 1_100_000, COMMA, SKIP, "ratings.csv: line 1 is longer than 1024 KB"),
        (gzip.compress(bytes(10**7)), COMMA, SKIP, "BATCHREC_MAX_FILE_GB allows"),
        (many_rows, replace(COMMA, format="parquet"), SKIP, "4800000 bytes"),
        (b"\x1f\x8bbroken", COMMA, SKIP, "ratings.csv is damaged"),
        ("\ufeffx".encode("utf-16"), COMMA, SKIP, "ratings.csv is in UTF-16"),
        ("PK\x03\x04", COMMA, SKIP, "ratings.csv is a zip archive"),
    ]
    for content, layout, rules, message in cases:
        outcome = prepare_by_both(spark, tmp_path, content, layout, rules)
        assert message in outcome.error
        assert "\n" not in outcome.error
    assert not list(tmp_path.glob("interactions*"))


def test_what_only_the_local_engine_reads_is_refused_by_name(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = tmp_path / "ratings.json"
    path.write_text('[{"userId": 1, "movieId": 2, "rating": 5, "timestamp": 1000}]')
    layout = replace(COMMA, format="json")
    assert (
        prepare_on_polars([path], layout, SKIP).csv_text == "USER_ID,ITEM_ID,TIMESTAMP\n1,2,1000\n"
    )
    error = prepare_on_spark(spark, [path], layout, SKIP).error
    assert error.startswith("ratings.json is a JSON array, which Spark does not read here")


def test_the_script_reports_why_it_fails(
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
    messages = tmp_path / "messages"
    context = dict.fromkeys(PipesContextData.__annotations__) | {"extras": {"task": asdict(task)}}
    monkeypatch.setattr(PipesContext, "_instance", None)
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", encode_param({"data": context}))
    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", encode_param({"path": str(messages)}))
    with pytest.raises(PreparationError):
        job.main()
    (error_report,) = [
        message["params"]["payload"]["error"]
        for message in map(json.loads, messages.read_text().splitlines())
        if message["method"] == "report_custom_message"
    ]
    assert error_report.startswith(
        "ratings.csv: interactions.filter fails: conversion from `str` to `i32`"
    )


def test_a_task_goes_through_json() -> None:
    from batchrec_dagster.preparation.spark.task import SourceFile, SparkTask

    task = SparkTask(
        [SourceFile("s3://b/k", "k")],
        COMMA.form,
        COMMA.columns,
        SKIP,
        "s3://b/out.csv",
        "s3://b/users",
        "s3://b/work",
    )
    assert SparkTask.from_json(json.loads(json.dumps(asdict(task)))) == task
