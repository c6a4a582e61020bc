"""What can be wrong with a row, in the order in which it counts, and the words for it.

Each engine says how it tests a cell; see `Conditions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH
from batchrec_dagster.preparation.layout import (
    EPOCH_UNITS,
    EXCEL_DAYS,
    FILTER,
    FIRST_SENTINEL,
    Columns,
    PreparationError,
)

# 1 January 100. A year of two digits that is read with %Y is before it.
YEAR_100 = -59_011_459_200
_UNITS_IN_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
NULL_ID = "an id that means no value (ratings.null_values)"
TWO_DIGITS = "the year of the timestamp has two digits (write %y in ratings.timestamp_format)"
RATING_PROBLEM = "the rating is not a number"
VALUE_PROBLEM = "the event value is not a number"
BEFORE_1970 = "the timestamp is before 1970"
SENTINEL = (
    "the timestamp is 0 or after 2099 (that is no time, or ratings.timestamp_unit is another)"
)
FUTURE = "the timestamp is in the future (or ratings.timestamp_unit is another)"


def describe_time_problem(unit: str, timezone: str | None) -> str:
    """What is wrong with a time that is not in this form.

    unit: a value of `Columns.time_form`.
    timezone: as in `Columns`.
    """
    if unit in EPOCH_UNITS or unit == EXCEL_DAYS:
        return "the timestamp is not a number"
    place = f" in {timezone}" if timezone is not None else ""
    return f"the timestamp cannot be read as {unit}{place}"


class Conditions(Protocol):
    """Conditions on the cells of a row, in an engine's own expressions.

    They can be combined with ~, & and |, and are never null.
    """

    def is_missing(self, role: str) -> Any:
        """Whether the cell has nothing but spaces and tabs."""

    def means_nothing(self, role: str) -> Any:
        """Whether the cell is one of `Columns.null_values`."""

    def is_longer(self, role: str, most: int) -> Any: ...

    def is_not_of_type(self, role: str, kind: str) -> Any:
        """Whether the cell is missing, or not of this type of `Columns.types`."""

    def has_decimal_comma(self, role: str) -> Any:
        """Whether the cell is a number with a comma before its fraction, such as 4,5."""

    def has_line_break(self, role: str) -> Any:
        """Whether there is a line break or a NUL in it."""

    def is_not_utf8(self, role: str) -> Any: ...


def list_row_problems(
    columns: Columns, cells: Conditions, *, plain: bool = False
) -> Iterator[tuple[Any, str]]:
    """The problems that a row can have apart from its time: a condition, and the words for it.

    A row counts under the first condition that holds.

    plain: whether the file has no line break, NUL or other character that an id must not have.
    """
    yield cells.is_missing("user"), "no user"
    yield cells.is_missing("item"), "no item"
    yield cells.means_nothing("user") | cells.means_nothing("item"), NULL_ID
    too_long = cells.is_longer("user", MAX_ID_LENGTH) | cells.is_longer("item", MAX_ID_LENGTH)
    yield too_long, f"an id longer than {MAX_ID_LENGTH} characters"
    if not plain:
        broken = cells.has_line_break("user") | cells.has_line_break("item")
        yield broken, "an id with a line break or a NUL in it"
        yield cells.is_not_utf8("user") | cells.is_not_utf8("item"), "an id that is not UTF-8 text"
    if "rating" in columns.roles:
        yield cells.is_missing("rating"), "no rating"
        is_wrong = cells.is_not_of_type("rating", "double")
        yield from _list_number_problems("rating", is_wrong, RATING_PROBLEM, columns, cells)
        yield cells.means_nothing("rating"), "no rating"
    if "event_type" in columns.roles:
        missing = cells.is_missing("event_type") | cells.means_nothing("event_type")
        yield missing, "no event type"
        yield cells.has_line_break("event_type"), "an event type with a line break or a NUL in it"
    if "event_value" in columns.roles:
        has_value = ~(cells.is_missing("event_value") | cells.means_nothing("event_value"))
        is_wrong = has_value & cells.is_not_of_type("event_value", "double")
        yield from _list_number_problems("event_value", is_wrong, VALUE_PROBLEM, columns, cells)
    if "timestamp" in columns.roles:
        yield cells.is_missing("timestamp") | cells.means_nothing("timestamp"), "no timestamp"
    for name, kind in columns.types.items():
        if kind != "string":
            role = FILTER + name
            has_other_type = ~cells.is_missing(role) & cells.is_not_of_type(role, kind)
            yield has_other_type, f"{name} is not of type {kind}"


def _list_number_problems(
    role: str, is_wrong: Any, problem: str, columns: Columns, cells: Conditions
) -> Iterator[tuple[Any, str]]:
    """The problem of a cell that is not a number, and how to read it where it has a comma."""
    if columns.decimal == ".":
        has_comma = cells.has_decimal_comma(role)
        yield is_wrong & has_comma, f'{problem} (ratings.decimal: ",")'
    yield is_wrong, problem


def list_time_problems(
    seconds: Any, unreadable: Any, unit: str, columns: Columns
) -> Iterator[tuple[Any, str]]:
    """As `list_row_problems`, for the time of a row.

    seconds: the time in epoch seconds.
    unreadable: whether the cell is not written in the unit.
    """
    timezone = columns.timezone
    yield unreadable, describe_time_problem(unit, timezone)
    if "%Y" in unit:
        yield seconds < YEAR_100, TWO_DIGITS
    yield seconds < 0, BEFORE_1970
    yield (seconds == 0) | (seconds >= FIRST_SENTINEL), SENTINEL
    if columns.latest is not None:
        yield seconds > columns.latest, FUTURE


def build_mixed_times_error(place: str, unit: str, before: str) -> PreparationError:
    """The error of a timestamp that is written in another form than those before it.

    place: the file and the line.
    unit, before: the forms of this timestamp and of those before it.
    """
    return PreparationError(
        f"{place}: the timestamp is {_describe_unit(unit)}, those before it are"
        f" {_describe_unit(before)}. Fix the file, or set ratings.timestamp_unit to read all as one"
    )


def _describe_unit(unit: str) -> str:
    return f"in {_UNITS_IN_WORDS[unit]}" if unit in _UNITS_IN_WORDS else f"as {unit}"
