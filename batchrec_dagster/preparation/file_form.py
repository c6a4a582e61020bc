"""How the rows of the source's files are read, as plain JSON that every engine obeys.

A row is read in four steps, which are the same for all engines.

1. Records. In `csv` a line ends in LF or CRLF. A field that starts with `"` goes on to the closing
   `"`, with `""` for one `"`, and may contain delimiters and line ends. It is an error, whatever
   `on_bad_rows` says, if a quoted field does not end at a delimiter or a line end, or if a record
   has an odd number of quotes, because where the next row starts would be a guess. In `json` each
   line is one object, and in `parquet` each row is one record.

   The lines of `csv` up to `FileForm.header`, whatever is in them, are not records. Blank lines are
   left out, and so are lines of `csv` that consist of delimiters. Files are read in the order of
   their names and rows in the order of their file. This is the source order. Bytes that are not
   UTF-8 become U+FFFD. If the last line of `csv` has no line end and fewer fields than the first
   line, it is a problem, because its last value may be cut off.
2. Cells. Every cell of `csv` is text. An empty one, quoted or not, is missing. A JSON string is its
   text, a number the text it is written with, and a boolean `true` or `false`. In JSON, null, an
   object, a list, and a key that is not there are missing. A Parquet cell of another type becomes
   text, with numbers in decimal. Ids in a floating-point column are refused.
3. Roles. Ids and event types are taken as they are, spaces included. Those that consist of spaces
   and tabs are missing. One of `Columns.null_values`, with or without spaces around it, is a
   problem as an id. In the other roles it is missing, but to the filter it is text. Numbers and
   times lose the spaces and tabs around them.

   With D for a digit 0-9, a number is `[+-]?(D+(.D*)?|.D+)([eE][+-]?D+)?`, and finite as a 64-bit
   floating-point number. A whole number is `[+-]?D+`, from -2^63 to 2^63 - 1. With the `decimal`
   `,` numbers have a comma in place of the point. Points between groups of three digits are left
   out if there is a comma behind them, or if there are two points or more; any other number with a
   point is not a number. An event value may be missing.
4. Problems. A row with a problem is bad. If it has several, it counts under the first: what is
   wrong with its line, then those of `row_problems.list_row_problems`, then those of
   `row_problems.list_time_problems`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batchrec_dagster.errors import UserError


class PreparationError(UserError):
    """The files cannot be used. The message is one line that names the file, line or setting, and
    the fix."""


Column = str | int
Format = Literal["csv", "json", "parquet"]
# The format of a source that is the folder of a Delta table.
TableFormat = Literal["delta"]
# `auto`, or Python's name of an encoding. See `FileForm.encoding`.
Encoding = str
# With `auto`, the encoding of files that are not UTF-8: Latin-1, with characters such as € in place
# of its control characters.
LEGACY = "cp1252"
Decimal = Literal[".", ","]
# The line that names the columns of CSV, from 1, or NO_HEADER.
Header = int | Literal["none"]
NO_HEADER: Literal["none"] = "none"
EPOCH_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Other values of `Columns.time_form`.
AUTO, ISO8601, DATETIME, NO_TIMES = "auto", "iso8601", "datetime", "none"
EXCEL_DAYS = "excel"
# The time of every row in files without times: 1 January 2000.
CONSTANT_TIME = 946_684_800
# The first day of 1970 as Excel counts days.
EXCEL_1970 = 25_569
# The start of 2100. A time from then on, such as 9999-12-31, is a placeholder for no time.
FIRST_SENTINEL = 4_102_444_800
# How far the clocks of other machines may be ahead, in seconds. A later time is in the future.
CLOCK_SLACK = 86_400
# The start and the end of 9999-12-31 in seconds and in milliseconds. They are placeholders in any
# unit, because the seconds among milliseconds would be read as a plausible time in 1978.
END_OF_TIME = (
    *(253_402_214_400, 253_402_300_799),
    *(253_402_214_400_000, 253_402_300_799_000, 253_402_300_799_999),
)
# The role of a column that the filter names is this and the column's name.
FILTER = "filter "

# What databases, pandas and JavaScript write for no value.
NULL_VALUES = (
    *("NULL", "null", "Null", "(null)", "<null>", "[NULL]", "\\N", "nil", "undefined"),
    *("nan", "NaN", "NAN", "None", "none", "NONE", "<NA>", "N/A", "n/a", "#N/A"),
)
# What numbers, times and ids that are missing may have around them.
BLANKS = " \t"
CUT_OFF = "a last line without a line end and with too few fields: the file is cut off"
DOUBLE_QUOTES = 'Write "" for each quote inside a quoted field'
QUOTES_FIX = f"{DOUBLE_QUOTES}, or set ratings.quotes: false"


@dataclass(frozen=True)
class FileForm:
    """How a file is written, and so how it falls apart into cells.

    As it is declared, None stands for what is to be recognised; as it is recognised, for what the
    format does not have.
    """

    format: Format | None = None

    delimiter: str | None = None
    """What separates the fields of CSV: one character, or `::`."""

    header: Header | None = None
    """The line of CSV that names the columns, from 1, as a person counts in the file as it came.

    If the columns are given by position, it is the last line before the rows. NO_HEADER: there is
    no such line. None: it is line 1 if the columns have names, or else there is none.
    """

    encoding: Encoding = "auto"
    """The encoding as Python calls it.

    `auto` is UTF-8, unless there are bytes that are not UTF-8 and no letter beyond ASCII that is:
    then it is LEGACY. A BOM is skipped. Bytes that the encoding does not define become U+FFFD.
    """

    quoted: bool = True
    """Whether quotes may enclose a field of CSV. If not, and in files with `::`, they are text."""

    def count_lines_before_rows(self, columns: Columns) -> int:
        """How many lines of CSV come before the first row, the one with the names included."""
        if self.header is None:
            return 1 if columns.are_named else 0
        return 0 if self.header == NO_HEADER else self.header


@dataclass(frozen=True)
class Columns:
    """Which columns of a file hold what, and how their cells are read."""

    roles: Mapping[str, Column] = field(default_factory=dict)
    """The column of each role, by its name in the header or, in files without one, its position
    from 1.

    The roles of ratings are user, item, rating, timestamp, event_type and event_value. Those that
    the file does not have, or that are not used, are left out.
    """

    time_form: str = AUTO
    """How times are written.

    - `s`, `ms`, `us`, `ns`: since 1970 as numbers, rounded down to seconds.
    - `excel`: days since 1899-12-30 as numbers, to the nearest second.
    - `iso8601`: `YYYY-MM-DD`, then perhaps `T` or a space and `HH:MM[:SS[.fraction]]`, then perhaps
      `Z`, `UTC`, `GMT` or `±HH[[:]MM]`, the last three perhaps after a space. Fractions, which may
      have a comma, are cut off.
    - `none`: there are no times. Every row has CONSTANT_TIME.
    - a strptime format of %Y %y %m %d %b %B %a %A %H %I %M %S .%f %p %z %%.
    - `auto`: as the data show. It is `datetime` if the type of the Parquet column is a date or a
      time, and `iso8601` if texts look so. Otherwise the size of the number decides: `s` below
      10^11, `ms` below 10^14, `us` below 10^17, and `ns` from there on. But 8 digits are `%Y%m%d`
      and 14 digits `%Y%m%d%H%M%S`. Rows that differ in it are an error, except for placeholder
      times. `recognition` replaces `auto` where the first rows show a strptime format.
    """

    timezone: str | None = None
    """The time zone of times that do not say theirs; None for UTC.

    A time that the clocks show twice is the first of the two. One that they skip cannot be read.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    """The types of the columns that `Rules.filter` names: string, long, double or boolean (true or
    false, in any case). A cell that does not fit is a problem."""

    decimal: Decimal | None = "."
    """What stands before the fraction of a number in CSV. None in other formats: a point."""

    null_values: Sequence[str] = NULL_VALUES
    """Texts that mean no value."""

    latest: int | None = None
    """Times after this one, in seconds since 1970, are a problem; None if none is too late."""

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "null_values", tuple(self.null_values))

    @property
    def are_named(self) -> bool:
        """Whether no column is given by its position."""
        return not any(isinstance(column, int) for column in self.roles.values())

    @property
    def wanted(self) -> dict[str, Column]:
        """The columns to read, by role; those of the filter too."""
        return {**self.roles, **{FILTER + name: self.find_column(name) for name in self.types}}

    @property
    def with_comma(self) -> frozenset[str]:
        """The roles whose cells are numbers with a comma in place of the point."""
        if self.decimal != ",":
            return frozenset()
        of_filter = {FILTER + name for name, kind in self.types.items() if kind == "double"}
        times = {"timestamp"} if self.time_form in (EXCEL_DAYS, *EPOCH_UNITS) else set()
        return frozenset({"rating", "event_value", *times, *of_filter})

    def find_column(self, name: str) -> Column:
        """The column that a filter calls by this name."""
        position = name.removeprefix("column_")
        return int(position) if not self.are_named and position.isdecimal() else name


