"""The problems that a row can have, in order of precedence, and their descriptions.

A row counts under its first problem. Ratings, items and users share these lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import polars as pl

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH
from batchrec_dagster.preparation.file_form import (
    AUTO,
    BLANKS,
    EPOCH_UNITS,
    EXCEL_DAYS,
    FILTER,
    FIRST_SENTINEL,
    Columns,
)
from batchrec_dagster.preparation.polars.row_conditions import parse_as
from batchrec_dagster.preparation.polars.times import FORMS

# Columns: the time of a row in seconds since 1970, and the form of the time.
SECONDS, FORM = "seconds", "form"

# 1 January 100. A year of two digits that is read with %Y is before this day.
YEAR_100 = -59_011_459_200
_UNITS_IN_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
TWO_DIGITS = "the year of the timestamp has two digits (write %y in ratings.timestamp_format)"
BEFORE_1970 = "the timestamp is before 1970"
SENTINEL = (
    "the timestamp is 0 or after 2099 (that is no time, or ratings.timestamp_unit is another)"
)
FUTURE = "the timestamp is in the future (or ratings.timestamp_unit is another)"

Problem = tuple[pl.Expr, str]
"""A condition on a row, and the description of the problem if the condition holds."""


def choose_first(problems: Iterable[Problem]) -> pl.Expr:
    """Return the description of the first problem of a row; null if it has none."""
    words = [pl.when(condition).then(pl.lit(text)) for condition, text in problems]
    return pl.coalesce(*words, pl.lit(None, dtype=pl.String))


def is_missing(column: str) -> pl.Expr:
    """Return whether the cell has nothing but spaces and tabs."""
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars(BLANKS) == "")


def means_nothing(column: str, null_values: Sequence[str]) -> pl.Expr:
    """Return whether the cell is a null value, with or without spaces around it."""
    text = pl.col(column).str.strip_chars(" ")
    return text.is_in(null_values).fill_null(value=False)


def has_line_break(column: str) -> pl.Expr:
    """Return whether there is a line break or a NUL in the cell."""
    return pl.col(column).str.contains(r"[\n\r\x00]")


def is_not_utf8(column: str) -> pl.Expr:
    """Return whether bytes of the cell had no meaning in the encoding of the file."""
    return pl.col(column).str.contains("\ufffd", literal=True)


def list_id_problems(
    ids: Mapping[str, str], null_values: Sequence[str], *, plain: bool = False, setting: str = ""
) -> Iterator[Problem]:
    """Yield the problems that the ids of a row can have.

    ids: the column of each id, by the word for the kind of id, such as user.
    plain: whether the file has no line break, NUL or other character that an id must not have.
    setting: the setting of the encoding, for messages.
    """
    for word, column in ids.items():
        yield is_missing(column), f"no {word}"
    columns = list(ids.values())
    is_nothing = pl.any_horizontal(means_nothing(column, null_values) for column in columns)
    yield is_nothing, "an id that means no value (ratings.null_values)"
    is_long = pl.any_horizontal(
        pl.col(column).str.len_chars() > MAX_ID_LENGTH for column in columns
    )
    yield is_long, f"an id longer than {MAX_ID_LENGTH} characters"
    if not plain:
        is_broken = pl.any_horizontal(map(has_line_break, columns))
        yield is_broken, "an id with a line break or a NUL in it"
        hint = f" ({setting})" if setting else ""
        yield pl.any_horizontal(map(is_not_utf8, columns)), f"an id that is not UTF-8 text{hint}"


def list_number_problems(
    text: pl.Expr, is_wrong: pl.Expr, words: str, comma_setting: str | None
) -> Iterator[Problem]:
    """Yield the problems of a cell that is not a number.

    comma_setting: the setting that lets numbers have a comma. If the number has a comma, the
    problem names this setting. None to name no setting.
    """
    if comma_setting is not None:
        has_comma = text.str.contains(r"^[ \t]*[-+0-9.]*,[0-9]+[ \t]*$")
        yield is_wrong & has_comma, f'{words} ({comma_setting}: ",")'
    yield is_wrong, words


def list_row_problems(columns: Columns, *, plain: bool) -> Iterator[Problem]:
    """Yield the problems that a row of ratings can have, apart from problems of its time.

    plain: whether the file has no character that an id must not have, as in `list_id_problems`.
    """
    nulls = columns.null_values
    ids = {"user": "user", "item": "item"}
    yield from list_id_problems(ids, nulls, plain=plain)
    comma_setting = "ratings.decimal" if columns.decimal == "." else None
    if "rating" in columns.roles:
        rating = pl.col("rating")
        yield is_missing("rating"), "no rating"
        is_wrong = parse_as(rating, "double").is_null()
        yield from list_number_problems(
            rating, is_wrong, "the rating is not a number", comma_setting
        )
        yield means_nothing("rating", nulls), "no rating"
    if "event_type" in columns.roles:
        yield is_missing("event_type") | means_nothing("event_type", nulls), "no event type"
        is_broken = has_line_break("event_type")
        yield is_broken, "an event type with a line break or a NUL in it"
    if "event_value" in columns.roles:
        value = pl.col("event_value")
        has_value = ~(is_missing("event_value") | means_nothing("event_value", nulls))
        is_wrong = has_value & parse_as(value, "double").is_null()
        words = "the event value is not a number"
        yield from list_number_problems(value, is_wrong, words, comma_setting)
    if "timestamp" in columns.roles:
        yield is_missing("timestamp") | means_nothing("timestamp", nulls), "no timestamp"
    for name, kind in columns.types.items():
        if kind != "string":
            role = FILTER + name
            has_other_type = ~is_missing(role) & parse_as(pl.col(role), kind).is_null()
            yield has_other_type, f"{name} is not of type {kind}"


def list_time_problems(columns: Columns, unit: str) -> Iterator[Problem]:
    """Yield the problems that the time of a row can have. The time is in SECONDS and FORM.

    unit: the form of the times: a value of `Columns.time_form` other than `auto`.
    """
    seconds = pl.col(SECONDS)
    for form, words in list_mixed_times(columns, unit).items():
        yield pl.col(FORM) == form, words
    yield seconds.is_null(), _describe_unreadable(unit, columns.timezone)
    if "%Y" in unit:
        yield seconds < YEAR_100, TWO_DIGITS
    yield seconds < 0, BEFORE_1970
    yield (seconds == 0) | (seconds >= FIRST_SENTINEL), SENTINEL
    if columns.latest is not None:
        yield seconds > columns.latest, FUTURE


def list_mixed_times(columns: Columns, unit: str) -> dict[str, str]:
    """Return, for each form other than `unit`, the problem of a time in that form.

    A single row with such a time is an error even if bad rows are skipped. The result is empty if
    the form of the times is declared.
    """
    if columns.time_form != AUTO:
        return {}
    before = f"those before it are {_describe_unit(unit)}"
    return {
        form: f"the timestamp is {_describe_unit(form)}, {before}. Fix the file, or set"
        " ratings.timestamp_unit to read all as one"
        for form in FORMS
        if form != unit
    }


def _describe_unreadable(unit: str, timezone: str | None) -> str:
    """Return the problem of a time that is not written in the unit."""
    if unit in EPOCH_UNITS or unit == EXCEL_DAYS:
        return "the timestamp is not a number"
    zone = f" in {timezone}" if timezone is not None else ""
    return f"the timestamp cannot be read as {unit}{zone}"


def _describe_unit(unit: str) -> str:
    return f"in {_UNITS_IN_WORDS[unit]}" if unit in _UNITS_IN_WORDS else f"as {unit}"
