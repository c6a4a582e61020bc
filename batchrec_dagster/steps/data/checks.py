"""Checks of data that run before a step spends money or a table is published.

A check gets plain values and returns a finding. pipeline/results.py reports findings to Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from batchrec_dagster.editions.edition import Finding, Numbers, refuse_unless, watch_unless
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
from batchrec_dagster.steps.findings import (
    format_day,
)

# Times before this day show that the timestamps were read in the wrong unit.
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
# Excel stores days up to the year 2173 as numbers below this limit. Read as seconds, such numbers
# are times on 1 or 2 January 1970.
MAX_EXCEL_DAYS = 100_000
# The name of the check that `check_source_without_erased` makes.
SOURCE_WITHOUT_ERASED = "source_without_erased"


def check_source_without_erased(rows: int, users: int) -> Finding:
    """Check that the source has no rows of erased users. A failure only warns.

    rows: the number of rows of erased users in the source.
    users: the number of erased users with such rows.
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


def check_enough_interactions(
    rows: int, users: int, users_with_two: int, low_ratings: int = 0
) -> Finding:
    """Check that there are enough interactions and users for training in Personalize.

    rows: the number of interactions.
    users: the number of users with interactions.
    users_with_two: the number of users with two or more interactions.
    low_ratings: the number of ratings that interactions.min_rating leaves out.
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
    """Check that there are no more distinct event types than Personalize allows.

    Personalize counts the columns EVENT_TYPE and EVENT_VALUE as one event type each, so fewer
    other types are allowed.

    count: the number of event types; 0 without a column of event types.
    has_event_values: whether there is a column EVENT_VALUE.
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
    """Check that the times of the interactions lie between 1980 and now.

    first, last: the first and the last timestamp in epoch seconds; None without interactions.
    unit: the unit that the timestamps were read as, a value of ratings.timestamp_unit.
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
    """Raise Refused if the `with` block raises PreparationError: its files cannot be read at all.

    name: the name of the check of the files' rows.
    """
    try:
        yield
    except PreparationError as error:
        raise Refused([Finding(name, "refuse", str(error))]) from error


def check_rows_readable(
    name: str, block: str, rows: int, bad: BadRows, on_bad_rows: str
) -> Finding:
    """Check that all rows can be read, or that the declaration drops unreadable rows.

    The check fails if no row can be read.

    name: the name of the check.
    block: the block of the declaration with the setting on_bad_rows, such as ratings.
    rows: the number of all rows, readable or not.
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
