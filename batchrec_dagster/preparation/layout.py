"""How the rows of the source's files are read, as plain JSON that every engine obeys.

A row is read in four steps, so that engines agree to the byte.

1. Records. `csv`: lines end in LF or CRLF; a field that starts with `"` goes on to the closing `"`,
   with `""` for one `"`, and may hold delimiters and line ends. A quoted field that does not end
   at a delimiter or a line end is an error, whatever `on_bad_rows` says, and so is a record with
   an odd number of quotes: where the next row starts would be a guess. `json`: one object a line.
   `parquet`: one row. Blank lines, and csv lines of nothing but delimiters, count nowhere. Files
   come in the order of their names, rows in the order of their file: this is the source order.
   Bytes that are not UTF-8 become U+FFFD. A last line of `csv` that neither ends nor has as many
   fields as the first is a problem: what is left of its values is not what they were.
2. Cells. Every cell of `csv` is text; an empty one, quoted or not, is missing. A JSON string is
   its text, a number the text it is written with, true and false so, null and what is not there
   are missing; an object or a list is missing. A Parquet cell that is not text becomes text as
   written in decimal; ids of a floating-point column are refused.
3. Roles. Ids and event types are taken as they are, spaces included; those of spaces and tabs only
   are missing. One of `Layout.null_values`, perhaps with spaces around, is a problem as an id, and
   missing in the other roles, but not to the filter. Numbers and times lose the spaces and tabs
   around them. A number is
   `[+-]?(D+(.D*)?|.D+)([eE][+-]?D+)?` (D a digit 0-9) and finite as a 64-bit floating-point number,
   a whole number `[+-]?D+` from -2^63 to 2^63 - 1. An event value that is missing is no problem.
   With the `decimal` `,` numbers have a comma for the point; one with a point is not a number.
4. Problems. A row with one is bad; with several it counts under the first: what is wrong with
   its line, then `row_problems`, then `time_problems`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH


class PreparationError(Exception):
    """The files cannot be used; one line that names the file, line or setting, and the fix."""


Column = str | int
Format = Literal["csv", "json", "parquet"]
# Of a folder, not of a file.
TableFormat = Literal["delta", "iceberg"]
# auto, or what Python calls it; see `Layout`.
Encoding = str
# What is not UTF-8 is this for `auto`: Latin-1 with letters such as € where that has controls.
LEGACY = "cp1252"
Decimal = Literal[".", ","]
EPOCH_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Other values of `Layout.timestamp_unit`.
AUTO, ISO8601, DATETIME, NO_TIMES = "auto", "iso8601", "datetime", "none"
EXCEL_DAYS = "excel"
# The time of every row if they have none: 1 January 2000.
CONSTANT_TIME = 946_684_800
# 1970 in Excel's days. 2100, from which on a time stands for none, such as 9999-12-31. What that is
# in seconds and milliseconds, from its start to its end: one among the other would be 1978.
EXCEL_1970, FIRST_SENTINEL = 25_569, 4_102_444_800
END_OF_TIME = (
    *(253_402_214_400, 253_402_300_799),
    *(253_402_214_400_000, 253_402_300_799_000, 253_402_300_799_999),
)
# 1 January 100: with %Y a year of two digits is before it.
YEAR_100 = -59_011_459_200
_UNITS_IN_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

# A column that the filter names has the role of its name after this.
FILTER = "filter "

# What databases, pandas and JavaScript write for no value.
NULL_VALUES = (
    *("NULL", "null", "Null", "(null)", "<null>", "[NULL]", "\\N", "nil", "undefined"),
    *("nan", "NaN", "NAN", "None", "none", "NONE", "<NA>", "N/A", "n/a", "#N/A"),
)
NULL_ID = "an id that means no value (ratings.null_values)"

CUT_OFF = "a last line without a line end and with too few fields: the file is cut off"
TWO_DIGITS = "the year of the timestamp has two digits (write %y in ratings.timestamp_format)"
BEFORE_1970 = "the timestamp is before 1970"
SENTINEL = (
    "the timestamp is 0 or after 2099 (that is no time, or ratings.timestamp_unit is another)"
)
QUOTES_FIX = 'Write "" for each quote inside a quoted field, or set ratings.quotes: false'


@dataclass(frozen=True)
class Layout:
    """Which cell of a row holds what: by its name in the header, or by position, from 1."""

    delimiter: str
    """What separates the fields of CSV: one character, or `::`."""

    user: Column
    item: Column

    rating: Column | None
    """None where the files have no ratings, or none that are used."""

    timestamp: Column | None
    """None where the files have no times."""

    timestamp_unit: str = "auto"
    """How times are written.

    - `s`, `ms`, `us`, `ns`: since 1970 as numbers, rounded down to seconds.
    - `excel`: days since 1899-12-30 as numbers, to the nearest second.
    - `iso8601`: `YYYY-MM-DD`, then perhaps `T` or a space and `HH:MM[:SS[.fraction]]`, then perhaps
      `Z`, `UTC` or `±HH[[:]MM]`. Fractions are cut off.
    - `none`: there are no times. Every row has CONSTANT_TIME.
    - a strptime format of %Y %y %m %d %b %B %a %A %H %I %M %S .%f %p %z %%.
    - `auto`: as the data show. It is `datetime` where the type of the column is a date or a time
      (of Parquet), `iso8601` where texts look so, else by size `s` below 10^11, `ms` below 10^14,
      `us` below 10^17, `ns` from there on. Rows that differ in it are an error, except for
      placeholder times.
    """

    event_type: Column | None = None
    event_value: Column | None = None
    format: Format = "csv"

    encoding: Encoding = "auto"
    """The encoding as Python calls it.

    `auto` is UTF-8, or LEGACY if there are bytes that are not UTF-8, and no letter beyond ASCII
    that is. A BOM is skipped. Bytes that stand for nothing in an encoding become U+FFFD.
    """

    quoted: bool = True
    """Whether quotes may enclose a field of CSV. If not, and in files with `::`, they are text."""

    types: Mapping[str, str] = field(default_factory=dict)
    """The types of the columns that `Rules.filter` names: string, long, double or boolean (true or
    false, in any case). A cell that does not fit is a problem."""

    decimal: Decimal = "."
    """What stands before the fraction of a number in CSV."""

    null_values: Sequence[str] = NULL_VALUES
    """Texts that mean no value."""

    timezone: str | None = None
    """The time zone of times that do not say theirs; None for UTC.

    Of a time that the clocks show twice it is the first one. One that they skip cannot be read.
    """

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "null_values", tuple(self.null_values))

    @property
    def has_header(self) -> bool:
        return isinstance(self.user, str)

    @property
    def with_comma(self) -> frozenset[str]:
        """The roles whose cells are numbers with a comma in place of the point."""
        if self.decimal == ".":
            return frozenset()
        of_filter = {FILTER + name for name, kind in self.types.items() if kind == "double"}
        times = {"timestamp"} if self.timestamp_unit in (EXCEL_DAYS, *EPOCH_UNITS) else set()
        return frozenset({"rating", "event_value", *times, *of_filter})

    @property
    def columns(self) -> dict[str, Column]:
        """The columns by role, but for those of the filter."""
        roles = ("user", "item", "rating", "timestamp", "event_type", "event_value")
        columns = {role: getattr(self, role) for role in roles}
        return {role: column for role, column in columns.items() if column is not None}

    @property
    def roles(self) -> dict[str, Column]:
        """The columns to read, by role; those of the filter too."""
        return {**self.columns, **{FILTER + name: self.find_column(name) for name in self.types}}

    def find_column(self, name: str) -> Column:
        """The column that a filter calls by this name."""
        position = name.removeprefix("column_")
        return int(position) if not self.has_header and position.isdecimal() else name

    def with_declared(self, delimiter: str | None, timestamp_unit: str) -> Self:
        """This layout with the delimiter and the unit that are declared, if they are."""
        return replace(
            self,
            delimiter=delimiter or self.delimiter,
            timestamp_unit=self.timestamp_unit if timestamp_unit == "auto" else timestamp_unit,
        )


# As MovieLens, HetRec, Amazon reviews, Book-Crossing, Goodreads, Yelp, RetailRocket, REES46,
# RecBole and Amazon Personalize itself have them, in small letters without what joins words. Of
# several in one file the first in this list counts.
_WORDS = {
    "user": "userid user uid visitorid customerid customer reviewerid memberid accountid profileid",
    "item": "itemid item iid movieid productid asin isbn bookid animeid artistid trackid songid"
    " gameid businessid recipeid articleid newsid beerid contentid sku product",
    "rating": "rating bookrating userrating reviewscore overall stars score",
    "timestamp": "timestamp unixreviewtime eventtime eventtimestamp ratingtimestamp createdat"
    " orderedat orderdate purchasedat datetime time ts date",
    "event_type": "eventtype event",
}
NAMES = {role: words.split() for role, words in _WORDS.items()}


def recognise_columns(columns: Sequence[str]) -> dict[str, str]:
    """The column of each role, as far as the names say."""
    matches = {role: find_columns(columns, names) for role, names in NAMES.items()}
    return {role: names[0] for role, names in matches.items() if names}


def find_columns(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with these names (lower case, no separators), in the order of the names."""
    by_simple_name = {_simplify_name(column): column for column in reversed(columns)}
    return [by_simple_name[name] for name in names if name in by_simple_name]


