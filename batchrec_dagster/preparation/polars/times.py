"""Timestamps: from the forms of `Layout.timestamp_unit` to whole seconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.preparation.layout import (
    CONSTANT_TIME,
    DATETIME,
    EPOCH_UNITS,
    ISO8601,
    NO_TIMES,
)

DIRECTIVES = "YymdbBHIMSpz%"

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
    if "%" not in text or "%" in re.sub(f"%[{DIRECTIVES}]", "", text):
        raise ValueError(
            "write iso8601, or a strptime format of"
            f" {', '.join('%' + letter for letter in DIRECTIVES)}, such as %d.%m.%Y %H:%M"
        )
    example = datetime(2001, 2, 3, 14, 5, 6, tzinfo=UTC).strftime(text)
    try:
        read = pl.select(seconds(pl.lit(example), text)).item()
    except pl.exceptions.PolarsError:
        read = None
    if read is None or not 0 <= read - _EXAMPLE_DAY < 86_400:
        raise ValueError(
            f"a time written in it, such as {example!r}, cannot be read back: a format needs day,"
            " month and year, and minutes where it has hours"
        )


def whole_number(text: pl.Expr) -> pl.Expr:
    """The number; null where the text is not one."""
    return text.str.strip_chars(" \t").cast(pl.Int64, strict=False)


def seconds(text: pl.Expr, unit: str) -> pl.Expr:
    """The time in whole seconds since 1970; null where the text has another form."""
    if unit in EPOCH_UNITS:
        return whole_number(text) // EPOCH_UNITS[unit]
    if unit == DATETIME:
        return whole_number(text)
    if unit == NO_TIMES:
        return pl.lit(CONSTANT_TIME, pl.Int64)
    text = text.str.strip_chars(" \t")
    if unit == ISO8601:
        return _iso_seconds(text)
    directives = set(re.findall("%(.)", unit))
    kind: pl.Datetime | pl.Date = pl.Datetime("us", "UTC" if "z" in directives else None)
    if not directives & {"H", "I"}:
        kind = pl.Date()
    return text.str.strptime(kind, unit, strict=False).dt.epoch("s")


def form(text: pl.Expr) -> pl.Expr:
    """What the text looks like: an epoch unit by its size, ISO8601, or null for neither."""
    number = whole_number(text)
    return (
        pl.when(number >= _FIRST["ns"])
        .then(pl.lit("ns"))
        .when(number >= _FIRST["us"])
        .then(pl.lit("us"))
        .when(number >= _FIRST["ms"])
        .then(pl.lit("ms"))
        .when(number >= 0)
        .then(pl.lit("s"))
        .when(text.str.strip_chars(" \t").str.contains(_ISO))
        .then(pl.lit(ISO8601))
    )


def seconds_by_size(number: pl.Expr) -> pl.Expr:
    """The time in whole seconds since 1970, of a whole number in the unit that its size implies."""
    return (
        pl.when(number < _FIRST["ms"])
        .then(number)
        .when(number < _FIRST["us"])
        .then(number // EPOCH_UNITS["ms"])
        .when(number < _FIRST["ns"])
        .then(number // EPOCH_UNITS["us"])
        .otherwise(number // EPOCH_UNITS["ns"])
    )


def epoch_unit(number: int) -> str:
    """The unit of a whole number, by its size; see `form`."""
    return next((unit for unit, first in reversed(_FIRST.items()) if number >= first), "s")


def _iso_seconds(text: pl.Expr) -> pl.Expr:
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
    return pl.when(text.str.contains(_ISO) & possible).then(
        days.dt.epoch("s") + of_day - ahead.fill_null(0)
    )
