"""The recognition of the usual formats of times that are written as text.

Runs and `batchrec new` share this module. A format is certain only if no other format reads all the
times. For example, two formats read 01/02/2024: the day may come first, or the month.
"""

from __future__ import annotations

import polars as pl

from batchrec_dagster.preparation.polars import times

_DAYS = (
    *("%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y"),
    # %d/%m/%y also reads 24/01/05. With this format in the list, such a date counts as ambiguous,
    # and is not silently misread.
    "%y/%m/%d",
    *("%d-%m-%Y", "%m-%d-%Y", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%B %d, %Y", "%a, %d %b %Y"),
)
_YEAR_OF_TWO_DIGITS = r"^[0-9]{2}/|[./-][0-9]{2}(?:[^0-9]|$)"
# The formats of the clock time that may follow a day. If several fit, the first one counts.
_CLOCKS = (
    *("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", ", %H:%M", ", %H:%M:%S"),
    *(" %I:%M %p", " %I:%M:%S %p", ", %I:%M %p", ", %I:%M:%S %p"),
    *(" %H:%M:%S %z", " %H:%M:%S GMT", " %H:%M:%S UTC", " %I.%M.%S.%f %p"),
)
# The formats of X (Twitter), of Unix (two), and of Apache.
_WHOLE_FORMATS = (
    *("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S UTC %Y"),
    "%d/%b/%Y:%H:%M:%S %z",
)
# Groups of formats that differ only in the part after the day.
_GROUPS = (
    *(tuple(day + clock for clock in _CLOCKS) for day in _DAYS),
    *((text,) for text in _WHOLE_FORMATS),
)


def find_time_formats(cells: pl.Series) -> list[str]:
    """Return the strptime formats that read all of the texts; none if there are no texts.

    If several of these formats differ only in the part after the day, the first one is returned.
    """
    if not len(cells):
        return []
    return [
        formats[0]
        for group in _GROUPS
        if (formats := _find_readers(cells, _find_readers(cells.head(1), group)))
    ]


def is_text_without_form(cells: pl.Series) -> bool:
    """Return whether every text needs a strptime format.

    A number needs no format, nor does a time in a form that `times` recognises. The result is false
    if there are no texts.
    """
    text = pl.lit(cells)
    is_plain = (
        times.classify_form(text).is_not_null() | times.parse_epoch_number(text).is_not_null()
    )
    return bool(len(cells)) and not pl.select(is_plain.any()).item()


def _find_readers(cells: pl.Series, formats: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats that read all of the cells."""
    if not formats:
        return ()
    # With %Y, a year of two digits is read as a year long before 1970, so the time is below 0. With
    # %y, strptime would also read a single digit, so the pattern requires two digits.
    reads_all = pl.select(
        (times.parse_seconds(pl.lit(cells), text) >= 0)
        .fill_null(value=False)
        .and_(pl.lit(cells).str.contains(_YEAR_OF_TWO_DIGITS) if "%y" in text else True)
        .all()
        .alias(text)
        for text in formats
    )
    return tuple(text for text in formats if reads_all.item(0, text))
