"""The rules that decide which rows become interactions, and the counts of their result.

The rules are the same for every engine. Rules and counts are plain data, which can be sent to Spark
as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batchrec_dagster.preparation.file_form import PreparationError

# The reasons for leaving out a row, in the order of the rules. `row_problems` lists the other
# reasons: the problems that a row can have.
ERASED_USER = "of a user who was erased"
BELOW_MIN_RATING = "rating below min_rating"
NOT_IN_FILTER = "not in the filter"
BEFORE_WINDOW = "before the window"
DUPLICATE = "duplicate of an earlier row"
NOT_LATEST = "not the latest of its user and item"
FEW_OF_USER = "fewer than min_interactions_per_user"
FEW_OF_ITEM = "fewer than min_interactions_per_item"
# The reasons of the rules that look at a single row.
LEFT_OUT_BY_RULES = (ERASED_USER, BELOW_MIN_RATING, NOT_IN_FILTER)

# The largest number of event types that are reported with their counts. Personalize takes far
# fewer.
MOST_EVENT_TYPES = 100

# The event type of every row if the data has no event_type column. Personalize's filters on
# interactions select event types, so they need the column even if all rows have the same type.
EVENT_TYPE_VALUE = "rating"


@dataclass(frozen=True)
class RowRules:
    """The rules that decide which rows are kept.

    The rules are applied in the order of the fields. The rows of erased users are left out before
    all rules, and before rows are checked for problems; see `storage.erased`.

    Each rule sees the rows that the rules before it kept. A row that is left out counts once, under
    the first rule that left it out. So the sum of the counts is the number of rows read minus the
    number of rows kept. The rows that are kept stay in the order of the source.

    The output is CSV in UTF-8 with LF: USER_ID, ITEM_ID, TIMESTAMP (whole seconds), EVENT_TYPE if
    `event_type` is set, and EVENT_VALUE if there is an event_value column. EVENT_VALUE is the
    cell's text without the spaces around it, or nothing. A field is quoted only if it holds a
    comma, a quote or a line end.
    """

    on_bad_rows: Literal["fail", "skip"] = "fail"
    """The treatment of bad rows.

    With `fail`, a bad row is an error. `skip` leaves bad rows out and counts them.
    """

    min_rating: float | None = None
    """The lowest rating that is kept. Ratings are compared as 64-bit floating-point numbers."""

    filter: str | None = None
    """A condition in SQL on the columns of a single row.

    Only rows for which the condition is true are kept. Rows for which it is false or NULL are left
    out. A column has the type in `Columns.types`. In a file without a header the columns are named
    `column_1` and so on.
    """

    window_days: int | None = None
    """The length in days of the window of times that is kept.

    Rows with TIMESTAMP < newest - 86,400 x days are left out. `newest` is the largest TIMESTAMP of
    the rows that the rules before this one kept. It comes from the data and not from the clock, so
    that equal data gives equal interactions.
    """

    duplicates: Literal["keep", "drop"] = "keep"
    """The treatment of duplicates: rows that are equal in every written column.

    With `drop`, only the first of the equal rows is kept.
    """

    latest_per_pair: bool = False
    """Whether only the latest row of each pair of user and item is kept.

    The latest row has the largest TIMESTAMP (in seconds). Among rows with equal times, the last row
    is kept.
    """

    min_interactions_per_user: int | None = None
    """The number of rows that a user needs.

    Rows of users with fewer are left out, then rows of items with fewer than
    `min_interactions_per_item`, and so on until all users and items that are left have enough.
    """

    min_interactions_per_item: int | None = None

    event_type: bool = False
    """Whether EVENT_TYPE is written.

    EVENT_TYPE is the cell of the event_type column, or EVENT_TYPE_VALUE if there is no such column.
    """

    def refuse_bad_rows(self, bad: int, rows: int, examples: Sequence[str]) -> None:
        """Raise PreparationError if there are bad rows but none is allowed, or if all rows are bad.

        examples: descriptions of the first bad rows.
        """
        if bad and self.on_bad_rows == "fail":
            raise PreparationError(
                f"{examples[0]} ({bad:,} such rows). Fix the file, or drop these rows with"
                " ratings.on_bad_rows: skip"
            )
        if bad == rows:
            raise PreparationError(f"no row can be read; {examples[0]}")


@dataclass(frozen=True)
class BadRows:
    """Rows that could not be read."""

    counts: Mapping[str, int]
    """The number of bad rows for each reason."""

    examples: Sequence[str]
    """Descriptions of the first bad rows."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class PreparationResult:
    """The numbers of rows that were read, left out and kept. Blank lines do not count."""

    rows_read: int

    left_out: Mapping[str, int]
    """The number of rows that were left out for each reason."""

    bad_row_examples: Sequence[str]
    """Descriptions of the first bad rows."""

    timestamp_unit: str
    """The form of the times: a value of `Columns.time_form` other than `auto`."""

    erased_users: int = 0
    """The number of erased users who have rows."""

    @property
    def rows_kept(self) -> int:
        return self.rows_read - sum(self.left_out.values())

    @property
    def bad(self) -> BadRows:
        """The rows that have a problem. Rows that a rule leaves out do not count."""
        counts = {
            reason: count
            for reason, count in self.left_out.items()
            if reason not in LEFT_OUT_BY_RULES
        }
        return BadRows(counts, self.bad_row_examples)


@dataclass(frozen=True, kw_only=True)
class InteractionCounts:
    """The counts of users, items, times and events in the interactions."""

    users: int

    users_with_two: int
    """The number of users with two or more interactions."""

    items: int

    earliest: int | None
    """The first time, in seconds since 1970; None if there are no rows."""

    latest: int | None

    event_types: int = 0
    """The number of different event types; 0 if there is no event type column."""

    events: Mapping[str, int] = field(default_factory=dict)
    """The numbers of rows of the most frequent event types; empty without an event type column."""

    event_values: int | None = None
    """The number of rows with an event value; None if there is no event value column."""

    digest: str = ""
    """A fingerprint of 16 hexadecimal digits that depends on the rows, but not on their order.

    It is the sum of the rows' hashes. Another version of Polars may compute other hashes.
    """
