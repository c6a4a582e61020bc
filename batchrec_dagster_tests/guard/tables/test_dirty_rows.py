"""Tests of unreadable rows.

As `ratings.on_bad_rows` says, the file, line and reason of a bad row are named, or bad rows are
left out and counted. Odd but valid rows are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.builders import write_source
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation

COLUMNS = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time"}
POSITIONS = {"user": 1, "item": 2, "timestamp": 3}
HEADER = "user,item,rating,time,title\n"
GOOD = "1,10,5,1500000000,A\n"
KEPT = ("1", "10", 1_500_000_000)
CUT_OFF = "a last line without a line end and with too few fields: the file is cut off"
NULL_ID = "an id that means no value"


def read(
    folder: Path, contents: Sequence[str | bytes], on_bad_rows: str = "skip", **ratings: Any
) -> preparation.Interactions:
    """Return the interactions in files with these contents, which are named by number."""
    files = {f"{number}.csv": content for number, content in enumerate(contents, start=1)}
    settings = {"columns": COLUMNS, "on_bad_rows": on_bad_rows, **ratings}
    return preparation.prepare(
        folder, {"ratings": {"source": write_source(folder, files), **settings}}
    )


def read_refusal(
    folder: Path, contents: Sequence[str | bytes], on_bad_rows: str = "fail", **ratings: Any
) -> str:
    """Return the message that refuses files with these contents. No interactions are written."""
    with pytest.raises(preparation.UserError) as error:
        read(folder, contents, on_bad_rows, **ratings)
    assert "\n" not in str(error.value)
    assert not (folder / "interactions.csv").exists()
    return str(error.value)


BAD = [
    ("a NUL in an id", b"1,1\x000,5,1500000000,A\n", "an id with a line break or a NUL in it"),
    ("a line break in an id", b'"1\n2",10,5,1500000000,A\n', "an id with a line break or a NUL"),
    ("a missing user", b",10,5,1500000000,A\n", "no user"),
    ("a blank item", b"1, ,5,1500000000,A\n", "no item"),
    ("an empty item in quotes", b'1,"",5,1500000000,A\n', "no item"),
    ("a missing rating", b"1,10,,1500000000,A\n", "no rating"),
    ("NULL for a rating", b"1,10,NULL,1500000000,A\n", "the rating is not a number"),
    ("a rating in words", b"1,10,good,1500000000,A\n", "the rating is not a number"),
    ("NaN", b"1,10,NaN,1500000000,A\n", "the rating is not a number"),
    ("infinity", b"1,10,-inf,1500000000,A\n", "the rating is not a number"),
    ("a comma for a point", b'1,10,"3,5",1500000000,A\n', "the rating is not a number"),
    ("a negative time", b"1,10,5,-1500000000,A\n", "the timestamp is before 1970"),
    ("a time in words", b"1,10,5,yesterday,A\n", "the timestamp is not a number"),
    ("an id of 257 characters", b"x" * 257 + b",10,5,1500000000,A\n", "an id longer than 256"),
    ("too many fields", b"1,10,5,1500000000,A,B,C\n", "more than the 5 fields"),
    ("a line cut off", b"1,10,5", CUT_OFF),
    ("a line cut off in a time", b"1,10,5,1500", CUT_OFF),
    ("a line cut off after quotes", b'"1",10,5,1500', CUT_OFF),
    *(
        (f"{null} for a user", f"{null},10,5,1500000000,A\n".encode(), NULL_ID)
        for null in ("NULL", "\\N", "nan", "None", "(null)", "undefined", " N/A", "null ")
    ),
    ("NULL for an item", b"1,NULL,5,1500000000,A\n", NULL_ID),
    ("NULL for a time", b"1,10,5,NULL,A\n", "no timestamp"),
    ("what is no UTF-8", "é\n".encode() + b"1,1\xff,5,1500000000,A\n", "no item"),
]


@pytest.mark.parametrize(("row", "reason"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_row_is_named_with_file_line_and_reason_or_counted(
    tmp_path: Path, row: bytes, reason: str
) -> None:
    contents = [(HEADER + GOOD).encode(), (HEADER + GOOD * 3).encode() + row]
    message = read_refusal(tmp_path, contents)
    assert message.startswith(f"2.csv, line 5: {reason}")
    assert "ratings.on_bad_rows: skip" in message
    interactions = read(tmp_path, contents)
    assert interactions.rows == [KEPT] * 4
    bad = row.count(b"\n1") + 1
    assert interactions.rows_read - 4 == sum(interactions.left_out.values()) == bad
    assert interactions.bad_rows[0].startswith("2.csv, line 5: ")


HARMLESS = [
    ("a delimiter in quotes", b'"1,1",10,5,1500000000,"A, B"\n', "1,1", "10"),
    ("quotes in quotes", b'"1""1",10,5,1500000000,"A ""B"""\n', '1"1', "10"),
    ("quotes within a field", b'1,10"x",5,1500000000,A\n', "1", '10"x"'),
    ("a line break in a title", b'1,10,5,1500000000,"A\nB"\n', "1", "10"),
    ("CRLF", b"1,10,5,1500000000,A\r\n", "1", "10"),
    ("CRLF at a short row's end", b"1,10,5,1500000000\r\n", "1", "10"),
    ("no line end after a line break", b'1,10,5,1500000000,"A\nB"', "1", "10"),
    ("no line end", b"1,10,5,1500000000,A", "1", "10"),
    ("blank lines", b"\n\r\n1,10,5,1500000000,A\n\n,,,,\n", "1", "10"),
    ("spaces in an id", b" 1 a ,10,5,1500000000,A\n", " 1 a ", "10"),
    ("spaces around numbers", b"1,10, 5\t, 1500000000 ,A\n", "1", "10"),
    ("letters of all kinds", "ñ,日本,5,1500000000,🎬\n".encode(), "ñ", "日本"),
    ("leading zeros", b"007,00,5,1500000000,A\n", "007", "00"),
    ("NUL in a title", b"1,10,5,1500000000,A\x00B\n", "1", "10"),
    ("256 characters", b"x" * 256 + b",10,5,1500000000,A\n", "x" * 256, "10"),
    ("256 letters", ("é" * 256 + ",10,5,1500000000,A\n").encode(), "é" * 256, "10"),
    ("a rating in e", b"1,10,5e0,1500000000,A\n", "1", "10"),
]


