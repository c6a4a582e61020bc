"""Times that are written as text: which of the usual formats they have.

Runs and `batchrec new` share it. A format counts only where no other reads all the times too, such
as the day of a month for the month.
"""

from __future__ import annotations

import polars as pl

from batchrec_dagster.preparation.polars import times

_DAYS = (
    *("%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y"),
    # This one makes 24/01/05 ambiguous.
    "%y/%m/%d",
    *("%d-%m-%Y", "%m-%d-%Y", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%B %d, %Y", "%a, %d %b %Y"),
)
_YEAR_OF_TWO_DIGITS = r"^[0-9]{2}/|[./-][0-9]{2}(?:[^0-9]|$)"
# What may follow a day. Of several that fit, the first one counts.
_CLOCKS = (
    *("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", ", %H:%M", ", %H:%M:%S"),
    *(" %I:%M %p", " %I:%M:%S %p", ", %I:%M %p", ", %I:%M:%S %p"),
    *(" %H:%M:%S %z", " %H:%M:%S GMT", " %H:%M:%S UTC", " %I.%M.%S.%f %p"),
)
# X's (Twitter's), those of Unix, and Apache's.
_WHOLE_FORMATS = (
    *("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S UTC %Y"),
    "%d/%b/%Y:%H:%M:%S %z",
)
# The formats that differ in no more than in what follows the day.
_GROUPS = (
    *(tuple(day + clock for clock in _CLOCKS) for day in _DAYS),
    *((text,) for text in _WHOLE_FORMATS),
)


def find_time_formats(cells: pl.Series) -> list[str]:
    """The strptime formats that read all of these texts; none if there are no texts."""
    if not len(cells):
        return []
    return [
        formats[0]
        for group in _GROUPS
        if (formats := _find_readers(cells, _find_readers(cells.head(1), group)))
    ]


def is_text_without_form(cells: pl.Series) -> bool:
    """Whether none of these texts is a number, or a time in a form that needs no format."""
    text = pl.lit(cells)
    is_plain = (
        times.classify_form(text).is_not_null() | times.parse_epoch_number(text).is_not_null()
    )
    return bool(len(cells)) and not pl.select(is_plain.any()).item()


def _find_readers(cells: pl.Series, formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the formats that read all of the cells."""
    if not formats:
        return ()
    # With %Y, a year of two digits is one long ago; and with %y, strptime takes one digit, too.
    reads_all = pl.select(
        (times.parse_seconds(pl.lit(cells), text) >= 0)
        .fill_null(value=False)
        .and_(pl.lit(cells).str.contains(_YEAR_OF_TWO_DIGITS) if "%y" in text else True)
        .all()
        .alias(text)
        for text in formats
    )
    return tuple(text for text in formats if reads_all.item(0, text))
