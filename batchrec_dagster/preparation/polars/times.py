"""The conversion of timestamps in the forms of `Columns.time_form` to whole seconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.preparation import file_form

DIRECTIVES = "YymdbBaAHIMSfpz%"
# The allowed spelling of Excel's days.
_EXCEL_DAYS = r"^[0-9]{1,7}(?:\.[0-9]*)?$"

# The smallest and the largest number that are read as each unit. 10^11 is the year 5138 in seconds
# and 1973 in milliseconds, so no rating is on the wrong side of the limit.
_SMALLEST = {"s": 1, "ms": 10**11, "us": 10**14, "ns": 10**17}
_LARGEST = {"s": 10**11 - 1, "ms": 10**14 - 1, "us": 10**17 - 1, "ns": 2**63 - 1}
_ISO = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"
    r"(?: ?(?:UTC|GMT)|Z| ?[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
# The formats of times of 8 and 14 digits, such as 20240131 and 20240131120000. The numbers are the
# smallest and the largest number with so many digits.
COMPACT_FORMS = {
    "%Y%m%d": (10**7, 10**8 - 1),
    "%Y%m%d%H%M%S": (10**13, 10**14 - 1),
}
# The forms that can be recognised from a time itself; see `classify_form`.
FORMS = (*file_form.EPOCH_UNITS, *COMPACT_FORMS, file_form.ISO8601)
_OFFSET = r"[T ].*([+-])([0-9]{2}):?([0-9]{2})?$"
# 3 February 2001.
_EXAMPLE_DAY = 981_158_400


def require_time_format(text: str) -> None:
    """Raise ValueError unless times can be written in this strptime format and read back."""
    without_directives = re.sub(f"%[{DIRECTIVES}]", "", text)
    if "%" not in text or "%" in without_directives or "%f" in text.replace(".%f", ""):
        raise ValueError(
            "write iso8601, or a strptime format of"
            f" {', '.join('%' + letter for letter in DIRECTIVES)}, such as %d.%m.%Y %H:%M, with %f"
            " only behind a point"
        )
    example = datetime(2001, 2, 3, 14, 5, 6, tzinfo=UTC).strftime(text)
    try:
        seconds = pl.select(parse_seconds(pl.lit(example), text)).item()
    except pl.exceptions.PolarsError:
        seconds = None
    if seconds is None or not 0 <= seconds - _EXAMPLE_DAY < SECONDS_A_DAY:
        raise ValueError(
            f"a time written in it, such as {example!r}, cannot be read back: a format needs day,"
            " month and year, and minutes where it has hours"
        )


def require_timezone(name: str) -> None:
    """Raise ValueError unless there is such a time zone."""
    try:
        pl.select(_convert_from_zone(pl.lit(1), name))
    except pl.exceptions.PolarsError:
        raise ValueError("write a time zone such as Europe/Berlin or America/New_York") from None


def parse_epoch_number(text: pl.Expr) -> pl.Expr:
    """Return the number rounded down; null where the text is not a number, or is beyond 64 bits."""
    text = text.str.strip_chars(file_form.BLANKS)
    # A whole number of nanoseconds has more digits than a floating-point number keeps.
    return pl.coalesce(
        text.cast(pl.Int64, strict=False),
        text.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False),
    )


def parse_seconds(text: pl.Expr, unit: str, timezone: str | None = None) -> pl.Expr:
    """Return the time in whole seconds since 1970; null where the text has another form."""
    if unit == file_form.NO_TIMES:
        return pl.lit(file_form.CONSTANT_TIME, pl.Int64)
    if unit in file_form.EPOCH_UNITS:
        number = parse_epoch_number(text)
        is_end_of_time = number.is_in(file_form.END_OF_TIME)
        seconds = number // file_form.EPOCH_UNITS[unit]
        return pl.when(is_end_of_time).then(file_form.FIRST_SENTINEL).otherwise(seconds)
    text = text.str.strip_chars(file_form.BLANKS)
    if unit == file_form.EXCEL_DAYS:
        days = pl.when(text.str.contains(_EXCEL_DAYS)).then(text).cast(pl.Float64, strict=False)
        local = ((days - file_form.EXCEL_1970) * SECONDS_A_DAY + 0.5).floor().cast(pl.Int64)
        return _convert_from_zone(local, timezone)
    if unit in (file_form.ISO8601, file_form.DATETIME):
        return _parse_iso(text, timezone)
    if unit in COMPACT_FORMS:
        # strptime would also read 2024013, which lacks a digit.
        width = len(str(COMPACT_FORMS[unit][0]))
        text = pl.when(text.str.contains(f"^[0-9]{{{width}}}$")).then(text)
    directives = set(re.findall("%(.)", unit))
    kind: pl.Datetime | pl.Date = pl.Datetime("us", "UTC" if "z" in directives else None)
    if not directives & {"H", "I"}:
        kind = pl.Date()
    # Polars' name for Python's %f includes the point before the fraction.
    local = text.str.strptime(kind, unit.replace(".%f", "%.f"), strict=False).dt.epoch("s")
    return local if "z" in directives else _convert_from_zone(local, timezone)


def _convert_from_zone(local: pl.Expr, timezone: str | None) -> pl.Expr:
    """Return the seconds since 1970 in UTC; null for a time that the clocks of the zone skip.

    local: seconds since 1970 as the clocks of the zone show them.
    """
    if timezone is None:
        return local
    time = pl.from_epoch(local, "s").dt.replace_time_zone(
        timezone, ambiguous="earliest", non_existent="null"
    )
    # The start of 1970 means no time in every zone, so it is kept as 0.
    return pl.when(local == 0).then(local).otherwise(time.dt.epoch("s"))


def classify_form(text: pl.Expr) -> pl.Expr:
    """Return the form that the text looks like, as a value of FORMS.

    The size of a number decides its form. The result is null for other texts, and for placeholder
    times such as 9999-12-31.
    """
    number, text = parse_epoch_number(text), text.str.strip_chars(file_form.BLANKS)
    is_iso = text.str.contains(_ISO) & (text < "2100") & ~text.str.starts_with("1970-01-01")
    compact = [
        pl.when(number.is_between(*extent)).then(pl.lit(form))
        for form, extent in COMPACT_FORMS.items()
    ]
    units = [pl.when(is_in_unit(number, unit)).then(pl.lit(unit)) for unit in file_form.EPOCH_UNITS]
    return pl.coalesce(
        pl.when(~number.is_in(file_form.END_OF_TIME)).then(pl.coalesce(*compact, *units)),
        pl.when(is_iso).then(pl.lit(file_form.ISO8601)),
    )


def is_in_unit(number: pl.Expr, unit: str) -> pl.Expr:
    """Return whether the size of a whole number fits this epoch unit.

    The number must not be in one of COMPACT_FORMS.
    """
    return number.is_between(_SMALLEST[unit], _LARGEST[unit])


def is_compact(number: pl.Expr) -> pl.Expr:
    """Return whether the whole number is in one of COMPACT_FORMS, and so not an epoch number."""
    return pl.any_horizontal(number.is_between(*extent) for extent in COMPACT_FORMS.values())


def parse_any_form(text: pl.Expr) -> pl.Expr:
    """Return the time in whole seconds since 1970, in any form; null where the text is no time.

    The form of each text is recognised from the text itself. Numbers up to 0 are seconds.
    """
    number = parse_epoch_number(text)
    units = [
        pl.when(is_in_unit(number, unit)).then(number // factor)
        for unit, factor in file_form.EPOCH_UNITS.items()
    ]
    return pl.coalesce(
        *(parse_seconds(text, form) for form in (file_form.ISO8601, *COMPACT_FORMS)),
        pl.when(~is_compact(number)).then(pl.coalesce(*units, number)),
    )


def _parse_iso(text: pl.Expr, timezone: str | None) -> pl.Expr:
    def part(start: int, length: int) -> pl.Expr:
        return text.str.slice(start, length).cast(pl.Int64, strict=False)

    days = text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    has_time = text.str.len_bytes() > 10
    has_seconds = text.str.slice(16, 1) == ":"
    hour, minute = part(11, 2), part(14, 2)
    second = pl.when(has_seconds).then(part(17, 2)).otherwise(0)
    sign, offset_hours, offset_minutes = (
        text.str.extract_groups(_OFFSET).struct[number] for number in range(3)
    )
    offset = offset_hours.cast(pl.Int64) * 3600 + offset_minutes.cast(pl.Int64).fill_null(0) * 60
    offset = pl.when(sign == "-").then(-offset).otherwise(offset)
    is_possible = ~has_time | ((hour < 24) & (minute < 60) & (second < 60))
    second_of_day = pl.when(has_time).then(hour * 3600 + minute * 60 + second).otherwise(0)
    local = days.dt.epoch("s") + second_of_day
    is_in_utc = text.str.contains("(?:Z|UTC|GMT)$")
    seconds = (
        pl.when(offset.is_not_null() | is_in_utc)
        .then(local - offset.fill_null(0))
        .otherwise(_convert_from_zone(local, timezone))
    )
    return pl.when(text.str.contains(_ISO) & is_possible).then(seconds)