@pytest.mark.parametrize(
    ("row", "user", "item"), [row[1:] for row in HARMLESS], ids=[row[0] for row in HARMLESS]
)
def test_odd_but_valid_rows_are_kept_unchanged(
    tmp_path: Path, row: bytes, user: str, item: str
) -> None:
    for start in (b"", "\ufeff".encode()):
        interactions = read(tmp_path, [start + HEADER.encode() + row], "fail")
        assert interactions.rows == [(user, item, 1_500_000_000)]
        assert interactions.rows_read == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'1,"10,5,1500000000,A\n', 'a field that starts with " does not end with one'),
        (b'1,"10" x,5,1500000000,A\n', 'a field that starts with " does not end with one'),
        (b'1,10,5,1500000000,"A', 'a field that starts with " does not end with one'),
        (b'1,10"x,5,1500000000,A\n', 'there is a single " within a field'),
    ],
)
def test_a_quote_that_does_not_end_is_an_error_either_way(
    tmp_path: Path, row: bytes, message: str
) -> None:
    content = (HEADER + GOOD).encode() + row + GOOD.encode() * 9
    for on_bad_rows in ("fail", "skip"):
        refusal = read_refusal(tmp_path, [content], on_bad_rows)
        assert refusal.startswith(f"1.csv, line 3: {message}")
        assert "ratings.quotes: false" in refusal


def test_quotes_may_mean_nothing(tmp_path: Path) -> None:
    content = HEADER.encode() + b'"1,10,5,1500000000,"A" B\n'
    assert read(tmp_path, [content], "fail", quotes=False).rows == [('"1', "10", 1_500_000_000)]


