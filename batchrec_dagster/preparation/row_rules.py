"""Which rows become interactions, and what became of them: the same for every engine.

All of it is plain data, which can be sent to Spark as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batchrec_dagster.preparation.file_form import PreparationError

# Why a row is left out, in the order in which the rules are applied. `row_problems` lists the other
# reasons, which are what can be wrong with a row.
ERASED_USER = "of a user who was erased"
BELOW_MIN_RATING = "rating below min_rating"
NOT_IN_FILTER = "not in the filter"
BEFORE_WINDOW = "before the window"
DUPLICATE = "duplicate of an earlier row"
NOT_LATEST = "not the latest of its user and item"
FEW_OF_USER = "fewer than min_interactions_per_user"
FEW_OF_ITEM = "fewer than min_interactions_per_item"
# Those of the rules that look at a single row.
LEFT_OUT_BY_RULES = (ERASED_USER, BELOW_MIN_RATING, NOT_IN_FILTER)

# How many event types are counted one by one. Personalize takes far fewer.
MOST_EVENT_TYPES = 100

# Personalize's filters on interactions select event types, so that the column is needed even if
# every row has the same.
EVENT_TYPE_VALUE = "rating"


@dataclass(frozen=True)
class Rules:
    """Which rows are kept. The rules are applied in the order of the fields.

    Before all of them, and before anything is found to be wrong with a row, those of users who were
    erased are left out, see `storage.erased`.

    Each rule sees the rows that the ones before left. A row that is left out counts once, under the
    first rule that left it out, so that the rows read less the rows kept are the sum of these
    counts. The rows that are kept stay in the order of the source.

    What is written is CSV in UTF-8 with LF: USER_ID, ITEM_ID, TIMESTAMP (whole seconds), EVENT_TYPE
    if `event_type`, and EVENT_VALUE if there is an event_value column: its text without the spaces
    around it, or nothing. A field is quoted only if it holds a comma, a quote or a line end.
    """

    on_bad_rows: Literal["fail", "skip"] = "fail"
    """`fail` ends the work at the first bad row; `skip` leaves bad rows out and counts them."""

    min_rating: float | None = None
    """Ratings below it are left out, compared as 64-bit floating-point numbers."""

    filter: str | None = None
    """A condition in SQL on the columns of one row. Only rows for which it is true stay, not those
    for which it is false or NULL. A column has the type in `Columns.types`. In a file without a
    header its name is `column_1` and so on."""

    window_days: int | None = None
    """Rows with TIMESTAMP < newest - 86,400 x days are left out. `newest` is the largest TIMESTAMP
    of the rows left by then. It is taken from the data and not from the clock, so that the same
    data gives the same interactions."""

    duplicates: Literal["keep", "drop"] = "keep"
    """With `drop`, the first of the rows that are equal in every written column stays."""

    latest_per_pair: bool = False
    """Of the rows of a user and an item, the one with the largest TIMESTAMP (in seconds) stays; of
    equal ones the last."""

    min_interactions_per_user: int | None = None
    """Rows of users with fewer are left out, then rows of items with fewer than
    `min_interactions_per_item`, and so on until all that are left have enough."""

    min_interactions_per_item: int | None = None

    event_type: bool = False
    """Whether EVENT_TYPE is written: the cell of the event_type column, or EVENT_TYPE_VALUE where
    there is no such column."""

    def refuse_bad_rows(self, bad: int, rows: int, examples: Sequence[str]) -> None:
        """Raise PreparationError if no row may be bad and some are, or if all rows are bad.

        examples: the first bad rows in words.
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
    """How many for each reason."""

    examples: Sequence[str]
    """The first of them in words."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class PreparationResult:
    """What became of the rows. Blank lines do not count."""

    rows_read: int

    left_out: Mapping[str, int]
    """How many rows were left out for each reason."""

    bad_row_examples: Sequence[str]
    """The first rows with something wrong, in words."""

    timestamp_unit: str
    """How times are written, as in `Columns.time_form` but not `auto`."""

    erased_users: int = 0
    """How many users who were erased have rows."""

    @property
    def rows_kept(self) -> int:
        return self.rows_read - sum(self.left_out.values())

    @property
    def bad(self) -> BadRows:
        """The rows with something wrong, not those that a rule leaves out."""
        counts = {
            reason: count
            for reason, count in self.left_out.items()
            if reason not in LEFT_OUT_BY_RULES
        }
        return BadRows(counts, self.bad_row_examples)


@dataclass(frozen=True, kw_only=True)
class InteractionCounts:
    """What is in the interactions."""

    users: int

    users_with_two: int
    """Users with two interactions or more."""

    items: int

    earliest: int | None
    """The first time, in seconds since 1970; None if there are no rows."""

    latest: int | None

    event_types: int = 0
    """How many different event types there are; 0 without the column."""

    events: Mapping[str, int] = field(default_factory=dict)
    """How many rows there are of the most frequent event types; empty without the column."""

    event_values: int | None = None
    """How many rows have an event value; None without the column."""

    digest: str = ""
    """16 hexadecimal digits that change with the rows, but not with their order: the sum of their
    hashes. Another version of Polars may hash rows otherwise."""
