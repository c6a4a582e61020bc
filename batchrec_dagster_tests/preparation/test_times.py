"""Times as people and programs write them, and those that stand for none."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.preparation.layout import Layout, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.row_problems import FUTURE, SENTINEL, TWO_DIGITS
from batchrec_dagster.preparation.rules import Rules

LAYOUT = Layout(",", "u", "i", None, "t")


def prepare_times(
    folder: Path, times: list[str], rules: Rules, **layout_options: object
) -> tuple[list[int], dict[str, int]]:
    """The times that were kept, and what was left out, of rows with these times."""
    path = folder / "data.csv"
    path.write_text("u,i,t\n" + "".join(f'1,{n},"{time}"\n' for n, time in enumerate(times)))
    layout = Layout(**{**vars(LAYOUT), **layout_options})
    with open_ratings([RawFile(path, path.name)], layout, rules) as read:
        result = read.write_interactions(folder / "interactions.csv")
    lines = (folder / "interactions.csv").read_text().splitlines()[1:]
    return [int(line.split(",")[2]) for line in lines], dict(result.left_out)


@pytest.mark.parametrize(
    ("time_text", "layout_options", "seconds"),
    [
        ("1577966405.75", {}, 1_577_966_405),
        ("1577966405.0", {"timestamp_unit": "s"}, 1_577_966_405),
        ("1.577966405e9", {}, 1_577_966_405),
        ("1577966405123.5", {}, 1_577_966_405),
        ("43832.500057870", {"timestamp_unit": "excel"}, 1_577_966_405),
        ("43832,500057870", {"timestamp_unit": "excel", "decimal": ","}, 1_577_966_405),
        (
            "Thu, 02 Jan 2020 12:00:05 +0000",
            {"timestamp_unit": "%a, %d %b %Y %H:%M:%S %z"},
            1_577_966_405,
        ),
        (
            "2020-01-02 12:00:05.123456",
            {"timestamp_unit": "%Y-%m-%d %H:%M:%S.%f"},
            1_577_966_405,
        ),
        ("2020-01-02 13:00:05", {"timezone": "Europe/Berlin"}, 1_577_966_405),
        ("2020-01-02T12:00:05Z", {"timezone": "Europe/Berlin"}, 1_577_966_405),
        (
            "02.01.20 13:00:05",
            {"timestamp_unit": "%d.%m.%y %H:%M:%S", "timezone": "Europe/Berlin"},
            1_577_966_405,
        ),
    ],
)
def test_times_of_every_form(
    tmp_path: Path, time_text: str, layout_options: dict[str, object], seconds: int
) -> None:
    assert prepare_times(tmp_path, [time_text, time_text], Rules(), **layout_options) == (
        [seconds] * 2,
        {},
    )


# These are the results of two independent readers, from when Spark had a reader of its own.
READ_ALIKE: list[tuple[str, str | None, dict[str, int | None]]] = [
    (
        "auto",
        None,
        {
            "0": None,
            "99999999999": None,
            "+5": 5,
            "253402300799": None,
            "253402214400000": None,
            "5.9": 5,
            "5.": 5,
            "1.6e9": 1600000000,
        },
    ),
    (
        "s",
        None,
        {
            "1e0": 1,
            "-0": None,
            "-0.5": None,
            "1.5e": None,
            "1e400": None,
            "12e1": 120,
            "1.5E+3": 1500,
            "1e20": None,
            ".5": None,
            "4102444799.9": 4102444799,
        },
    ),
    ("ns", None, {"1600000000123456789.5": 1600000000, "1.6e18": 1600000000}),
    (
        "excel",
        None,
        {
            "45292": 1704067200,
            "45292.75": 1704132000,
            "45292.000006": 1704067201,
            "25569": None,
            "1": None,
            "0": None,
            "9999999": None,
            "-1": None,
            "4e4": None,
        },
    ),
    ("auto", None, {"100000000000": 100000000, "1162160237999": 1162160237}),
    ("auto", None, {"100000000000000": 100000000, "99999999999999999": None}),
    (
        "auto",
        None,
        {"100000000000000000": 100000000, "9223372036854775807": None, "9223372036854775808": None},
    ),
    (
        "ms",
        None,
        {
            "-1": None,
            "-1000": None,
            "999": None,
            "1000": 1,
            "1162160237999": 1162160237,
            "-9223372036854775808": None,
        },
    ),
    (
        "auto",
        None,
        {
            "2001-02-03": 981158400,
            "2001-02-03T04:05": 981173100,
            "2001-02-03 04:05:06": 981173106,
            "2001-02-03T04:05:06.789": 981173106,
            "2001-02-03T04:05:06Z": 981173106,
            "2001-02-03T04:05:06 UTC": 981173106,
            "2001-02-03T04:05:06+0530": 981153306,
            "2001-02-03T04:05:06-05": 981191106,
            "2001-02-03T04:05:06+05:30": 981153306,
            "2001-02-29": None,
            "2000-02-29": 951782400,
            "2001-02-03T24:00": None,
            "2001-02-03T23:60": None,
            "2001-02-03T23:59:60": None,
            "1969-12-31": None,
            "0000-01-01": None,
            "9999-12-31T23:59:59": None,
            "2001-2-3": None,
            "2001-02-03T04:05:06,7": 981173106,
            "2001-02-03 04:05:06 +0530": 981153306,
            "2001-02-03 04:05:06 GMT": 981173106,
            "2001-02-03 04:05:06  +0530": None,
            " 2001-02-03 ": 981158400,
        },
    ),
    (
        "%d.%m.%Y %H:%M:%S",
        None,
        {
            "03.02.2001 04:05:06": 981173106,
            "3.2.2001 4:05:06": 981173106,
            "31.02.2001 00:00:00": None,
            "3.2.2001": None,
            "03.02.2001 24:05:06": None,
            "03.02.2001  04:05:06": 981173106,
            "03.02.0001 04:05:06": None,
            "x": None,
        },
    ),
    (
        "%b %d, %y %I:%M %p",
        None,
        {
            "Feb 03, 01 04:05 pm": 981216300,
            "FEB 3, 69 12:00 am": 3127075200,
            "Feb 3, 70 12:00 PM": 2894400,
        },
    ),
    (
        "%a %b %d %H:%M:%S %z %Y",
        None,
        {"Wed Aug 27 13:08:45 +0000 2008": 1219842525, "Thu Aug 27 13:08:45 +0000 2008": None},
    ),
    (
        "%A, %d %b %Y",
        None,
        {
            "Wednesday, 27 Aug 2008": 1219795200,
            "wed, 27 Aug 2008": 1219795200,
            "Wednes, 27 Aug 2008": None,
        },
    ),
    (
        "%a, %d %b %Y",
        None,
        {"Wednesday, 27 Aug 2008": None, "wed, 27 Aug 2008": 1219795200, "Tue, 27 Aug 2008": None},
    ),
    (
        "%Y-%m-%d %H:%M:%S.%f",
        None,
        {
            "2020-01-02 03:04:05.5": 1577934245,
            "2020-01-02 03:04:05": 1577934245,
            "2020-01-02 03:04:05.": None,
            "2020-01-02 03:04:05.0123456789": 1577934245,
        },
    ),
    (
        "%d %B %Y",
        None,
        {
            "3 February 2001": 981158400,
            "30 february 2001": None,
            "1 May 1999": 925516800,
            "1 Dec 1999": 944006400,
        },
    ),
    (
        "%Y-%m-%dT%H:%M:%S%z",
        None,
        {"2001-02-03T04:05:06+0530": 981153306, "2001-02-03T04:05:06-05:30": 981192906},
    ),
    (
        "auto",
        "Europe/Berlin",
        {
            "2024-03-31T01:59:59": 1711846799,
            "2024-03-31T02:30": None,
            "2024-03-31 03:00": 1711846800,
            "2024-10-27 02:30": 1729989000,
            "2024-10-27": 1729980000,
            "2024-10-27T02:30Z": 1729996200,
            "2024-10-27T02:30 UTC": 1729996200,
            "2024-10-27T02:30+05": 1729978200,
            "1970-01-01": None,
            "1970-01-02": 82800,
            "9999-12-31": None,
        },
    ),
    (
        "auto",
        "America/St_Johns",
        {
            "2024-03-31T01:59:59": 1711859399,
            "2024-03-31T02:30": 1711861200,
            "2024-03-31 03:00": 1711863000,
            "2024-10-27 02:30": 1730005200,
            "2024-10-27": 1729996200,
            "2024-10-27T02:30Z": 1729996200,
            "2024-10-27T02:30 UTC": 1729996200,
            "2024-10-27T02:30+05": 1729978200,
            "1970-01-01": None,
            "1970-01-02": 99000,
            "9999-12-31": None,
        },
    ),
    (
        "auto",
        "Australia/Lord_Howe",
        {
            "2024-03-31T01:59:59": 1711810799,
            "2024-03-31T02:30": 1711812600,
            "2024-03-31 03:00": 1711814400,
            "2024-10-27 02:30": 1729956600,
            "2024-10-27": 1729947600,
            "2024-10-27T02:30Z": 1729996200,
            "2024-10-27T02:30 UTC": 1729996200,
            "2024-10-27T02:30+05": 1729978200,
            "1970-01-01": None,
            "1970-01-02": 50400,
            "9999-12-31": None,
        },
    ),
    (
        "%d.%m.%y %H:%M",
        "Europe/Berlin",
        {"31.03.24 02:30": None, "27.10.24 02:30": 1729989000, "01.07.24 12:00": 1719828000},
    ),
    ("excel", "Europe/Berlin", {"45292.5": 1704106800, "45382.104166667": None}),
]


@pytest.mark.parametrize(("unit", "timezone", "seconds"), READ_ALIKE)
def test_each_time_is_read_or_refused(
    tmp_path: Path, unit: str, timezone: str | None, seconds: dict[str, int | None]
) -> None:
    times_read, left_out = prepare_times(
        tmp_path, list(seconds), Rules("skip"), timestamp_unit=unit, timezone=timezone
    )
    assert times_read == [second for second in seconds.values() if second is not None]
    assert sum(left_out.values()) == list(seconds.values()).count(None)


DAY = 1_706_659_200
TIME = DAY + 14 * 3600 + 5 * 60 + 6


@pytest.mark.parametrize(
    ("times", "seconds", "unit"),
    [
        (["20240131", "20240201"], [DAY, DAY + 86_400], "%Y%m%d"),
        (["20240131140506"], [TIME], "%Y%m%d%H%M%S"),
        (["2024-01-31 14:05:06 +0100"], [TIME - 3600], "iso8601"),
        (["1/31/2024 2:05:06 PM", "02/01/2024 12:00:00 AM"], [TIME, DAY + 86_400], None),
        (["1/31/2024, 2:05:06 PM"], [TIME], None),
        (["31/01/2024 14:05"], [TIME - 6], None),
        (["01/31/24"], [DAY], None),
        (["31-Jan-2024", "01-FEB-2024"], [DAY, DAY + 86_400], "%d-%b-%Y"),
        (["31-JAN-24 02.05.06.000000 PM"], [TIME], None),
        (["January 31, 2024", "Feb 1, 2024"], [DAY, DAY + 86_400], None),
        (["Wed, 31 Jan 2024 14:05:06 +0000"], [TIME], "%a, %d %b %Y %H:%M:%S %z"),
        (["Wed, 31 Jan 2024 14:05:06 GMT"], [TIME], None),
        (["Wed Jan 31 14:05:06 +0000 2024"], [TIME], "%a %b %d %H:%M:%S %z %Y"),
        (["31/Jan/2024:15:05:06 +0100"], [TIME], None),
        (["31.01.2024 14:05:06.123"], [TIME], None),
        (["31.1.2024, 14:05:06", "NULL"], [TIME], None),
        (["2024-1-31"], [DAY], None),
    ],
)
def test_usual_formats_are_recognised_by_a_run(
    tmp_path: Path, times: list[str], seconds: list[int], unit: str | None
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(
        "user,item,time\n" + "".join(f'1,{n},"{time}"\n' for n, time in enumerate(times))
    )
    with open_ratings([RawFile(path, path.name)], ReadSettings(), Rules("skip")) as read:
        result = read.write_interactions(tmp_path / "interactions.csv")
    lines = (tmp_path / "interactions.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[2]) for line in lines] == seconds
    assert unit is None or result.timestamp_unit == unit


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (
            "01/02/2024",
            r'several formats\. Set ratings\.timestamp_format: "%d/%m/%Y" or "%m/%d/%Y"',
        ),
        ("24/01/05", r'"%d/%m/%y" or "%y/%m/%d"'),
        ("1.2.3", r"column time: its times are in an unknown format"),
        ("31 of January", r"column time: its times are in an unknown format"),
    ],
)
def test_formats_that_are_not_sure_are_refused_with_those_that_fit(
    tmp_path: Path, time: str, message: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"user,item,time\n1,2,{time}\n")
    with (
        pytest.raises(PreparationError, match=message),
        open_ratings([RawFile(path, path.name)], ReadSettings(), Rules("skip")),
    ):
        pass


@pytest.mark.parametrize("compact", ["20240131", "20240131140506", "99999999"])
@pytest.mark.parametrize("others", [["1577966405"], ["5", "1577966405"], ["2020-01-02"]])
def test_8_and_14_digits_are_never_seconds(tmp_path: Path, compact: str, others: list[str]) -> None:
    with pytest.raises(PreparationError, match=r"the timestamp is as %Y%m%d"):
        prepare_times(tmp_path, [*others, compact], Rules("skip"))
    assert prepare_times(tmp_path, ["20240132", "20240131"], Rules("skip")) == (
        [DAY],
        {"the timestamp cannot be read as %Y%m%d": 1},
    )


@pytest.mark.parametrize("times", [["1577966405", "2900000000"], ["2020-01-02", "2061-11-24"]])
def test_one_time_in_the_future_is_a_bad_row(tmp_path: Path, times: list[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text("user,item,time\n" + "".join(f"1,2,{time}\n" for time in times))
    with open_ratings([RawFile(path, path.name)], ReadSettings(), Rules("skip")) as read:
        result = read.write_interactions(tmp_path / "interactions.csv")
    assert result.left_out == {FUTURE: 1}
    assert result.rows_kept == 1
    with (
        open_ratings([RawFile(path, path.name)], ReadSettings(), Rules()) as read,
        pytest.raises(PreparationError, match=r"line 3: the timestamp is in the future .*: skip"),
    ):
        read.write_interactions(tmp_path / "interactions.csv")


def test_8_digits_are_seconds_where_that_is_declared(tmp_path: Path) -> None:
    seconds = prepare_times(tmp_path, ["20240131"], Rules(), timestamp_unit="s")[0]
    assert seconds == [20_240_131]


SENTINELS = ["0", "0.0", "253402300799", "253402214400000"]


@pytest.mark.parametrize("good", ["1577966405", "1577966405123"])
@pytest.mark.parametrize("unit", ["auto", "declared"])
def test_numbers_that_stand_for_no_time_are_bad_rows(tmp_path: Path, good: str, unit: str) -> None:
    layout_options = {} if unit == "auto" else {"timestamp_unit": "s" if len(good) == 10 else "ms"}
    for place in (0, 2):
        times = [good, good, good]
        times[place:place] = SENTINELS
        result = prepare_times(tmp_path, times, Rules("skip"), **layout_options)
        assert result == ([1_577_966_405] * 3, {SENTINEL: 4})
    with pytest.raises(PreparationError, match=r"^data\.csv, line 3: the timestamp is 0 or after"):
        prepare_times(tmp_path, [good, *SENTINELS], Rules(), **layout_options)


@pytest.mark.parametrize("zone", [None, "America/New_York", "Asia/Tokyo"])
def test_dates_that_stand_for_no_time_are_bad_rows(tmp_path: Path, zone: str | None) -> None:
    times = ["2020-01-02", "1970-01-01", "9999-12-31T23:59:59"]
    seconds, left_out = prepare_times(tmp_path, times, Rules("skip"), timezone=zone)
    assert len(seconds) == 1
    assert left_out == {SENTINEL: 2}


def test_years_of_two_digits_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"line 3: the year of .* has two digits .*%y"):
        prepare_times(tmp_path, ["31.01.2024", "31.01.24"], Rules(), timestamp_unit="%d.%m.%Y")
    assert "two digits" in TWO_DIGITS


def test_a_time_that_the_clocks_skip_is_a_bad_row_and_one_twice_is_the_first(
    tmp_path: Path,
) -> None:
    times = ["2024-03-31T02:30", "2024-10-27T02:30"]
    seconds, left_out = prepare_times(tmp_path, times, Rules("skip"), timezone="Europe/Berlin")
    assert seconds == [1_729_989_000]
    assert left_out == {"the timestamp cannot be read as iso8601 in Europe/Berlin": 1}


@pytest.mark.parametrize(
    ("column", "seconds"),
    [
        (pl.Datetime("ms"), 1_577_962_805),
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
    reading = ReadSettings(columns={"user": "u", "item": "i", "timestamp": "t"}, timezone="CET")
    with open_ratings([RawFile(tmp_path / "a.parquet", "a")], reading, Rules()) as read:
        read.write_interactions(tmp_path / "interactions.csv")
    assert (tmp_path / "interactions.csv").read_text().endswith(f"1,2,{seconds}\n")


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ({"timezone": "Berlin"}, "write a time zone such as Europe/Berlin"),
        ({"timezone": "UTC", "timestamp_unit": "ms"}, "timestamps as ms have a zone"),
        ({"timezone": "UTC", "timestamp_format": "%d.%m.%Y %H:%M %z"}, "have a zone: omit"),
        ({"timestamp_format": "%d.%m.%Y %H:%M:%S,%f"}, "with %f only behind a point"),
        ({"timestamp_format": "%a %H:%M"}, "a format needs day"),
    ],
)
def test_what_cannot_be_declared(ratings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pipeline.model_validate({"name": "a", "ratings": {"source": "a.csv", **ratings}})