def test_a_cell_of_another_kind_far_into_the_file_is_found(tmp_path: Path) -> None:
    rows = [f"{row},10,5,1500000000,A\n" for row in range(60_000)]
    rows[40_000] = "u-40000,10,5,1500000000,A\n"
    rows[50_000] = "50000,10,five,1500000000,A\n"
    contents = [(HEADER + "".join(rows)).encode()]
    assert read_refusal(tmp_path, contents).startswith(
        "1.csv, line 50002: the rating is not a number"
    )
    interactions = read(tmp_path, contents)
    assert interactions.rows[40_000][0] == "u-40000"
    assert interactions.left_out == {"the rating is not a number": 1}


def test_an_empty_file_among_full_ones_is_passed_over(tmp_path: Path) -> None:
    interactions = read(tmp_path, [b"", HEADER + GOOD, HEADER, b""], "fail")
    assert interactions.rows == [KEPT]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (["", ""], "1.csv is empty"),
        ([HEADER], "1.csv has a header and no rows"),
        ([HEADER + ",,9,9,\n,,9,9,\n"], "no row can be read; 1.csv, line 2: no user"),
    ],
)
def test_files_without_a_row_to_read_are_refused(
    tmp_path: Path, contents: list[str], message: str
) -> None:
    assert read_refusal(tmp_path, contents, "skip").startswith(message)


DIRTY_JSON = [
    (b"not json\n", "not a JSON object"),
    (b"[1, 2]\n", "not a JSON object"),
    (b'{"user": 1, "item": 10, "rat', "not a JSON object"),
    (b'{"user": null, "item": 10, "rating": 5, "time": 1500000000}\n', "no user"),
    (b'{"user": "null", "item": 10, "rating": 5, "time": 1500000000}\n', NULL_ID),
    (b'{"user": 1, "item": NaN, "rating": 5, "time": 1500000000}\n', NULL_ID),
    (b'{"user": {"id": 1}, "item": 10, "rating": 5, "time": 1500000000}\n', "no user"),
    (b'{"user": 1, "item": 10, "rating": NaN, "time": 1500000000}\n', "the rating is not a numb"),
    (b'{"user": 1, "item": 10, "rating": 5, "time": "1.5e9x"}\n', "the timestamp is not a number"),
    (b'{"user": "\\ud800", "item": 1, "rating": 5, "time": 1500000000}\n', "an id that is not"),
    (b'{"user": "a\\u0000", "item": 1, "rating": 5, "time": 1500000000}\n', "an id with a line"),
]


@pytest.mark.parametrize(("row", "reason"), DIRTY_JSON)
def test_a_bad_line_of_json_is_named_with_its_line_or_counted(
    tmp_path: Path, row: bytes, reason: str
) -> None:
    content = b'{"user": "1", "item": 10, "rating": 5, "time": 1500000000}\r\n\n' + row
    assert read_refusal(tmp_path, [content], format="json").startswith(f"1.csv, line 3: {reason}")
    interactions = read(tmp_path, [content], format="json")
    assert interactions.rows == [KEPT]
    assert interactions.rows_read == 2


def test_nulls_and_nans_of_parquet_are_named_by_their_row(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user": ["a", None, "c", "d", "NaN"],
            "item": [1, 2, 3, 4, 5],
            "rating": [5.0, 5.0, float("nan"), float("inf"), 5.0],
            "time": [1500000000] * 5,
        }
    )
    frame.write_parquet(tmp_path / "made")
    content = [(tmp_path / "made").read_bytes()]
    assert read_refusal(tmp_path, content).startswith("1.csv, row 2: no user ")
    interactions = read(tmp_path, content)
    assert interactions.rows == [("a", "1", 1_500_000_000)]
    assert sorted(interactions.left_out.values()) == [1, 1, 2]


NULLS = "NULL,10,5,1500000000\n1,10,-1,1500000000\n-1,10,5,1500000000\n1,10,5,7\n"


