"""Ratings file -> interactions: every row is kept, left out for a reason, or told as an error."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.preparation.layout import Layout, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, PreparationResult, Rules
from batchrec_dagster.preparation.users import list_distinct_users

COMMA = Layout(",", "userId", "movieId", "rating", "timestamp")
# Every text counts as an id, even NULL.
ANY_IDS = Layout(",", "userId", "movieId", "rating", "timestamp", null_values=())
HEADER = "userId,movieId,rating,timestamp\n"


def prepare(
    folder: Path,
    content: str | bytes,
    layout: Layout | ReadSettings = COMMA,
    *,
    min_rating: float | None = 3.5,
    on_bad_rows: Literal["fail", "skip"] = "fail",
    event_type: bool = False,
) -> tuple[list[str], PreparationResult]:
    """The lines of the interactions file, and what was counted."""
    path, target = folder / "ratings.csv", folder / "interactions.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rules = Rules(on_bad_rows=on_bad_rows, min_rating=min_rating, event_type=event_type)
    with open_ratings([RawFile(path, "ratings.csv")], layout, rules) as ratings:
        result = ratings.write_interactions(target)
    return target.read_text().splitlines(), result


def test_low_ratings_are_left_out_and_counted(tmp_path: Path) -> None:
    lines, result = prepare(tmp_path, HEADER + "1,10,3.5,1000\n1,11,3,1001\n2,10,5,1002\n")
    assert lines == ["USER_ID,ITEM_ID,TIMESTAMP", "1,10,1000", "2,10,1002"]
    assert (result.rows_read, result.rows_kept) == (3, 2)
    assert result.left_out == {BELOW_MIN_RATING: 1}


def test_without_a_minimum_every_row_is_kept(tmp_path: Path) -> None:
    lines, result = prepare(tmp_path, HEADER + "1,10,0.5,1000\n2,11,3,1001\n", min_rating=None)
    assert lines[1:] == ["1,10,1000", "2,11,1001"]
    assert result.left_out == {}


def test_an_event_type_is_added_where_a_filter_needs_it(tmp_path: Path) -> None:
    lines, _ = prepare(tmp_path, HEADER + "1,10,5,1000\n", event_type=True)
    assert lines == ["USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE", "1,10,1000,rating"]


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        ("1\t10\t5\t1000\n", Layout("\t", 1, 2, 3, 4)),
        ("1::10::5::1000\n", Layout("::", 1, 2, 3, 4)),
        ("1000;10;5;1\n", Layout(";", 4, 2, 3, 1)),
        ("10|1|1000\n", Layout("|", 2, 1, None, 3)),
        ('t,"i","u",r\n1000,10,"1",5\n', Layout(",", "u", "i", "r", "t")),
        ("\ufeffu,i,r,t\r\n1,10,5,1000\r\n\r\n", Layout(",", "u", "i", "r", "t")),
    ],
    ids=["tab", "double colon", "other order", "no rating", "quotes", "BOM, CRLF, blank line"],
)
def test_layouts(tmp_path: Path, content: str, layout: Layout) -> None:
    minimum = None if layout.rating is None else 3.5
    lines, result = prepare(tmp_path, content, layout, min_rating=minimum)
    assert lines[1:] == ["1,10,1000"]
    assert result.rows_read == 1


@pytest.mark.parametrize(
    ("declared_unit", "times", "unit", "seconds"),
    [
        ("auto", (978300760, 978302109), "s", [978300760, 978302109]),
        ("auto", (1162160236000, 1162160237999), "ms", [1162160236, 1162160237]),
        ("ms", (978300760, 978302109), "ms", [978300, 978302]),
    ],
)
def test_timestamps_become_seconds(
    tmp_path: Path, declared_unit: str, times: tuple[int, int], unit: str, seconds: list[int]
) -> None:
    layout = replace(COMMA, timestamp_unit=declared_unit)
    lines, result = prepare(tmp_path, HEADER + "".join(f"1,2,5,{time}\n" for time in times), layout)
    assert result.timestamp_unit == unit
    assert [int(line.split(",")[2]) for line in lines[1:]] == seconds


BAD_ROWS = [
    ("1,10,good,1000", "the rating is not a number"),
    ("1,10,nan,1000", "the rating is not a number"),
    ("1,10,inf,1000", "the rating is not a number"),
    ("1,10,5,yesterday", "the timestamp is not a number"),
    ("1,10,5,1000.5.5", "the timestamp is not a number"),
    ("1,10,5,-1000", "the timestamp is before 1970"),
    ("1,10,5", "no timestamp"),
    ("1,10", "no rating"),
    ("1,10,5,1000,more", "more than the 4 fields"),
    (",10,5,1000", "no user"),
    ("1, ,5,1000", "no item"),
    (f"{'x' * 257},10,5,1000", "an id longer than 256 characters"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_fails_with_file_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    with pytest.raises(PreparationError) as error:
        prepare(tmp_path, f"{HEADER}1,10,5,1000\n{row}\n2,10,5,1000\n")
    assert str(error.value).startswith(f"ratings.csv, line 3: {reason} (1 such")
    assert "ratings.on_bad_rows: skip" in str(error.value)
    assert not (tmp_path / "interactions.csv").exists()


@pytest.mark.parametrize("delimiter", [";", "::", ","])
def test_a_comma_may_stand_for_the_point_in_numbers(tmp_path: Path, delimiter: str) -> None:
    numbers = [("3,5", "7,25"), ("3,4", "1"), ("4", ""), (",5e1", "-2,5")]

    def build_content(point: str) -> str:
        rows = [
            delimiter.join(
                f'"{cell}"' if delimiter in cell else cell
                for cell in (
                    "a,b",
                    "10",
                    rating.replace(",", point),
                    "1000",
                    value.replace(",", point),
                )
            )
            for rating, value in numbers
        ]
        return "\n".join([delimiter.join(["user", "item", "rating", "time", "price"]), *rows, ""])

    points = Layout(delimiter, "user", "item", "rating", "time", event_value="price")
    lines, result = prepare(tmp_path, build_content("."), points)
    commas = replace(points, decimal=",")
    assert prepare(tmp_path, build_content(","), commas) == (lines, result)
    assert lines[-1].endswith("1000,-2.5")
    with open_ratings(
        [RawFile(tmp_path / "ratings.csv", "")], commas, Rules(filter="price > 1")
    ) as read:
        assert read.layout.types == {"price": "double"}
    with pytest.raises(PreparationError, match="line 6: the rating is not a number"):
        prepare(
            tmp_path, build_content(",") + delimiter.join(["c", "10", "3.5", "1000", "1"]), commas
        )


def test_what_has_no_commas_cannot_be_recognised_in_one(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match="is json, whose numbers have a point"):
        prepare(tmp_path, '{"user": 1}\n', ReadSettings(decimal=","))


def test_bad_rows_are_skipped_counted_and_named(tmp_path: Path) -> None:
    rows = "".join(f"{row}\n" for row, _ in BAD_ROWS)
    lines, result = prepare(
        tmp_path, f"{HEADER}1,10,5,1000\n{rows}2,10,5,1000\n", on_bad_rows="skip"
    )
    assert lines[1:] == ["1,10,1000", "2,10,1000"]
    assert sum(result.left_out.values()) == len(BAD_ROWS)
    assert result.left_out["the rating is not a number"] == 3
    assert result.bad_row_examples[0] == "ratings.csv, line 3: the rating is not a number"


def test_bytes_that_are_not_utf8_are_found_in_their_row(tmp_path: Path) -> None:
    layout = replace(COMMA, encoding="utf-8")
    with pytest.raises(PreparationError, match="line 3: an id that is not UTF-8 text"):
        prepare(tmp_path, HEADER.encode() + b"1,10,5,1000\n1,\xff,5,1000\n", layout)


@pytest.mark.parametrize(
    ("content", "layout", "message"),
    [
        ("", COMMA, "is empty"),
        (HEADER, COMMA, "has a header and no rows"),
        ("a,b,c,d\n1,2,3,4\n", COMMA, "has no column 'userId' (ratings.columns.user)"),
        ("userId\tmovieId\trating\ttimestamp\n", COMMA, r"is ratings.delimiter '\t'?"),
        ("1::2::3::4\n", Layout(",", 1, 2, 3, 4), "is ratings.delimiter '::'?"),
        ("1,2,3\n", Layout(",", 1, 2, 3, 4), "column 4, but line 1 has 3"),
        (HEADER + "1,2,5,1000000000\n1,2,5,1000000000000\n", COMMA, "ratings.timestamp_unit"),
    ],
    ids=["empty", "no rows", "no column", "tab", "colons", "too few", "mixed units"],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, content: str, layout: Layout, message: str
) -> None:
    with pytest.raises(PreparationError) as error:
        prepare(tmp_path, content, layout)
    assert str(error.value).startswith("ratings.csv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "interactions.csv").exists()


IDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffd"),
    min_size=1,
    max_size=8,
).filter(str.strip)


# Eight digits are a day, such as 20240131.
SECONDS = st.integers(1, 9_999_999) | st.integers(100_000_000, 2_000_000_000)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(
        st.tuples(IDS, IDS, st.sampled_from([0.5, 3.0, 3.5, 5.0]), SECONDS),
        min_size=1,
        max_size=20,
    )
)
def test_any_ids_come_through_as_they_are(rows: list[tuple[str, str, float, int]]) -> None:
    """Also those that mean no value elsewhere, where the declaration says so."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([COMMA_HEADER, *rows])
        prepare(Path(folder), path.read_bytes(), ANY_IDS)
        with (Path(folder) / "interactions.csv").open(newline="", encoding="utf-8") as file:
            rows_written = [tuple(row) for row in csv.reader(file)][1:]
    assert rows_written == [
        (user, item, str(time)) for user, item, rating, time in rows if rating >= 3.5
    ]


COMMA_HEADER = HEADER.strip().split(",")


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = (HEADER + "1,2,5,1000\n" + text).encode("utf-8", "surrogatepass")
        try:
            _, result = prepare(Path(folder), content, on_bad_rows="skip")
        except PreparationError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either outcome is fine, so is each text)
        else:
            assert result.rows_kept >= 1
            assert result.rows_read == result.rows_kept + sum(result.left_out.values())


def test_users_are_distinct_and_in_order() -> None:
    interactions = pl.LazyFrame({"USER_ID": ["b", "10", "9", "b"], "ITEM_ID": list("wxyz")})
    assert list_distinct_users(interactions).to_dict(as_series=False) == {
        "userId": ["10", "9", "b"]
    }