def _simplify_name(column: str) -> str:
    # RecBole writes the type behind the name: user_id:token.
    return re.sub(r"[\s_.-]", "", column.partition(":")[0]).lower()


def locate(
    wanted: Mapping[str, Column], columns: Sequence[str], name: str, hint: str = ""
) -> dict[str, int]:
    """Where each wanted column is, from 0, by its role.

    wanted: the columns by role, by name or by position from 1.
    columns: the names of all columns of the file.
    name: what messages call the file.
    hint: what messages end with.

    Raises PreparationError for a column that is not there.
    """
    places = {}
    for role, column in wanted.items():
        if isinstance(column, int):
            if column > len(columns):
                raise PreparationError(
                    f"{name}: {setting_name(role)} is column {column}, but line 1 has"
                    f" {len(columns)}{hint}"
                )
            places[role] = column - 1
        elif column not in columns:
            raise PreparationError(
                f"{name} has no column {column!r} ({setting_name(role)}); it has:"
                f" {', '.join(columns)}{hint}"
            )
        else:
            places[role] = list(columns).index(column)
    return places


def setting_name(role: str) -> str:
    """What names the column in the declaration."""
    if role.startswith(FILTER):
        return "interactions.filter"
    return role if role.startswith("items.") else f"ratings.columns.{role}"


