"""Which rows become interactions, and what became of them: the same for every engine, as plain
JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from batchrec_dagster.preparation.layout import PreparationError

# Why a row is left out, apart from the problems that `layout` lists; in the order of application.
BELOW_MIN_RATING = "rating below min_rating"
NOT_IN_FILTER = "not in the filter"
BEFORE_WINDOW = "before the window"
DUPLICATE = "duplicate of an earlier row"
NOT_LATEST = "not the latest of its user and item"
FEW_OF_USER = "fewer than min_interactions_per_user"
FEW_OF_ITEM = "fewer than min_interactions_per_item"
# By the rules on a single row.
LEFT_OUT_BY_RULES = (BELOW_MIN_RATING, NOT_IN_FILTER)

# Personalize's filters on interactions go by event type, so that a column is needed even where
# every row has the same.
EVENT_TYPE_VALUE = "rating"


@dataclass(frozen=True)
class Rules:
    """What is kept, applied in the order of the fields; each rule sees what the ones before left.

    A row that is left out counts once, under the first rule that left it out; rows read less rows
    kept is the sum of these counts. The rows that are kept stay in the source order, see `layout`.

    `on_bad_rows`: `fail` ends the work at the first bad row, `skip` leaves out and counts them.
    `min_rating`: ratings below it are left out, as 64-bit floating-point numbers.
    `filter`: a SQL expression over the columns of the file, one row at a time; only rows for which
        it is true stay (not those for which it is false or NULL). A column has the type in
        `Layout.types`; in a file without a header its name is `column_1` and so on.
    `window_days`: rows with TIMESTAMP < newest - 86,400 x days are left out. `newest` is the
        largest TIMESTAMP of the rows left by then: of the data and not of the clock, so that the
        same data gives the same interactions.
    `duplicates` `drop`: of rows equal in every column that is written, the first stays.
    `latest_per_pair`: of the rows of a user and an item the one with the largest TIMESTAMP (in
        seconds) stays; among equal ones the last.
    `min_interactions_per_user`, `min_interactions_per_item`: rows of users with fewer are left
        out, then rows of items with fewer, and again, until all that are left have enough.

    `event_type`: whether EVENT_TYPE is written: the cell of `Layout.event_type` where there is one,
        else EVENT_TYPE_VALUE.

    Written is CSV in UTF-8 with LF: USER_ID, ITEM_ID, TIMESTAMP (whole seconds), EVENT_TYPE when
    `event_type`, EVENT_VALUE when `Layout.event_value`: its text without the spaces around, or
    nothing. A field is quoted only where it holds a comma, a quote or a line end.
    """

    on_bad_rows: Literal["fail", "skip"] = "fail"
    min_rating: float | None = None
    filter: str | None = None
    window_days: int | None = None
    duplicates: Literal["keep", "drop"] = "keep"
    latest_per_pair: bool = False
    min_interactions_per_user: int | None = None
    min_interactions_per_item: int | None = None
    event_type: bool = False

    def refuse_bad_rows(self, bad: int, rows: int, examples: Sequence[str]) -> None:
        """Raise PreparationError where rows may not be bad, or all are."""
        if bad and self.on_bad_rows == "fail":
            raise PreparationError(
                f"{examples[0]} ({bad:,} such rows). Fix the file, or drop these rows with"
                " ratings.on_bad_rows: skip"
            )
        if bad == rows:
            raise PreparationError(f"no row can be read; {examples[0]}")


@dataclass(frozen=True)
class BadRows:
    """Rows that could not be read: how many for each reason, and the first few of them."""

    counts: Mapping[str, int]
    examples: Sequence[str]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class PreparationResult:
    """What became of the files. Counts are rows, without blank lines; `left_out` is by reason."""

    rows_read: int
    left_out: Mapping[str, int]
    bad_row_examples: Sequence[str]
    timestamp_unit: str

    @property
    def rows_kept(self) -> int:
        return self.rows_read - sum(self.left_out.values())

    @property
    def bad(self) -> BadRows:
        """The rows with something wrong, not those that a rule leaves out."""
        counts = {r: n for r, n in self.left_out.items() if r not in LEFT_OUT_BY_RULES}
        return BadRows(counts, self.bad_row_examples)


@dataclass(frozen=True, kw_only=True)
class InteractionCounts:
    """What is in the interactions: users, those of them with two or more, and items; the first and
    the last time, in epoch seconds, None where there are no rows; the kinds of event, 0 without the
    column."""

    users: int
    users_with_two: int
    items: int
    earliest: int | None
    latest: int | None
    event_types: int = 0
