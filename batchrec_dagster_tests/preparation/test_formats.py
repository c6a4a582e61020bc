"""What files may be: formats, packing, encodings, forms of timestamps, known names of columns."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.preparation.layout import NULL_VALUES, Layout, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import OpenedRatings, open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import PreparationResult, Rules

NOON = datetime(2020, 1, 2, 12, 0, 5, tzinfo=UTC)
SECONDS = int(NOON.timestamp())
BY_NAME = {"user": "u", "item": "i", "timestamp": "t"}


def prepare(
    folder: Path,
    *contents: bytes | str,
    reading: ReadSettings | Layout | None = None,
    rules: Rules | None = None,
    name: str = "data.file",
) -> tuple[list[str], PreparationResult, OpenedRatings]:
    """The lines after the header, what was counted, and how the files were read."""
    files = []
    for number, content in enumerate(contents):
        path = folder / f"{number}-{name}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        files.append(RawFile(path, path.name))
    target = folder / "interactions.csv"
    with open_ratings(files, reading or ReadSettings(), rules or Rules()) as ratings:
        result = ratings.write_interactions(target)
    return target.read_bytes().decode().split("\n")[1:-1], result, ratings


def read_refusal(folder: Path, *contents: bytes | str, reading: ReadSettings | None = None) -> str:
    with pytest.raises(PreparationError) as error:
        prepare(folder, *contents, reading=reading)
    assert "\n" not in str(error.value)
    assert not (folder / "interactions.csv").exists()
    return str(error.value)


def encode_parquet(folder: Path, frame: pl.DataFrame) -> bytes:
    frame.write_parquet(folder / "made.parquet")
    return (folder / "made.parquet").read_bytes()


def compress_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


# Formats and packing


CSV = f"u,i,t\n01,x,{SECONDS}\n"
LINES = f'{{"u": "01", "i": "x", "t": {SECONDS}}}\n'


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, compress_zstd], ids=["plain", "gzip", "zstd"]
)
@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_the_format_is_seen_by_the_file_itself(
    tmp_path: Path, form: str, pack: Callable[[bytes], bytes]
) -> None:
    content = {
        "csv": CSV.encode(),
        "json": LINES.encode(),
        "parquet": encode_parquet(
            tmp_path, pl.DataFrame({"u": ["01"], "i": ["x"], "t": [SECONDS]})
        ),
    }[form]
    lines, result, ratings = prepare(tmp_path, pack(content), reading=ReadSettings(columns=BY_NAME))
    assert lines == [f"01,x,{SECONDS}"]
    assert ratings.layout.format == form
    assert ratings.recognised_layout.types["t"] == {"parquet": "int64"}.get(form, "long")
    assert ratings.recognised_layout.types["u"] == "string"
    assert result.rows_read == 1


@pytest.mark.parametrize("pack", [gzip.compress, compress_zstd], ids=["gzip", "zstd"])
def test_what_is_packed_and_cut_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed_content = pack((CSV * 1000).encode())
    message = read_refusal(tmp_path, packed_content[:-5], reading=ReadSettings(columns=BY_NAME))
    assert message.startswith("0-data.file: it is damaged (")
    assert message.endswith("copy it again")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.005")
    assert "BATCHREC_MAX_FILE_GB allows" in read_refusal(tmp_path, gzip.compress(bytes(10**7)))


def test_many_files_are_read_in_their_order(tmp_path: Path) -> None:
    second = f"t,i,u\n{SECONDS + 1},y,b\n{SECONDS + 2},z,c\n"
    lines, result, ratings = prepare(
        tmp_path, CSV, second, "", reading=ReadSettings(columns=BY_NAME)
    )
    assert [line.split(",")[0] for line in lines] == ["01", "b", "c"]
    assert result.rows_read == 3
    assert ratings.empty == ["2-data.file"]


def test_a_bad_row_is_found_in_its_file(tmp_path: Path) -> None:
    message = read_refusal(
        tmp_path, CSV, CSV + "a,b,never\n", reading=ReadSettings(columns=BY_NAME)
    )
    assert message.startswith("1-data.file, line 3: the timestamp is not a number (1 such")


def test_a_file_without_a_column_that_others_have_is_refused(tmp_path: Path) -> None:
    message = read_refusal(tmp_path, CSV, "u,i\n1,2\n", reading=ReadSettings(columns=BY_NAME))
    assert message.startswith("1-data.file has no column 't' (ratings.columns.timestamp)")


def test_double_colons_part_fields_that_have_single_ones(tmp_path: Path) -> None:
    layout = Layout("::", 1, 2, None, 4)
    lines, _, _ = prepare(tmp_path, f"1::2::Alien: 3::{SECONDS}\r\n\r\n", reading=layout)
    assert lines == [f"1,2,{SECONDS}"]


JSON_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(0, 2**63 - 1), st.text(max_size=5), st.lists(st.none())
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(JSON_VALUES, JSON_VALUES), min_size=1, max_size=8))
def test_json_values_are_ids_or_problems(tmp_path_factory: pytest.TempPathFactory, rows) -> None:  # type: ignore[no-untyped-def]
    content = "".join(json.dumps({"u": u, "i": i, "t": SECONDS}) + "\n" for u, i in rows)
    lines_written, result, _ = prepare(
        tmp_path_factory.mktemp("json"),
        LINES + content,
        reading=ReadSettings(format="json", columns=BY_NAME),
        rules=Rules("skip"),
    )
    good = [
        (u, i)
        for u, i in rows
        if all(
            isinstance(value, int)
            or (
                isinstance(value, str)
                and value.strip(" \t")
                and value.strip(" ") not in NULL_VALUES
                and not set("\n\r\0") & set(value)
            )
            for value in (u, i)
        )
    ]
    assert result.rows_kept == len(good) + 1
    assert len(lines_written) == len(good) + 1
    assert result.rows_read == len(rows) + 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"u": [1.0], "i": [1], "t": [1]}, "'u' (ratings.columns.user) is of type Float64"),
        ({"u": [[1]], "i": [1], "t": [1]}, "'u' (ratings.columns.user) is of type List(Int64)"),
    ],
)
def test_parquet_columns_that_cannot_be_ids_are_refused(
    tmp_path: Path, frame: dict[str, list[object]], message: str
) -> None:
    content = encode_parquet(tmp_path, pl.DataFrame(frame))
    assert message in read_refusal(tmp_path, content, reading=ReadSettings(columns=BY_NAME))


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    content = encode_parquet(tmp_path, pl.DataFrame({"u": ["a"]}))
    assert "is damaged or not Parquet" in read_refusal(tmp_path, content[:-20])


# Encodings


@pytest.mark.parametrize(
    ("content", "declared_encoding", "user", "encoding"),
    [
        ("é", "auto", "é", "utf-8"),
        ("\ufeff", "auto", "01", "utf-8"),
        (b"\xe9", "auto", "é", "cp1252"),
        (b"\x8015\x92s", "auto", "€15\u2019s", "cp1252"),
        ("Größe".encode("cp1252"), "auto", "Größe", "cp1252"),
        ("Москва".encode("cp1251"), "cp1251", "Москва", "cp1251"),
        ("羅生門".encode("shift_jis"), "shift_jis", "羅生門", "shift_jis"),
        (b"\xe9", "latin-1", "é", "latin-1"),
        (b"\xc3\xa9", "latin-1", "Ã©", "latin-1"),
    ],
)
def test_the_encoding_is_declared_or_found_out(
    tmp_path: Path, content: bytes | str, declared_encoding: str, user: str, encoding: str
) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    data = raw + CSV.encode() if content == "\ufeff" else CSV.encode().replace(b"01", raw)
    reading = ReadSettings(columns=BY_NAME, encoding=declared_encoding)
    lines, _, ratings = prepare(tmp_path, data, reading=reading)
    assert lines == [f"{user},x,{SECONDS}"]
    assert ratings.encodings == [encoding]


def test_what_is_read_as_cp1252_is_a_warning_unless_it_is_declared(tmp_path: Path) -> None:
    data = f"u,i,t\nGröße,x,{SECONDS}\nMüller,y,{SECONDS}\n".encode("cp1252")
    lines, _, ratings = prepare(tmp_path, data, reading=ReadSettings(columns=BY_NAME))
    assert [line.split(",")[0] for line in lines] == ["Größe", "Müller"]
    (warning,) = ratings.recognised_layout.warnings
    assert "not UTF-8, so read as cp1252. If letters beyond ASCII look wrong, set" in warning
    declared = ReadSettings(columns=BY_NAME, encoding="cp1252")
    same_lines, _, ratings = prepare(tmp_path, data, reading=declared)
    assert same_lines == lines
    assert not ratings.recognised_layout.warnings


# Timestamps


@pytest.mark.parametrize(
    ("time_text", "declared_unit", "found_unit"),
    [
        (f"{SECONDS}", "auto", "s"),
        (f"{SECONDS}999", "auto", "ms"),
        (f"{SECONDS}999999", "auto", "us"),
        (f"{SECONDS}999999999", "auto", "ns"),
        (f" {SECONDS} ", "s", "s"),
        (f"{SECONDS}999999", "us", "us"),
        ("2020-01-02T12:00:05Z", "auto", "iso8601"),
        ("2020-01-02 12:00:05", "auto", "iso8601"),
        ("2020-01-02 12:00:05 UTC", "auto", "iso8601"),
        ("2020-01-02T14:00:05.999+02:00", "auto", "iso8601"),
        ("2020-01-02T04:30:05-0730", "iso8601", "iso8601"),
        ("02.01.2020 12:00:05", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S"),
        ('"Jan 02, 2020 12:00:05 PM"', "%b %d, %Y %I:%M:%S %p", "%b %d, %Y %I:%M:%S %p"),
    ],
)
def test_timestamps_of_every_form_become_seconds(
    tmp_path: Path, time_text: str, declared_unit: str, found_unit: str
) -> None:
    content = f"u,i,t\na,b,{time_text}\na,c,{time_text}\n"
    reading = ReadSettings(columns=BY_NAME, timestamp_unit=declared_unit)
    lines, result, _ = prepare(tmp_path, content, reading=reading)
    with open_ratings([RawFile(tmp_path / "0-data.file", "f")], reading, Rules()) as ratings:
        unit = ratings.inspect_rows().timestamp_unit
    assert lines == [f"a,b,{SECONDS}", f"a,c,{SECONDS}"]
    assert result.timestamp_unit == unit == found_unit


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (NOON, SECONDS),
        (NOON.replace(tzinfo=None), SECONDS),
        (date(2020, 1, 2), SECONDS // 86400 * 86400),
    ],
)
def test_parquet_has_times_of_its_own(tmp_path: Path, value: object, seconds: int) -> None:
    content = encode_parquet(tmp_path, pl.DataFrame({"u": [7], "i": ["x"], "t": [value]}))
    lines, result, _ = prepare(tmp_path, content, reading=ReadSettings(columns=BY_NAME))
    assert lines == [f"7,x,{seconds}"]
    assert result.timestamp_unit == "datetime"


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (["1500000000", "1500000000000"], "the timestamp is in milliseconds"),
        (["2020-01-02", "1500000000"], "the timestamp is in seconds, those before it"),
        (["1500000000000", "1500000000"], "those before it are in milliseconds"),
    ],
)
def test_timestamps_of_two_forms_are_an_error_with_file_and_line(
    tmp_path: Path, times: list[str], reason: str
) -> None:
    first, second = times
    message = read_refusal(
        tmp_path,
        f"u,i,t\na,b,{first}\n",
        f"u,i,t\na,b,{first}\na,c,{second}\n",
        reading=ReadSettings(columns=BY_NAME),
    )
    assert message.startswith("1-data.file, line 3: ")
    assert reason in message


# Columns known by name


@pytest.mark.parametrize(
    ("header", "expected_columns"),
    [
        ("userId,movieId,rating,timestamp", ["userId", "movieId", "timestamp"]),
        ("user_id,item_id,rating,timestamp", ["user_id", "item_id", "timestamp"]),
        ("userID\tmovieID\trating\ttimestamp", ["userID", "movieID", "timestamp"]),
        ("USER_ID,ITEM_ID,TIMESTAMP", ["USER_ID", "ITEM_ID", "TIMESTAMP"]),
        ("timestamp,visitorid,event,itemid", ["visitorid", "itemid", "timestamp"]),
        ("user_id:token\titem_id:token\ttimestamp:float", None),
        ("reviewerID;asin;overall;unixReviewTime", ["reviewerID", "asin", "unixReviewTime"]),
        ("event_time,event_type,product_id,user_id", ["user_id", "product_id", "event_time"]),
    ],
)
def test_columns_of_public_sets_need_no_configuration(
    tmp_path: Path, header: str, expected_columns: list[str] | None
) -> None:
    delimiter = next(sign for sign in "\t;," if sign in header)
    names = header.split(delimiter)
    row = [str(SECONDS) if "time" in name.lower() else name for name in names]
    lines, _, ratings = prepare(tmp_path, f"{header}\n{delimiter.join(row)}\n")
    roles = ratings.recognised_layout.recognised
    user, item, timestamp = (roles[role] for role in ("user", "item", "timestamp"))
    assert [user, item, timestamp] == (expected_columns or names)
    assert lines == [f"{user},{item},{SECONDS}"]
    assert ratings.layout.delimiter == delimiter


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::"])
def test_the_delimiter_is_the_one_that_makes_the_declared_columns(
    tmp_path: Path, delimiter: str
) -> None:
    content = "".join(
        delimiter.join(row) + "\n" for row in (["u", "i", "n", "t"], ["a", "b", "", str(SECONDS)])
    )
    lines, _, ratings = prepare(tmp_path, content, reading=ReadSettings(columns=BY_NAME))
    assert lines == [f"a,b,{SECONDS}"]
    assert ratings.layout.delimiter == delimiter


def test_a_rating_is_looked_for_where_it_is_needed(tmp_path: Path) -> None:
    content = f"user_id,item_id,stars,time\n1,2,4,{SECONDS}\n1,3,2,{SECONDS}\n"
    lines, _, ratings = prepare(tmp_path, content, rules=Rules(min_rating=3))
    assert lines == [f"1,2,{SECONDS}"]
    assert ratings.recognised_layout.recognised["rating"] == "stars"


def test_what_is_declared_goes_before_what_is_known(tmp_path: Path) -> None:
    content = f"user_id,parent,item_id,time\n1,2,3,{SECONDS}\n"
    lines, _, ratings = prepare(tmp_path, content, reading=ReadSettings(columns={"item": "parent"}))
    assert lines == [f"1,2,{SECONDS}"]
    assert ratings.recognised_layout.recognised == {"user": "user_id", "timestamp": "time"}


def test_what_is_not_known_is_an_error_with_the_columns(tmp_path: Path) -> None:
    message = read_refusal(tmp_path, "who,what,when\n1,2,3\n")
    assert "could not recognise the user and item and timestamp column" in message
    assert "Found: who, what, when" in message
    assert "ratings.columns" in message


def test_a_file_without_a_header_is_an_error_that_asks_for_positions(tmp_path: Path) -> None:
    message = read_refusal(tmp_path, "1,2,3.5,1500000000\n")
    assert "has no names in line 1" in message
    assert "{user: 1, item: 2" in message


# Events


def test_event_types_and_values_are_carried_over(tmp_path: Path) -> None:
    content = (
        f'{{"user_id": 1, "item_id": "a", "time": {SECONDS}, "event": "buy", "price": 1.50}}\n'
        f'{{"user_id": 2, "item_id": "b", "time": {SECONDS}, "event": "view"}}\n'
    )
    reading = ReadSettings(columns={"event_type": "event", "event_value": "price"})
    lines, _, _ = prepare(tmp_path, content, reading=reading, rules=Rules(event_type=True))
    assert lines == [f"1,a,{SECONDS},buy,1.50", f"2,b,{SECONDS},view,"]


def test_an_event_column_is_known_where_event_types_are_written(tmp_path: Path) -> None:
    content = f"timestamp,visitorid,event,itemid\n{SECONDS},1,view,2\n"
    lines, _, _ = prepare(tmp_path, content, rules=Rules(event_type=True))
    assert lines == [f"1,2,{SECONDS},view"]
    lines, _, _ = prepare(tmp_path, content)
    assert lines == [f"1,2,{SECONDS}"]
