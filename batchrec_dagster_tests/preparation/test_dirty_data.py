"""Dirty data: a clear error with file and line, or skipped and counted, by on_bad_rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster.preparation.layout import CUT_OFF, NULL_VALUES, Layout, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.row_problems import NULL_ID
from batchrec_dagster.preparation.rules import PreparationResult, Rules

LAYOUT = Layout(",", "user", "item", "rating", "time")
HEADER = "user,item,rating,time,title\n"
GOOD = "1,10,5,1500000000,A\n"


def prepare(
    folder: Path, contents: Sequence[bytes], rules: Rules, reading: ReadSettings | Layout = LAYOUT
) -> tuple[list[str], PreparationResult]:
    """The lines after the header, and what was counted."""
    files = []
    for number, content in enumerate(contents, start=1):
        path = folder / f"{number}.csv"
        path.write_bytes(content)
        files.append(RawFile(path, path.name))
    target = folder / "interactions.csv"
    with open_ratings(files, reading, rules) as ratings:
        result = ratings.write_interactions(target)
    return target.read_bytes().decode().split("\n")[1:-1], result


BAD = [
    ("a NUL in an id", b"1,1\x000,5,1500000000,A\n", "an id with a line break or a NUL in it"),
    ("a line break in an id", b'"1\n2",10,5,1500000000,A\n', "an id with a line break or a NUL"),
    ("a missing user", b",10,5,1500000000,A\n", "no user"),
    ("an empty item in quotes", b'1,"",5,1500000000,A\n', "no item"),
    ("a missing rating", b"1,10,,1500000000,A\n", "no rating"),
    ("NULL for a rating", b"1,10,NULL,1500000000,A\n", "the rating is not a number"),
    ("NaN", b"1,10,NaN,1500000000,A\n", "the rating is not a number"),
    ("infinity", b"1,10,-inf,1500000000,A\n", "the rating is not a number"),
    ("a comma for a point", b'1,10,"3,5",1500000000,A\n', "the rating is not a number"),
    ("a negative time", b"1,10,5,-1500000000,A\n", "the timestamp is before 1970"),
    ("a time in words", b"1,10,5,yesterday,A\n", "the timestamp is not a number"),
    ("an id of 300 characters", b"x" * 300 + b",10,5,1500000000,A\n", "an id longer than 256"),
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
def test_a_bad_row_is_an_error_with_file_and_line_or_counted(
    tmp_path: Path, row: bytes, reason: str
) -> None:
    contents = [(HEADER + GOOD).encode(), (HEADER + GOOD * 3).encode() + row]
    with pytest.raises(PreparationError) as error:
        prepare(tmp_path, contents, Rules())
    assert str(error.value).startswith(f"2.csv, line 5: {reason}")
    assert not (tmp_path / "interactions.csv").exists()
    lines, result = prepare(tmp_path, contents, Rules("skip"))
    assert lines == ["1,10,1500000000"] * 4
    assert result.rows_kept == 4
    assert result.rows_read - 4 == sum(result.left_out.values()) == row.count(b"\n1") + 1
    assert result.bad_row_examples[0].startswith("2.csv, line 5: ")


HARMLESS = [
    ("a delimiter in quotes", b'"1,1",10,5,1500000000,"A, B"\n', '"1,1",10,1500000000'),
    ("quotes in quotes", b'"1""1",10,5,1500000000,"A ""B"""\n', '"1""1",10,1500000000'),
    ("quotes within a field", b'1,10"x",5,1500000000,A\n', '1,"10""x""",1500000000'),
    ("a line break in a title", b'1,10,5,1500000000,"A\nB"\n', "1,10,1500000000"),
    ("CRLF", b"1,10,5,1500000000,A\r\n", "1,10,1500000000"),
    ("CRLF at a short row's end", b"1,10,5,1500000000\r\n", "1,10,1500000000"),
    ("no line end after a line break", b'1,10,5,1500000000,"A\nB"', "1,10,1500000000"),
    ("no line end", b"1,10,5,1500000000,A", "1,10,1500000000"),
    ("blank lines", b"\n\r\n1,10,5,1500000000,A\n\n,,,,\n", "1,10,1500000000"),
    ("spaces in an id", b" 1 a ,10,5,1500000000,A\n", " 1 a ,10,1500000000"),
    ("spaces around numbers", b"1,10, 5\t, 1500000000 ,A\n", "1,10,1500000000"),
    ("letters of all kinds", "ñ,日本,5,1500000000,🎬\n".encode(), "ñ,日本,1500000000"),
    ("leading zeros", b"007,00,5,1500000000,A\n", "007,00,1500000000"),
    ("NUL in a title", b"1,10,5,1500000000,A\x00B\n", "1,10,1500000000"),
    ("256 characters", b"x" * 256 + b",10,5,1500000000,A\n", "x" * 256 + ",10,1500000000"),
    ("256 letters", ("é" * 256 + ",10,5,1500000000,A\n").encode(), "é" * 256 + ",10,1500000000"),
    ("a rating in e", b"1,10,5e0,1500000000,A\n", "1,10,1500000000"),
]


