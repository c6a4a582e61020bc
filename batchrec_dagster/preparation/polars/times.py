"""Timestamps: from the forms of `Layout.timestamp_unit` to whole seconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.preparation import layout

DIRECTIVES = "YymdbBaAHIMSfpz%"
DAY = 86_400
_FRACTION = r"^([+-]?[0-9]+)\.[0-9]*$"
_SCIENTIFIC = r"^[+-]?[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]{1,2}$"
_DAYS = r"^[0-9]{1,7}(?:\.[0-9]*)?$"

# The first that is in milliseconds and so on, by size: as seconds 10^11 is the year 5138, as
# milliseconds 1973. No rating is on the other side of it.
_FIRST = {"ms": 10**11, "us": 10**14, "ns": 10**17}
_ISO = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?: ?UTC|Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
_OFFSET = r"[T ].*([+-])([0-9]{2}):?([0-9]{2})?$"
_EXAMPLE_DAY = 981_158_400  # 3 February 2001


def check_format(text: str) -> None:
    """Raise ValueError unless times can be written as this strptime format."""
    rest = re.sub(f"%[{DIRECTIVES}]", "", text)
    if "%" not in text or "%" in rest or "%f" in text.replace(".%f", ""):
        raise ValueError(
            "write iso8601, or a strptime format of"
            f" {', '.join('%' + letter for letter in DIRECTIVES)}, such as %d.%m.%Y %H:%M, with %f"
            " only behind a point"
        )
    example = datetime(2001, 2, 3, 14, 5, 6, tzinfo=UTC).strftime(text)
    try:
        read = pl.select(parse_seconds(pl.lit(example), text)).item()
    except pl.exceptions.PolarsError:
        read = None
    if read is None or not 0 <= read - _EXAMPLE_DAY < 86_400:
        raise ValueError(
            f"a time written in it, such as {example!r}, cannot be read back: a format needs day,"
            " month and year, and minutes where it has hours"
        )


def check_timezone(name: str) -> None:
    """Raise ValueError unless there is such a time zone."""
    try:
        pl.select(_in_zone(pl.lit(1), name))
    except pl.exceptions.PolarsError:
        raise ValueError("write a time zone such as Europe/Berlin or America/New_York") from None


def parse_whole_number(text: pl.Expr) -> pl.Expr:
    """The number; null where the text is not one."""
    return text.str.strip_chars(" \t").cast(pl.Int64, strict=False)


def parse_epoch_number(text: pl.Expr) -> pl.Expr:
    """The number rounded down; null where the text is not one, or beyond 64 bits."""
    text = text.str.strip_chars(" \t")
    integer = text.str.extract(_FRACTION, 1).cast(pl.Int64, strict=False)
    scientific = pl.when(text.str.contains(_SCIENTIFIC)).then(text).cast(pl.Float64, strict=False)
    return pl.coalesce(
        parse_whole_number(text),
        integer - text.str.starts_with("-").cast(pl.Int64),
        scientific.floor().cast(pl.Int64, strict=False),
    )


def parse_seconds(text: pl.Expr, unit: str, timezone: str | None = None) -> pl.Expr:
    """The time in whole seconds since 1970; null where the text has another form."""
    if unit == layout.NO_TIMES:
        return pl.lit(layout.CONSTANT_TIME, pl.Int64)
    if unit in layout.EPOCH_UNITS:
        number = parse_epoch_number(text)
        ended = number.is_in(layout.END_OF_TIME)
        return (
            pl.when(ended).then(layout.FIRST_SENTINEL).otherwise(number // layout.EPOCH_UNITS[unit])
        )
    text = text.str.strip_chars(" \t")
    if unit == layout.EXCEL_DAYS:
        days = pl.when(text.str.contains(_DAYS)).then(text).cast(pl.Float64, strict=False)
        return _in_zone(((days - layout.EXCEL_1970) * DAY + 0.5).floor().cast(pl.Int64), timezone)
    if unit in (layout.ISO8601, layout.DATETIME):
        return _iso_seconds(text, timezone)
    directives = set(re.findall("%(.)", unit))
    kind: pl.Datetime | pl.Date = pl.Datetime("us", "UTC" if "z" in directives else None)
    if not directives & {"H", "I"}:
        kind = pl.Date()
    # What Python calls %f, with the point before it.
    found = text.str.strptime(kind, unit.replace(".%f", "%.f"), strict=False).dt.epoch("s")
    return found if "z" in directives else _in_zone(found, timezone)


def _in_zone(local: pl.Expr, timezone: str | None) -> pl.Expr:
    """Seconds since 1970 of what the clocks of this zone show; null for what they skip."""
    if timezone is None:
        return local
    moment = pl.from_epoch(local, "s").dt.replace_time_zone(
        timezone, ambiguous="earliest", non_existent="null"
    )
    # 1 January 1970 stays what it stands for.
    return pl.when(local == 0).then(local).otherwise(moment.dt.epoch("s"))


def classify_form(text: pl.Expr) -> pl.Expr:
    """What the text looks like: an epoch unit by its size, ISO8601, or null for neither, and for
    what stands for no time."""
    number, text = parse_epoch_number(text), text.str.strip_chars(" \t")
    units = {"s": 1, **_FIRST}
    sizes = [pl.when(number >= units[unit]).then(pl.lit(unit)) for unit in reversed(units)]
    moment = text.str.contains(_ISO) & (text < "2100") & ~text.str.starts_with("1970-01-01")
    return pl.coalesce(
        pl.when(~number.is_in(layout.END_OF_TIME)).then(pl.coalesce(sizes)),
        pl.when(moment).then(pl.lit(layout.ISO8601)),
    )


def convert_by_size(number: pl.Expr) -> pl.Expr:
    """The time in whole seconds since 1970, of a whole number in the unit that its size implies."""
    return (
        pl.when(number < _FIRST["ms"])
        .then(number)
        .when(number < _FIRST["us"])
        .then(number // layout.EPOCH_UNITS["ms"])
        .when(number < _FIRST["ns"])
        .then(number // layout.EPOCH_UNITS["us"])
        .otherwise(number // layout.EPOCH_UNITS["ns"])
    )


def guess_epoch_unit(number: int) -> str:
    """The unit of a whole number, by its size; see `classify_form`."""
    return next((unit for unit, first in reversed(_FIRST.items()) if number >= first), "s")


def _iso_seconds(text: pl.Expr, timezone: str | None) -> pl.Expr:
    def part(start: int, length: int) -> pl.Expr:
        return text.str.slice(start, length).cast(pl.Int64, strict=False)

    days = text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    has_time, has_seconds = text.str.len_bytes() > 10, text.str.slice(16, 1) == ":"
    hours, minutes = part(11, 2), part(14, 2)
    second = pl.when(has_seconds).then(part(17, 2)).otherwise(0)
    offset = text.str.extract_groups(_OFFSET).struct
    ahead = (
        offset[1].cast(pl.Int64) * 3600 + offset[2].cast(pl.Int64).fill_null(0) * 60
    ) * pl.when(offset[0] == "-").then(-1).otherwise(1)
    possible = ~has_time | ((hours < 24) & (minutes < 60) & (second < 60))
    of_day = pl.when(has_time).then(hours * 3600 + minutes * 60 + second).otherwise(0)
    local = days.dt.epoch("s") + of_day
    in_utc = text.str.contains("(?:Z|UTC)$")
    moment = (
        pl.when(ahead.is_not_null() | in_utc)
        .then(local - ahead.fill_null(0))
        .otherwise(_in_zone(local, timezone))
    )
    return pl.when(text.str.contains(_ISO) & possible).then(moment)
