"""Tests that batchrec keeps the same rows of any file as an independent reading by pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.builders import write_source
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation

# The texts that databases, pandas and JavaScript write for a missing value.
NULL_VALUES = ["NULL", "null", "(null)", "\\N", "undefined", "nan", "None", "<NA>", "N/A", "#N/A"]
LAST = 4_102_444_800
NOTHING = [
    "",
    " ",
    *NULL_VALUES[:6],
    "0",
    "1970-01-01",
    "9999-12-31",
    "9999-12-31 23:59:59",
    "soon",
]
BERLIN = "Europe/Berlin"
Times = Callable[[pd.Series], pd.Series]


def read_epochs(unit: int) -> Times:
    return lambda text: (pd.to_numeric(text, errors="coerce") / unit).map(np.floor)


def read_dates(zone: str | None, form: str = "ISO8601") -> Times:
    def read(text: pd.Series) -> pd.Series:
        # pandas raises an error for these times, whatever its options are.
        text = text.mask(text.str.startswith("9999"), "")
        if zone is None:
            moments = pd.to_datetime(text, format=form, utc=True, errors="coerce")
        else:
            naive = pd.to_datetime(text, format=form, errors="coerce")
            first = np.ones(len(naive), dtype=bool)
            moments = naive.dt.tz_localize(zone, ambiguous=first, nonexistent="NaT")
        return (moments - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)

    return read


def write_dates(form: str) -> Callable[[int], str]:
    return lambda second: datetime.fromtimestamp(second, UTC).strftime(form)


def read_excel_days(text: pd.Series) -> pd.Series:
    return ((pd.to_numeric(text, errors="coerce") - 25_569) * 86_400).round()


# Formats of times, their declarations, and pandas' options to read them.
FORMS: dict[str, tuple[Callable[[int], str], dict[str, Any], Times]] = {
    "s": (str, {}, read_epochs(1)),
    "fractions": (lambda s: f"{s}.{s % 1000}", {}, read_epochs(1)),
    "ms": (lambda s: f"{s}{s % 1000:03}", {"timestamp_unit": "ms"}, read_epochs(1000)),
    "excel": (lambda s: str(s / 86_400 + 25_569), {"timestamp_unit": "excel"}, read_excel_days),
    "iso": (write_dates("%Y-%m-%dT%H:%M:%SZ"), {}, read_dates(None)),
    "local": (write_dates("%Y-%m-%d %H:%M:%S"), {"timezone": BERLIN}, read_dates(BERLIN)),
    "format": (
        write_dates("%d.%m.%Y %H:%M"),
        {"timestamp_format": "%d.%m.%Y %H:%M"},
        read_dates(None, "%d.%m.%Y %H:%M"),
    ),
    "weekday": (
        write_dates("%a %b %d %Y %H:%M:%S"),
        {"timestamp_format": "%a %b %d %Y %H:%M:%S", "timezone": BERLIN},
        read_dates(BERLIN, "%a %b %d %Y %H:%M:%S"),
    ),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "cp1252", "cp1250", "cp1251"]


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], str]:
    """Draw a file's bytes, its declaration, and the name of its form of times."""
    encoding = draw(st.sampled_from(ENCODINGS))
    codec = "utf-8" if encoding.startswith("utf") else encoding
    letters = st.characters(codec=codec, exclude_characters="\0\ufffd\ufeff")
    ids = st.one_of(
        st.sampled_from([*NULL_VALUES, "", " ", '"', '""', "a,b", "x\ny", "1.0", " 7", "x" * 257]),
        st.text(letters, max_size=6),
        st.text(st.sampled_from("ab\",;|\t\n\r \\'"), max_size=5),
    )
    form = draw(st.sampled_from(list(FORMS)))
    write, form_settings, _ = FORMS[form]
    # These times are too late to be taken for Excel's days or for milliseconds.
    second = st.integers(1_000_000_000, 1_750_000_000).map(write)
    rows = draw(st.lists(st.tuples(ids, ids, st.one_of(second, st.sampled_from(NOTHING)))))
    file = io.StringIO(newline="")
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    quotes_all = draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n"]))
    if not quotes_all and end == "\n":
        # Python would not quote a carriage return there, and pandas takes it for the end of a line.
        rows = [(user.replace("\r", ""), item.replace("\r", ""), time) for user, item, time in rows]
    writer = csv.writer(
        file,
        delimiter=delimiter,
        quoting=csv.QUOTE_ALL if quotes_all else csv.QUOTE_MINIMAL,
        lineterminator=end,
    )
    writer.writerows([("u", "i", "t", "more"), *((*row, "") for row in rows)])
    writer.writerow(("last", "one", write(1_500_000_000), "é" if codec == "cp1252" else "x"))
    content = file.getvalue().encode(encoding)
    readable = "auto" if encoding.startswith("utf") else encoding
    columns = {"user": "u", "item": "i", "timestamp": "t"}
    settings = {"delimiter": delimiter, "columns": columns, "encoding": readable, **form_settings}
    return content, settings, form


def prepare_by_pandas(
    content: bytes, ratings: dict[str, Any], form: str
) -> list[tuple[str, str, int]]:
    """Return the rows to keep."""
    encoding = ratings["encoding"]
    if encoding == "auto":
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    read = pd.read_csv(
        io.StringIO(content.decode(encoding), newline=""),
        sep=ratings["delimiter"],
        dtype=str,
        keep_default_na=False,
        engine="python",
    )
    seconds = FORMS[form][2](read["t"].str.strip(" \t"))
    good = (seconds > 0) & (seconds < LAST) & ~read["t"].str.strip(" ").isin(NULL_VALUES)
    for column in ("u", "i"):
        ids = read[column]
        good &= (ids.str.strip(" \t") != "") & ~ids.str.strip(" ").isin(NULL_VALUES)
        good &= (ids.str.len() <= 256) & ~ids.str.contains("[\n\r]")
    good_rows = read[good]
    return list(zip(good_rows["u"], good_rows["i"], seconds[good].astype(int), strict=True))


@settings(deadline=None, max_examples=repeats(200, 10))
@given(files())
def test_kept_rows_of_any_file_are_the_rows_pandas_reads(
    tmp_path_factory: pytest.TempPathFactory, generated_file: tuple[bytes, dict[str, Any], str]
) -> None:
    content, settings, form = generated_file
    folder = tmp_path_factory.mktemp("any")
    ratings = {"source": write_source(folder, content), "on_bad_rows": "skip", **settings}
    interactions = preparation.prepare(folder, {"ratings": ratings})
    assert interactions.rows == prepare_by_pandas(content, settings, form)