# Bytes of a file's end in which its last line is looked for.
TAIL = 64 * 1024


def split_line(line: str, delimiter: str, *, quoted: bool = True) -> list[str]:
    """The fields of a line, as the header's are read."""
    if delimiter == "::" or not quoted:
        return line.rstrip("\r\n").split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        # A field longer than csv allows, as when the delimiter is another one.
        return line.rstrip("\r\n").split(delimiter)


def is_cut_off(end: str, width: int, delimiter: str, quoted: bool) -> bool:
    """Whether a file that ends so has a last line that was not written to its end."""
    line = end.rpartition("\n")[2]
    if not line or line.endswith("\r") or len(line.encode()) >= TAIL:
        return False
    if quoted and delimiter != "::" and line.count('"') % 2:
        return False  # The last line of a quoted field with several.
    return len(split_line(line, delimiter, quoted=quoted)) < width


NOT_AN_OBJECT = "not a JSON object"
# Lines of a JSON Lines file that say which columns there are.
JSON_LINES_SAMPLED = 10_000


def parse_json(line: str) -> dict[str, object] | None:
    """The object with its numbers as written; None where the line is not an object."""
    try:
        value = json.loads(line.lstrip("\ufeff"), parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_cell(value: object) -> str | None:
    """The value as text; None for what is missing, an object or a list."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            # JSON may have halves of characters, which are no text.
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case float():
            return str(value)
    return None


def time_problem(unit: str, timezone: str | None) -> str:
    """What is wrong with a time that is not in this form."""
    if unit in EPOCH_UNITS or unit == EXCEL_DAYS:
        return "the timestamp is not a number"
    place = f" in {timezone}" if timezone is not None else ""
    return f"the timestamp cannot be read as {unit}{place}"


class Conditions(Protocol):
    """Conditions on the cells of a row, as an engine writes them: with ~, & and |, never null."""

    def missing(self, role: str) -> Any:
        """Whether there is nothing but spaces and tabs."""

    def means_nothing(self, role: str) -> Any:
        """Whether the cell is one of `Layout.null_values`."""

    def longer(self, role: str, most: int) -> Any: ...

    def not_a(self, role: str, kind: str) -> Any:
        """Whether the cell is missing, or not of this type of `Layout.types`."""

    def broken(self, role: str) -> Any:
        """Whether there is a line break or a NUL in it."""

    def not_utf8(self, role: str) -> Any: ...


def row_problems(
    layout: Layout, cells: Conditions, *, plain: bool = False
) -> Iterator[tuple[Any, str]]:
    """What is wrong with a row but for its time, with the words for it; the first that holds
    counts. plain: whether the file has nothing that an id must not have."""
    yield cells.missing("user"), "no user"
    yield cells.missing("item"), "no item"
    yield cells.means_nothing("user") | cells.means_nothing("item"), NULL_ID
    too_long = cells.longer("user", MAX_ID_LENGTH) | cells.longer("item", MAX_ID_LENGTH)
    yield too_long, f"an id longer than {MAX_ID_LENGTH} characters"
    if not plain:
        broken = cells.broken("user") | cells.broken("item")
        yield broken, "an id with a line break or a NUL in it"
        yield cells.not_utf8("user") | cells.not_utf8("item"), "an id that is not UTF-8 text"
    if layout.rating is not None:
        yield cells.missing("rating"), "no rating"
        yield cells.not_a("rating", "double"), "the rating is not a number"
        yield cells.means_nothing("rating"), "no rating"
    if layout.event_type is not None:
        missing = cells.missing("event_type") | cells.means_nothing("event_type")
        yield missing, "no event type"
        yield cells.broken("event_type"), "an event type with a line break or a NUL in it"
    if layout.event_value is not None:
        has_value = ~(cells.missing("event_value") | cells.means_nothing("event_value"))
        yield has_value & cells.not_a("event_value", "double"), "the event value is not a number"
    if layout.timestamp is not None:
        yield cells.missing("timestamp") | cells.means_nothing("timestamp"), "no timestamp"
    for name, kind in layout.types.items():
        if kind != "string":
            role = FILTER + name
            wrong = ~cells.missing(role) & cells.not_a(role, kind)
            yield wrong, f"{name} is not of type {kind}"


def time_problems(
    seconds: Any, unreadable: Any, unit: str, timezone: str | None
) -> Iterator[tuple[Any, str]]:
    """As `row_problems`, of the time. seconds: the time; unreadable: whether it has another form
    than the unit's."""
    yield unreadable, time_problem(unit, timezone)
    if "%Y" in unit:
        yield seconds < YEAR_100, TWO_DIGITS
    yield seconds < 0, BEFORE_1970
    yield (seconds == 0) | (seconds >= FIRST_SENTINEL), SENTINEL


def build_mixed_times_error(place: str, timestamp: str, unit: str, before: str) -> PreparationError:
    """The error of a timestamp that is written in another form than those before it."""
    return PreparationError(
        f"{place}: the timestamp {timestamp!r} is {_describe_unit(unit)}, those before it are"
        f" {_describe_unit(before)}. Fix the file, or set ratings.timestamp_unit to read all as one"
    )


def _describe_unit(unit: str) -> str:
    return f"in {_UNITS_IN_WORDS[unit]}" if unit in _UNITS_IN_WORDS else f"as {unit}"
