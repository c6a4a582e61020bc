"""The rules for reading a source's files, as plain JSON that every engine obeys.

A row is read in four steps, which are the same for all engines.

1. Records. In `csv` a line ends in LF or CRLF. A field that starts with `"` goes on to the closing
   `"`, with `""` for one `"`, and may contain delimiters and line ends. A quoted field that does
   not end at a delimiter or a line end is an error, and so is a record with an odd number of
   quotes. Both are errors even if bad rows are skipped, because the start of the next row would be
   a guess. In `json` each line is one object, and in `parquet` each row is one record.

   The lines of `csv` up to and including line `FileForm.header` are not records. Blank lines are
   left out, and so are lines of `csv` that consist only of delimiters. Files are read in the order
   of their names, and rows in the order of their file. This is the source order. Bytes that are not
   UTF-8 become U+FFFD. If the last line of `csv` has no line end and fewer fields than the first
   line, it is a problem, because its last value may be cut off.
2. Cells. Every cell of `csv` is text. An empty cell, quoted or not, is missing. A JSON string
   becomes its text, a number becomes the text that is written in the file, and a boolean becomes
   `true` or `false`. In JSON, null, an object, a list, and an absent key are missing cells. A
   Parquet cell of another type becomes text, with numbers in decimal. Ids in a floating-point
   column are refused.
3. Roles. Ids and event types keep their spaces. Ids and event types that consist of spaces and tabs
   are missing. A text in `Columns.null_values`, with or without spaces around it, is a problem as
   an id. In the other roles such a text is a missing cell, but the filter sees the text. Numbers
   and times lose the spaces and tabs around them.

   With D for a digit 0-9, a number is `[+-]?(D+(.D*)?|.D+)([eE][+-]?D+)?`, and it must be finite as
   a 64-bit floating-point number. A whole number is `[+-]?D+`, from -2^63 to 2^63 - 1. If
   `Columns.decimal` is `,`, numbers have a comma in place of the point. Points between groups of
   three digits are then left out if a comma follows, or if there are two or more points. Any other
   text with a point is then not a number. An event value may be missing.
4. Problems. A row with a problem is bad. A row with several problems counts under the first one.
   A problem of the record as a whole, such as too many fields, comes first. Then come the problems
   of `row_problems.list_row_problems`, then the problems of `row_problems.list_time_problems`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batchrec_dagster.errors import UserError


class PreparationError(UserError):
    """The error of files that cannot be used.

    The message is one line that names the file, line or setting, and the fix.
    """


Column = str | int
Format = Literal["csv", "json", "parquet"]
# The format of a source that is the folder of a Delta table.
TableFormat = Literal["delta"]
# `auto`, or Python's name of an encoding; see `FileForm.encoding`.
Encoding = str
# With `auto`, the encoding of files that are not UTF-8: Latin-1, with characters such as € in place
# of its control characters.
LEGACY = "cp1252"
Decimal = Literal[".", ","]
# The line that names the columns of CSV, from 1, or NO_HEADER.
Header = int | Literal["none"]
NO_HEADER: Literal["none"] = "none"
EPOCH_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Values of `Columns.time_form` besides the keys of EPOCH_UNITS and strptime formats.
AUTO, ISO8601, DATETIME, NO_TIMES = "auto", "iso8601", "datetime", "none"
EXCEL_DAYS = "excel"
# The time of every row in files without times: 1 January 2000.
CONSTANT_TIME = 946_684_800
# The number of 1 January 1970 in Excel's count of days.
EXCEL_1970 = 25_569
# The start of 2100. This time and later ones, such as 9999-12-31, are placeholders for no time.
FIRST_SENTINEL = 4_102_444_800
# The number of seconds that the clocks of other machines may be ahead. Times that are further ahead
# count as times in the future.
CLOCK_SLACK = 86_400
# The start and the end of 9999-12-31 in seconds and in milliseconds. These numbers are placeholders
# in any unit. Otherwise a number of seconds in a file of milliseconds would be read as a plausible
# time in 1978.
END_OF_TIME = (
    *(253_402_214_400, 253_402_300_799),
    *(253_402_214_400_000, 253_402_300_799_000, 253_402_300_799_999),
)
# The start of the role of a column that the filter names. The column's name follows.
FILTER = "filter "

# The texts that databases, pandas and JavaScript write for no value.
NULL_VALUES = (
    *("NULL", "null", "Null", "(null)", "<null>", "[NULL]", "\\N", "nil", "undefined"),
    *("nan", "NaN", "NAN", "None", "none", "NONE", "<NA>", "N/A", "n/a", "#N/A"),
)
# The characters that may stand around numbers and times. A cell with nothing else is missing.
BLANKS = " \t"
CUT_OFF = "a last line without a line end and with too few fields: the file is cut off"
DOUBLE_QUOTES = 'Write "" for each quote inside a quoted field'
QUOTES_FIX = f"{DOUBLE_QUOTES}, or set ratings.quotes: false"


@dataclass(frozen=True)
class FileForm:
    """The form of a file, which decides how the file is split into cells.

    In a declared form, None means that the setting is to be recognised. In a recognised form, None
    means that the format has no such setting.
    """

    format: Format | None = None

    delimiter: str | None = None
    """The delimiter of the fields of CSV: one character, or `::`."""

    header: Header | None = None
    """The line of CSV that names the columns, counted from 1 in the file as it came.

    If the columns are given by position, it is the last line before the rows. NO_HEADER means that
    there is no such line. None means line 1 if the columns have names, and no line otherwise.
    """

    encoding: Encoding = "auto"
    """Python's name of the encoding, or `auto`.

    `auto` means LEGACY if the file has bytes that are not UTF-8, and no letter beyond ASCII that is
    valid UTF-8. Otherwise it means UTF-8. A BOM is skipped. Bytes that the encoding does not define
    become U+FFFD. The local engine reads a file with a BOM of UTF-16 as UTF-16, even if another
    encoding is declared.
    """

    quoted: bool = True
    """Whether quotes may enclose a field of CSV.

    If not, quotes are text. In files with the delimiter `::`, quotes are always text.
    """

    def count_lines_before_rows(self, columns: Columns) -> int:
        """Return the number of lines of CSV before the first row, including the line of names."""
        if self.header is None:
            return 1 if columns.are_named else 0
        return 0 if self.header == NO_HEADER else self.header


@dataclass(frozen=True)
class Columns:
    """The columns of a file by their roles, and the forms of their cells."""

    roles: Mapping[str, Column] = field(default_factory=dict)
    """The column of each role, by its name in the header or by its position from 1.

    Files without a header have positions only. The roles of ratings are user, item, rating,
    timestamp, event_type and event_value. Roles that the file does not have, or that are not used,
    are left out.
    """

    time_form: str = AUTO
    """The form of the times.

    - `s`, `ms`, `us`, `ns`: seconds, milliseconds, microseconds or nanoseconds since 1970 as
      numbers, rounded down to seconds.
    - `excel`: days since 1899-12-30 as numbers, rounded to the nearest second.
    - `iso8601`: `YYYY-MM-DD`, optionally followed by `T` or a space and `HH:MM[:SS[.fraction]]`,
      optionally followed by `Z`, `UTC`, `GMT` or `±HH[[:]MM]`. A space may stand before `UTC`,
      `GMT` and `±HH`. Fractions, which may have a comma, are cut off.
    - `none`: there are no times. Every row has CONSTANT_TIME.
    - a strptime format of %Y %y %m %d %b %B %a %A %H %I %M %S .%f %p %z %%.
    - `auto`: the form that the data shows. It is `datetime` if the type of the Parquet column is a
      date or a time, and `iso8601` if texts look like that. Otherwise the size of the number
      decides: `s` below 10^11, `ms` below 10^14, `us` below 10^17, and `ns` from there on. But 8
      digits are `%Y%m%d` and 14 digits `%Y%m%d%H%M%S`. Times in different forms are an error.
      Placeholder times have no form. `recognition` replaces `auto` if the first rows show a
      strptime format.
    """

    timezone: str | None = None
    """The time zone of times that do not name one; None for UTC.

    If the clocks show a time twice, the first occurrence is meant. A time that the clocks skip
    cannot be read.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    """The types of the columns that `RowRules.filter` names: string, long, double or boolean.

    A boolean is true or false; capitals count as small letters. A cell that does not fit its type
    is a problem.
    """

    decimal: Decimal | None = "."
    """The decimal mark of numbers in CSV. None in other formats, which have a point."""

    null_values: Sequence[str] = NULL_VALUES
    """Texts that mean no value."""

    latest: int | None = None
    """The latest allowed time, in seconds since 1970; None if there is no limit.

    A later time is a problem.
    """

    def __post_init__(self) -> None:
        # JSON has no tuples, so a decoded task has a list here.
        object.__setattr__(self, "null_values", tuple(self.null_values))

    @property
    def are_named(self) -> bool:
        """Whether no column is given by its position."""
        return not any(isinstance(column, int) for column in self.roles.values())

    @property
    def wanted(self) -> dict[str, Column]:
        """The columns to read, by role, including the filter's columns."""
        return {**self.roles, **{FILTER + name: self.find_column(name) for name in self.types}}

    @property
    def with_comma(self) -> frozenset[str]:
        """The roles of columns of numbers with a decimal comma."""
        if self.decimal != ",":
            return frozenset()
        of_filter = {FILTER + name for name, kind in self.types.items() if kind == "double"}
        times = {"timestamp"} if self.time_form in (EXCEL_DAYS, *EPOCH_UNITS) else set()
        return frozenset({"rating", "event_value", *times, *of_filter})

    def find_column(self, name: str) -> Column:
        """Return the column that has this name in a filter."""
        position = name.removeprefix("column_")
        return int(position) if not self.are_named and position.isdecimal() else name


# The number of bytes at a file's end that are searched for its last line.
TAIL = 64 * 1024


def split_line(line: str, delimiter: str, quoted: bool) -> list[str]:
    """Return the fields of a line of CSV, which may also be the header."""
    if delimiter == "::" or not quoted:
        return line.rstrip("\r\n").split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        # There is a carriage return within the line.
        return line.rstrip("\r\n").split(delimiter)


def build_empty_line_error(name: str, line: str, skipped: int) -> PreparationError:
    """Return the error of a file with nothing in the line where its columns begin.

    line: the line's name in messages.
    skipped: the number of lines before it.
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
    """Return whether the last line of a file was not written to its end.

    end: the end of the file's text.
    width: the number of fields in the first line.
    """
    line = end.rpartition("\n")[2]
    if not line or line.endswith("\r") or len(line.encode()) >= TAIL:
        return False
    if quoted and delimiter != "::" and line.count('"') % 2:
        return False  # The line is the last one of a quoted field that has line ends in it.
    return len(split_line(line, delimiter, quoted)) < width