@pytest.mark.parametrize(
    ("row", "expected_line"), [row[1:] for row in HARMLESS], ids=[row[0] for row in HARMLESS]
)
@pytest.mark.parametrize("start", [b"", "\ufeff".encode()], ids=["", "BOM"])
def test_what_looks_odd_and_is_right_is_kept(
    tmp_path: Path, row: bytes, expected_line: str, start: bytes
) -> None:
    lines, result = prepare(tmp_path, [start + HEADER.encode() + row], Rules(min_rating=5))
    assert lines == [expected_line]
    assert (result.rows_read, result.rows_kept) == (1, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'1,"10,5,1500000000,A\n', 'a field that starts with " does not end with one'),
        (b'1,"10" x,5,1500000000,A\n', 'a field that starts with " does not end with one'),
        (b'1,10,5,1500000000,"A', 'a field that starts with " does not end with one'),
        (b'1,10"x,5,1500000000,A\n', 'there is a single " within a field'),
    ],
)
@pytest.mark.parametrize("on_bad_rows", ["fail", "skip"])
def test_a_quote_that_does_not_end_is_an_error_either_way(
    tmp_path: Path, row: bytes, message: str, on_bad_rows: str
) -> None:
    content = (HEADER + GOOD).encode() + row + GOOD.encode() * 9
    with pytest.raises(PreparationError) as error:
        prepare(tmp_path, [content], Rules(on_bad_rows))  # type: ignore[arg-type]
    assert str(error.value).startswith(f"1.csv, line 3: {message}")
    assert "ratings.quotes: false" in str(error.value)


def test_quotes_may_mean_nothing(tmp_path: Path) -> None:
    reading = ReadSettings(
        columns={"user": "user", "item": "item", "timestamp": "time"}, quoted=False
    )
    lines, _ = prepare(
        tmp_path, [HEADER.encode() + b'"1,10,5,1500000000,"A" B\n'], Rules(), reading
    )
    assert lines == ['"""1",10,1500000000']


def test_milliseconds_among_seconds_are_an_error_with_file_and_line(tmp_path: Path) -> None:
    contents = [(HEADER + GOOD * 9 + "1,10,5,1500000000000,A\n" + GOOD).encode()]
    for rules in (Rules(), Rules("skip")):
        with pytest.raises(PreparationError, match=r"^1.csv, line 11: the timestamp is in"):
            prepare(tmp_path, contents, rules)


@pytest.mark.slow
def test_a_column_that_changes_its_type_far_into_the_file(tmp_path: Path) -> None:
    rows = [f"{row},10,5,1500000000,A\n" for row in range(200_000)]
    rows[150_000] = "u-150000,10,5,1500000000,A\n"
    rows[160_000] = "160000,10,five,1500000000,A\n"
    contents = [(HEADER + "".join(rows)).encode()]
    with pytest.raises(PreparationError, match=r"^1.csv, line 160002: the rating is not a number"):
        prepare(tmp_path, contents, Rules())
    lines, result = prepare(tmp_path, contents, Rules("skip"))
    assert lines[150_000] == "u-150000,10,1500000000"
    assert result.left_out == {"the rating is not a number": 1}


def test_an_empty_file_among_full_ones_is_passed_over(tmp_path: Path) -> None:
    contents = [b"", (HEADER + GOOD).encode(), HEADER.encode(), b""]
    lines, _ = prepare(tmp_path, contents, Rules())
    assert lines == ["1,10,1500000000"]


def test_files_that_are_all_empty_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"^1.csv is empty$"):
        prepare(tmp_path, [b"", b""], Rules())


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
def test_a_bad_line_of_json_is_an_error_with_its_line_or_counted(
    tmp_path: Path, row: bytes, reason: str
) -> None:
    good = b'{"user": "1", "item": 10, "rating": 5, "time": 1500000000}\r\n\n'
    with pytest.raises(PreparationError) as error:
        prepare(
            tmp_path,
            [good + row],
            Rules(),
            ReadSettings.of(Layout(**{**vars(LAYOUT), "format": "json"})),
        )
    assert str(error.value).startswith(f"1.csv, line 3: {reason}")
    lines, result = prepare(
        tmp_path, [good + row], Rules("skip"), Layout(**{**vars(LAYOUT), "format": "json"})
    )
    assert lines == ["1,10,1500000000"]
    assert result.rows_read == 2