@pytest.mark.parametrize(
    ("null_values", "users"),
    [
        (None, ["1", "-1", "1"]),
        ([], ["NULL", "1", "-1", "1"]),
        (["-1", "7"], []),
    ],
)
@pytest.mark.parametrize("title", ["None", 'a "None"'], ids=["plain", "with quotes"])
def test_placeholders_for_missing_values_are_declared(
    tmp_path: Path, null_values: list[str] | None, users: list[str], title: str
) -> None:
    content = HEADER + NULLS.replace("\n", f",{title}\n") + "last,10,5,1500000000,x\n"
    interactions = read(tmp_path, [content], null_values=null_values)
    assert [user for user, _, _ in interactions.rows] == [*users, "last"]
    assert sum(interactions.left_out.values()) == 4 - len(users)


def test_an_event_value_may_be_missing_and_an_event_type_may_not(tmp_path: Path) -> None:
    rows = "1,2,9,buy,NULL\n1,2,9,NULL,3\n1,2,9,buy,-1\n1,2,9,buy,1.50\n"
    columns = {"user": "user", "item": "item", "timestamp": "time"}
    columns |= {"event_type": "kind", "event_value": "price"}
    content = f"user,item,time,kind,price\n{rows}"
    interactions = read(tmp_path, [content], columns=columns, null_values=["-1"])
    assert interactions.events == [("buy", ""), ("buy", ""), ("buy", "1.50")]
    assert interactions.left_out == {"no event type": 1}


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (
            "1::10::1500000000::5\n2::10::1500000000::5\n3::10::15",
            {"delimiter": "::"},
        ),
        ("1\t10\t9\tA\n\n2\t10\t9\tB\n3\t10\t1", {"delimiter": "\t", "timestamp_unit": "s"}),
    ],
)
def test_a_file_that_is_cut_off_without_a_header_is_named(
    tmp_path: Path, content: str, settings: dict[str, Any]
) -> None:
    interactions = read(tmp_path, [content, content + "\n"], columns=POSITIONS, **settings)
    assert interactions.left_out == {CUT_OFF: 1}
    assert [user for user, _, _ in interactions.rows] == ["1", "2", "1", "2", "3"]
    number = content.count("\n") + 1
    assert interactions.bad_rows[0].startswith(f"1.csv, line {number}: {CUT_OFF}")


@pytest.mark.parametrize(
    ("ids", "is_warned_of"),
    [
        (["913.0", "", "7.0"], True),
        (["7", "913.0"], True),
        (["913", "7"], False),
        (["913.0", "b"], False),
        (["9" * 25, "1"], False),
    ],
)
def test_ids_that_became_decimals_are_warned_of(
    tmp_path: Path, ids: Sequence[str], is_warned_of: bool
) -> None:
    content = "user,item,time\n" + "".join(f"u{n},{id},9\n" for n, id in enumerate(ids))
    warnings = read(tmp_path, [content], columns=None).warnings
    assert bool(warnings) is is_warned_of
    for warning in warnings:
        assert warning.startswith("1.csv: the item ids (column item)")
        assert "913.0 is not the id of 913" in warning


def test_a_nul_or_half_a_character_does_not_end_a_message(tmp_path: Path) -> None:
    content = HEADER.encode() + b"1,10,5,1500000000,A\n1,\xff,5,1500000000,A\n"
    message = read_refusal(tmp_path, [content], encoding="utf-8")
    assert message.startswith("1.csv, line 3: an id that is not UTF-8 text")


@settings(deadline=None, max_examples=repeats(200, 12))
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    content = (HEADER + GOOD + text).encode("utf-8", "surrogatepass")
    try:
        interactions = read(tmp_path_factory.mktemp("any"), [content])
    except preparation.UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is fine, so is each text)
    else:
        assert interactions.rows[0] == KEPT
        assert interactions.rows_read == len(interactions.rows) + sum(
            interactions.left_out.values()
        )