# How many bytes of a file's end are searched for its last line.
TAIL = 64 * 1024


def split_line(line: str, delimiter: str, quoted: bool) -> list[str]:
    """The fields of a line of CSV. The header is read so too."""
    if delimiter == "::" or not quoted:
        return line.rstrip("\r\n").split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        # A carriage return within the line.
        return line.rstrip("\r\n").split(delimiter)


def build_empty_line_error(name: str, line: str, skipped: int) -> PreparationError:
    """The error of a file that has nothing in the line where its columns begin.

    line: what messages call the line.
    skipped: how many lines come before it.
    """
    if skipped:
        return PreparationError(
            f"{name} has nothing in {line}, where by its header the columns begin: check header in"
            " the declaration"
        )
    return PreparationError(
        f"{name} is empty or starts with an empty line: set header to the number of the line that"
        " names the columns"
    )


def is_cut_off(end: str, width: int, delimiter: str, quoted: bool) -> bool:
    """Whether the last line of a file was not written to its end.

    end: the end of the file's text.
    width: how many fields the first line has.
    """
    line = end.rpartition("\n")[2]
    if not line or line.endswith("\r") or len(line.encode()) >= TAIL:
        return False
    if quoted and delimiter != "::" and line.count('"') % 2:
        return False  # It is the last line of a quoted field that has line ends in it.
    return len(split_line(line, delimiter, quoted)) < width