def test_nulls_and_nans_of_parquet_are_reported_by_their_row(tmp_path: Path) -> None:
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
    layout = Layout(**{**vars(LAYOUT), "format": "parquet"})
    with pytest.raises(PreparationError, match=r"^1.csv, row 2: no user "):
        prepare(tmp_path, content, Rules(), layout)
    lines, result = prepare(tmp_path, content, Rules("skip"), layout)
    assert lines == ["a,1,1500000000"]
    assert result.left_out == {NULL_ID: 1, "no user": 1, "the rating is not a number": 2}


NULLS = "NULL,10,5,1500000000\n1,10,-1,1500000000\n-1,10,5,1500000000\n1,10,5,7\n"


@pytest.mark.parametrize(
    ("null_values", "expected_ids"),
    [
        (NULL_VALUES, ["1,10,1500000000", "-1,10,1500000000", "1,10,7"]),
        ((), ["NULL,10,1500000000", "1,10,1500000000", "-1,10,1500000000", "1,10,7"]),
        (("-1", "7"), ["NULL,10,1500000000"]),
    ],
)
@pytest.mark.parametrize("title", ["None", 'a "None"'], ids=["typed", "careful"])
def test_what_means_no_value_is_declared(
    tmp_path: Path, null_values: Sequence[str], expected_ids: list[str], title: str
) -> None:
    content = "user,item,rating,time,title\n" + NULLS.replace("\n", f",{title}\n")
    layout = Layout(",", "user", "item", "rating", "time", null_values=null_values)
    lines, result = prepare(tmp_path, [content.encode()], Rules("skip"), layout)
    assert lines == expected_ids
    assert sum(result.left_out.values()) == 4 - len(expected_ids)


def test_an_event_value_may_be_null_and_an_event_type_may_not(tmp_path: Path) -> None:
    layout = Layout(
        *(",", "user", "item", None, "time"),
        event_type="kind",
        event_value="price",
        types={"title": "string"},
        null_values=[*NULL_VALUES, "-1"],
    )
    rows = "1,2,9,buy,NULL,None\n1,2,9,NULL,3,None\n1,2,9,buy,-1,None\n"
    rules = Rules("skip", filter="title = 'None'", event_type=True)
    content = f"user,item,time,kind,price,title\n{rows}".encode()
    lines, result = prepare(tmp_path, [content], rules, layout)
    assert lines == ["1,2,9,buy,", "1,2,9,buy,"]
    assert result.left_out == {"no event type": 1}


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (b"1::10::5::1500000000\n2::10::5::1500000000\n3::10::5", Layout("::", 1, 2, None, 3)),
        (b"1\t10\t9\tA\n\n2\t10\t9\tB\n3\t10\t1", Layout("\t", 1, 2, None, 3)),
    ],
)
def test_a_file_that_is_cut_off_without_a_header(
    tmp_path: Path, content: bytes, layout: Layout
) -> None:
    lines, result = prepare(tmp_path, [content, content + b"\n"], Rules("skip"), layout)
    assert result.left_out == {CUT_OFF: 1}
    assert [line.partition(",")[0] for line in lines] == ["1", "2", "1", "2", "3"]
    number = content.count(b"\n") + 1
    assert result.bad_row_examples[0].startswith(f"1.csv, line {number}: {CUT_OFF}")


@pytest.mark.parametrize(
    ("ids", "expected_warning"),
    [
        (["913.0", "", "7.0"], "decimals such as 913.0"),
        (["7", "913.0"], "decimals such as 913.0"),
        (["913", "7"], ""),
        (["913.0", "b"], ""),
        (["9" * 25, "1"], ""),
    ],
)
def test_ids_that_became_decimals_are_warned_of(
    tmp_path: Path, ids: Sequence[str], expected_warning: str
) -> None:
    path = tmp_path / "pandas.csv"
    path.write_text("user,item,time\n" + "".join(f"u{n},{id},9\n" for n, id in enumerate(ids)))
    with open_ratings([RawFile(path, path.name)], ReadSettings(), Rules("skip")) as read:
        warnings = "".join(read.recognised_layout.warnings)
    assert expected_warning in warnings
    assert bool(warnings) == bool(expected_warning)
    if warnings:
        assert warnings.startswith("pandas.csv: the item ids (column item)")
        assert "913.0 is not the id of 913. Write them as whole numbers" in warnings
