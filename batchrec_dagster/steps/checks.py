"""Verdicts on data and models: what must hold before a step spends money or a table is published.

A check gets plain values and returns its verdict. pipeline/results.py reports it to Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from batchrec_dagster.errors import Refused
from batchrec_dagster.personalize.schemas import (
    MAX_EVENT_TYPES,
    MIN_INTERACTIONS,
    MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS,
    MIN_USERS_WITH_TWO_INTERACTIONS,
    SECONDS_A_DAY,
)
from batchrec_dagster.preparation.file_form import (
    CLOCK_SLACK,
    EXCEL_DAYS,
    NO_TIMES,
    PreparationError,
)
from batchrec_dagster.preparation.row_rules import BadRows
from batchrec_dagster.storage.edition import Finding, Numbers, refuse_unless, watch_unless

# Times before this mean that they were read in the wrong unit.
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
# Excel's days up to the year 2173 are smaller numbers than this. Read as seconds, they are times on
# 1 or 2 January 1970.
MAX_EXCEL_DAYS = 100_000
# The number by which a finding says that somebody published although it would have refused.
PUBLISHED_ANYWAY = "published_anyway"
# The name of the check of `check_source_without_erased`.
SOURCE_WITHOUT_ERASED = "source_without_erased"


def require_passed(checks: Sequence[Finding]) -> None:
    """Raises Refused if one of the checks blocks."""
    if any(check.blocks for check in checks):
        raise Refused(checks)


def check_source_without_erased(rows: int, users: int) -> Finding:
    """Whether the source no longer has rows of users who were erased. A failure only warns.

    rows, users: how many rows of how many such users it has.
    """
    text = "the source has 0 rows of people who were erased"
    if rows:
        people = f"{users:,} erased people" if users > 1 else "one erased person"
        left_out = f"{rows:,} rows of {people}, which were"
        if rows == 1:
            left_out = f"one row of {people}, which was"
        text = f"the source still has {left_out} left out: erase them there, too"
    numbers: Numbers = {"rows": rows, "users": users}
    headline = "the source still has rows of erased people" if rows else ""
    return Finding(SOURCE_WITHOUT_ERASED, watch_unless(not rows), text, headline, numbers)


def is_share_allowed(count: int, total: int, max_share: float) -> bool:
    """Whether the count is at most this share of the total, but not all of it; 0 always is."""
    # A product with the share is not exact: 0.29 * 100 is less than 29.
    return not count or (count < total and count / total <= max_share)


def check_enough_interactions(
    rows: int, users: int, users_with_two: int, low_ratings: int = 0
) -> Finding:
    """Whether there are as many interactions and users as Personalize requires for training.

    rows: the number of interactions.
    users_with_two: how many users have two or more interactions.
    low_ratings: how many ratings interactions.min_rating leaves out.
    """
    required_users = max(
        MIN_USERS_WITH_TWO_INTERACTIONS, MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS * users
    )
    passed = rows >= MIN_INTERACTIONS and users_with_two >= required_users
    text = f"{rows:,} interactions of {users:,} users, {users_with_two:,} of them with two or more"
    if not passed:
        text += (
            f"; Personalize needs {MIN_INTERACTIONS:,} interactions, and"
            f" {MIN_USERS_WITH_TWO_INTERACTIONS} users (and 1 % of them) with two or more."
            " Provide more data"
        )
        if low_ratings:
            text += f", or lower interactions.min_rating: {low_ratings:,} ratings are below it"
    return Finding(
        "enough_interactions",
        refuse_unless(passed),
        text,
        numbers={"interactions": rows, "users": users, "users_with_two_or_more": users_with_two},
    )


def check_few_event_types(count: int, *, has_event_values: bool = False) -> Finding:
    """Whether there are as few distinct event types as Personalize allows.

    count: the number of event types, 0 if there is no such column.
    has_event_values: whether there is the column EVENT_VALUE. Personalize counts it, and
    EVENT_TYPE, as one type each.
    """
    max_types = MAX_EVENT_TYPES - 1 - has_event_values
    passed = count <= max_types
    text = f"{count:,} event types"
    if not passed:
        text += (
            f"; Personalize takes at most {max_types} with these columns. Keep fewer with"
            " interactions.filter, or leave out ratings.columns.event_type"
        )
    return Finding("few_event_types", refuse_unless(passed), text, numbers={"event_types": count})


def check_timestamps_plausible(
    first: int | None, last: int | None, unit: str, now: datetime
) -> Finding:
    """Whether the times of the interactions lie between 1980 and now.

    first, last: the first and the last timestamp in epoch seconds, None if there are none.
    unit: how they were read, a value of ratings.timestamp_unit.
    """
    if first is None or last is None:
        return Finding("timestamps_plausible", "refuse", "there are no interactions")
    if unit == NO_TIMES:
        text = f"no times (ratings.columns.timestamp: none): every row has {format_day(first)}"
        return Finding("timestamps_plausible", "good", text, numbers={"days": 0})
    passed = EARLIEST.timestamp() <= first and last <= now.timestamp() + CLOCK_SLACK
    text = f"from {format_day(first)} to {format_day(last)}, with times in {unit}"
    if not passed:
        likely_unit = "s" if unit == "ms" else "ms"
        if unit == "s" and last < MAX_EXCEL_DAYS:
            likely_unit = EXCEL_DAYS
        text += (
            f"; expected times between {EARLIEST:%Y} and now. Try ratings.timestamp_unit:"
            f" {likely_unit}, or another column as ratings.columns.timestamp"
        )
    numbers = {"days": (last - first) / SECONDS_A_DAY}
    return Finding("timestamps_plausible", refuse_unless(passed), text, numbers=numbers)


@contextmanager
def refuse_unreadable(name: str) -> Iterator[None]:
    """A block that reads files of which nothing may be readable. Raises Refused for that.

    name: the name of the check of their rows.
    """
    try:
        yield
    except PreparationError as error:
        raise Refused([Finding(name, "refuse", str(error))]) from error


def check_rows_readable(
    name: str, block: str, rows: int, bad: BadRows, on_bad_rows: str
) -> Finding:
    """Whether all rows can be read, or the unreadable ones may be dropped.

    name: the name of the check.
    block: the block of the declaration with the setting on_bad_rows, such as ratings.
    rows: the number of all rows.
    """
    text = f"{bad.total:,} of {rows:,} rows cannot be read"
    if bad.total:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in bad.counts.items())
        text += f" ({reasons}); the first: {bad.examples[0]}"
        text += (
            f"; they are dropped ({block}.on_bad_rows: skip)"
            if on_bad_rows == "skip"
            else f"; fix the file, or drop these rows with {block}.on_bad_rows: skip"
        )
    passed = bad.total < rows and (not bad.total or on_bad_rows == "skip")
    numbers: Numbers = {"rows": rows, "bad_rows": bad.total}
    return Finding(name, refuse_unless(passed), text, numbers=numbers)


def format_day(seconds: int) -> str:
    """The day in UTC, or only the year if no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"the year {1970 + seconds // 31_556_952:,}"
