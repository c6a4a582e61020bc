"""Tests that times in every usual form are read rightly.

Placeholders and impossible times are bad rows.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import write_source
from batchrec_dagster_tests.guard.seams import preparation

COLUMNS = {"user": "u", "item": "i", "timestamp": "t"}
EPOCHS = {"auto", "s", "ms", "us", "ns", "excel"}
DAY = 1_706_659_200
TIME = DAY + 14 * 3600 + 5 * 60 + 6


def read(
    folder: Path, times: list[str], on_bad_rows: str = "skip", **ratings: Any
) -> preparation.Interactions:
    """Return the interactions read from rows with these times."""
    rows = "".join(f'1,{number},"{time}"\n' for number, time in enumerate(times))
    source = write_source(folder, f"u,i,t\n{rows}")
    settings = {"columns": COLUMNS, "on_bad_rows": on_bad_rows, **ratings}
    return preparation.prepare(folder, {"ratings": {"source": source, **settings}})


def read_seconds(folder: Path, times: list[str], **ratings: Any) -> list[int]:
    """Return the times that are read, in seconds."""
    return [seconds for _, _, seconds in read(folder, times, **ratings).rows]


def declare_form(form: str) -> dict[str, str]:
    """Return the setting for times in this form."""
    return {"timestamp_unit" if form in EPOCHS else "timestamp_format": form}


@pytest.mark.parametrize(
    ("time_text", "settings", "seconds"),
    [
        ("1577966405.75", {}, 1_577_966_405),
        ("1577966405.0", {"timestamp_unit": "s"}, 1_577_966_405),
        ("1.577966405e9", {}, 1_577_966_405),
        ("1577966405123.5", {}, 1_577_966_405),
        ("43832.500057870", {"timestamp_unit": "excel"}, 1_577_966_405),
        ("43832,500057870", {"timestamp_unit": "excel", "decimal": ","}, 1_577_966_405),
        (
            "Thu, 02 Jan 2020 12:00:05 +0000",
            {"timestamp_format": "%a, %d %b %Y %H:%M:%S %z"},
            1_577_966_405,
        ),
        (
            "2020-01-02 12:00:05.123456",
            {"timestamp_format": "%Y-%m-%d %H:%M:%S.%f"},
            1_577_966_405,
        ),
        ("1577966405999", {}, 1_577_966_405),
        ("1577966405999999", {}, 1_577_966_405),
        ("1577966405999999999", {}, 1_577_966_405),
        ("1577966405999999", {"timestamp_unit": "us"}, 1_577_966_405),
        ("978300760", {"timestamp_unit": "ms"}, 978_300),
        ("2020-01-02 13:00:05", {"timezone": "Europe/Berlin"}, 1_577_966_405),
        ("2020-01-02T12:00:05Z", {"timezone": "Europe/Berlin"}, 1_577_966_405),
        (
            "02.01.20 13:00:05",
            {"timestamp_format": "%d.%m.%y %H:%M:%S", "timezone": "Europe/Berlin"},
            1_577_966_405,
        ),
    ],
)
def test_times_of_every_form(
    tmp_path: Path, time_text: str, settings: dict[str, str], seconds: int
) -> None:
    assert read_seconds(tmp_path, [time_text, time_text], **settings) == [seconds] * 2


def read_table() -> list[tuple[str, str, dict[str, int | None]]]:
    """Return the form, the zone, and each time's seconds of each file in times.tsv.

    The seconds of a bad row are None.
    """
    files: dict[tuple[str, str, str], dict[str, int | None]] = {}
    with Path(__file__).with_name("times.tsv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE):
            times = files.setdefault((row["file"], row["form"], row["timezone"]), {})
            times[row["time"]] = int(row["seconds"]) if row["seconds"] else None
    return [(form, zone, times) for (_, form, zone), times in files.items()]


@pytest.mark.parametrize(("form", "timezone", "seconds"), read_table())
def test_each_time_is_read_or_refused(
    tmp_path: Path, form: str, timezone: str, seconds: dict[str, int | None]
) -> None:
    interactions = read(tmp_path, [*seconds], timezone=timezone or None, **declare_form(form))
    assert [second for _, _, second in interactions.rows] == [
        second for second in seconds.values() if second is not None
    ]
    assert sum(interactions.left_out.values()) == [*seconds.values()].count(None)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["20240131", "20240201"], [DAY, DAY + 86_400]),
        (["20240131140506"], [TIME]),
        (["2024-01-31 14:05:06 +0100"], [TIME - 3600]),
        (["1/31/2024 2:05:06 PM", "02/01/2024 12:00:00 AM"], [TIME, DAY + 86_400]),
        (["1/31/2024, 2:05:06 PM"], [TIME]),
        (["31/01/2024 14:05"], [TIME - 6]),
        (["01/31/24"], [DAY]),
        (["31-Jan-2024", "01-FEB-2024"], [DAY, DAY + 86_400]),
        (["31-JAN-24 02.05.06.000000 PM"], [TIME]),
        (["January 31, 2024", "Feb 1, 2024"], [DAY, DAY + 86_400]),
        (["Wed, 31 Jan 2024 14:05:06 +0000"], [TIME]),
        (["Wed, 31 Jan 2024 14:05:06 GMT"], [TIME]),
        (["Wed Jan 31 14:05:06 +0000 2024"], [TIME]),
        (["31/Jan/2024:15:05:06 +0100"], [TIME]),
        (["31.01.2024 14:05:06.123"], [TIME]),
        (["31.1.2024, 14:05:06", "NULL"], [TIME]),
        (["2024-1-31"], [DAY]),
    ],
)
def test_usual_formats_are_recognised_by_a_run(
    tmp_path: Path, times: list[str], seconds: list[int]
) -> None:
    assert read_seconds(tmp_path, times) == seconds


def refuse(folder: Path, times: list[str], **ratings: Any) -> str:
    """Return the message that refuses rows with these times."""
    with pytest.raises(preparation.UserError) as error:
        read(folder, times, **ratings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("01/02/2024", 'Set ratings.timestamp_format: "%d/%m/%Y" or "%m/%d/%Y"'),
        ("24/01/05", '"%d/%m/%y" or "%y/%m/%d"'),
        ("1.2.3", "column t: its times are in an unknown format"),
        ("31 of January", "column t: its times are in an unknown format"),
    ],
)
def test_formats_that_are_not_sure_are_refused_with_those_that_fit(
    tmp_path: Path, time: str, message: str
) -> None:
    assert message in refuse(tmp_path, [time])


@pytest.mark.parametrize("compact", ["20240131", "20240131140506"])
@pytest.mark.parametrize("others", [["1577966405"], ["5", "1577966405"], ["2020-01-02"]])
def test_days_of_8_digits_are_never_seconds(
    tmp_path: Path, compact: str, others: list[str]
) -> None:
    assert "the timestamp is as %Y%m%d" in refuse(tmp_path, [*others, compact])
    assert read_seconds(tmp_path, ["20240132", "20240131"]) == [DAY]
    assert read_seconds(tmp_path, ["20240131"], timestamp_unit="s") == [20_240_131]


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (["1500000000", "1500000000000"], "the timestamp is in milliseconds"),
        (["2020-01-02", "1500000000"], "the timestamp is in seconds, those before it"),
        (["1500000000000", "1500000000"], "those before it are in milliseconds"),
    ],
)
@pytest.mark.parametrize("on_bad_rows", ["fail", "skip"])
def test_times_of_two_forms_are_an_error_with_file_and_line(
    tmp_path: Path, times: list[str], reason: str, on_bad_rows: str
) -> None:
    message = refuse(tmp_path, [times[0]] * 9 + times, on_bad_rows=on_bad_rows)
    assert message.startswith("data.csv, line 12: ")
    assert reason in message


def test_a_row_that_is_bad_anyway_says_nothing_of_the_form_of_times(tmp_path: Path) -> None:
    rows = ",1,1500000000000\n1,2,1500000000\n,3,2020-01-02\n1,4,1500000001\n"
    source = write_source(tmp_path, f"u,i,t\n{rows}")
    ratings = {"source": source, "columns": COLUMNS, "on_bad_rows": "skip"}
    interactions = preparation.prepare(tmp_path, {"ratings": ratings})
    assert [seconds for _, _, seconds in interactions.rows] == [1_500_000_000, 1_500_000_001]
    assert interactions.left_out == {"no user": 2}


@pytest.mark.parametrize("times", [["1577966405", "2900000000"], ["2020-01-02", "2061-11-24"]])
def test_one_time_in_the_future_is_a_bad_row(tmp_path: Path, times: list[str]) -> None:
    assert read_seconds(tmp_path, times) == [read_seconds(tmp_path, times[:1])[0]]
    message = refuse(tmp_path, times, on_bad_rows="fail")
    assert message.startswith("data.csv, line 3: the timestamp is in the future")
    assert "on_bad_rows: skip" in message


PLACEHOLDERS = ["0", "0.0", "253402300799", "253402214400000"]


@pytest.mark.parametrize("good", ["1577966405", "1577966405123"])
@pytest.mark.parametrize("is_declared", [False, True], ids=["recognised", "declared"])
def test_numbers_that_stand_for_no_time_are_bad_rows(
    tmp_path: Path, good: str, is_declared: bool
) -> None:
    settings = {"timestamp_unit": "s" if len(good) == 10 else "ms"} if is_declared else {}
    for index in (0, 2):
        times = [good, good, good]
        times[index:index] = PLACEHOLDERS
        interactions = read(tmp_path, times, **settings)
        assert [second for _, _, second in interactions.rows] == [1_577_966_405] * 3
        assert sum(interactions.left_out.values()) == len(PLACEHOLDERS)
    message = refuse(tmp_path, [good, *PLACEHOLDERS], on_bad_rows="fail", **settings)
    assert message.startswith("data.csv, line 3: the timestamp is 0 or after 2099")


@pytest.mark.parametrize("zone", [None, "America/New_York", "Asia/Tokyo"])
def test_dates_that_stand_for_no_time_are_bad_rows(tmp_path: Path, zone: str | None) -> None:
    times = ["2020-01-02", "1970-01-01", "9999-12-31T23:59:59"]
    assert len(read_seconds(tmp_path, times, timezone=zone)) == 1


def test_years_of_two_digits_are_refused_by_name(tmp_path: Path) -> None:
    message = refuse(
        tmp_path,
        ["31.01.2024", "31.01.24"],
        timestamp_format="%d.%m.%Y",
        on_bad_rows="fail",
    )
    assert message.startswith("data.csv, line 3: the year of the timestamp has two digits")
    assert "%y" in message


def test_a_time_that_the_clocks_skip_is_a_bad_row_and_one_twice_is_the_first(
    tmp_path: Path,
) -> None:
    times = ["2024-03-31T02:30", "2024-10-27T02:30"]
    interactions = read(tmp_path, times, timezone="Europe/Berlin")
    assert [second for _, _, second in interactions.rows] == [1_729_989_000]
    assert sum(interactions.left_out.values()) == 1
    assert "Europe/Berlin" in interactions.bad_rows[0]


@pytest.mark.parametrize(
    ("column", "seconds"),
    [
        (pl.Datetime("ms"), 1_577_962_805),
        (pl.Datetime("ns"), 1_577_962_805),
        (pl.Datetime("us", "Asia/Tokyo"), 1_577_966_405),
        (pl.Date(), 1_577_919_600),
        (pl.Float64(), 1_577_966_405),
    ],
)
def test_the_zone_is_of_columns_of_parquet_that_have_none(
    tmp_path: Path, column: pl.DataType, seconds: int
) -> None:
    time = pl.Series([1_577_966_405_000]).cast(pl.Datetime("ms")).cast(column)
    if column == pl.Float64():
        time = pl.Series([1_577_966_405.5])
    pl.DataFrame({"u": ["1"], "i": ["2"], "t": time}).write_parquet(tmp_path / "a.parquet")
    ratings = {"source": "a.parquet", "columns": COLUMNS, "timezone": "CET"}
    assert preparation.prepare(tmp_path, {"ratings": ratings}).rows == [("1", "2", seconds)]


@pytest.mark.parametrize("bad", ["", "NULL\ta\t2\n"], ids=["clean", "with a bad row"])
def test_rows_without_times_all_get_the_same(tmp_path: Path, bad: str) -> None:
    source = write_source(tmp_path, "u\ti\tplays\nu1\ta\t3\nu1\tb\t1\nu2\ta\t7\n" + bad)
    columns = {**COLUMNS, "timestamp": "none"}
    ratings = {"source": source, "columns": columns, "on_bad_rows": "skip"}
    blocks = {"ratings": ratings, "interactions": {"filter": "plays > 1"}}
    first, second = preparation.prepare(tmp_path, blocks).rows
    assert (first[:2], second[:2]) == (("u1", "a"), ("u2", "a"))
    assert first[2] == second[2]


@pytest.mark.parametrize(
    ("ratings", "others", "message"),
    [
        ({"timezone": "Berlin"}, {}, "write a time zone such as Europe/Berlin"),
        ({"timezone": "UTC", "timestamp_unit": "ms"}, {}, "have a zone: omit timezone"),
        ({"timezone": "UTC", "timestamp_format": "%d.%m.%Y %H:%M %z"}, {}, "have a zone: omit"),
        ({"timestamp_format": "%d.%m.%Y %H:%M:%S,%f"}, {}, "with %f only behind a point"),
        ({"timestamp_format": "%a %H:%M"}, {}, "a format needs day"),
        ({"columns": {"timestamp": "none"}, "timestamp_unit": "ms"}, {}, "omit timestamp_unit"),
        (
            {"columns": {"timestamp": "none"}},
            {"interactions": {"window": {"days": 3}}},
            "interactions.window\n  Value error, needs times",
        ),
        (
            {"columns": {"timestamp": "none"}},
            {"interactions": {"latest_per_pair": True}},
            "interactions.latest_per_pair\n  Value error, needs times",
        ),
        (
            {"columns": {"timestamp": "none"}},
            {"batch_users": {"active_since": "2020-01-01"}},
            "batch_users.active_since\n  Value error, needs times",
        ),
    ],
)
def test_settings_that_contradict_the_times_are_refused(
    ratings: dict[str, Any], others: dict[str, Any], message: str
) -> None:
    with pytest.raises(preparation.UserError) as error:
        preparation.declare({"ratings": {"source": "a.csv", **ratings}, **others})
    assert message in str(error.value)
