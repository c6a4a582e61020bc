"""Verdicts on the data: what must hold before the next step spends money or a table is published.

A check looks at plain values and says what it found. pipeline/checks.py reports it to Dagster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import polars as pl

from batchrec_dagster.personalize.datasets import (
    MIN_INTERACTIONS,
    MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS,
    MIN_USERS_WITH_TWO_INTERACTIONS,
)
from batchrec_dagster.preparation.items import ItemsRead
from batchrec_dagster.preparation.layout import PreparationError

# Nothing that is recommended today was rated before it; later than now is a clock that is off.
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
CLOCK_SLACK = timedelta(days=1)

# These checks only warn; every other check blocks what comes after it.
WARNINGS = ("lists_full",)

# How many missing ids a message names.
SOME = 3


@dataclass(frozen=True)
class Checked:
    """A check's verdict: its name, whether it holds, what was found, and what to do if not."""

    name: str
    passed: bool
    found: str
    numbers: dict[str, int | float] = field(default_factory=dict)

    @property
    def blocks(self) -> bool:
        """Whether it failed and stops what comes after it."""
        return not self.passed and self.name not in WARNINGS


def enough(rows: int, users: int, with_two: int) -> Checked:
    """Personalize's minimums for training."""
    least = max(MIN_USERS_WITH_TWO_INTERACTIONS, MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS * users)
    passed = rows >= MIN_INTERACTIONS and with_two >= least
    found = f"{rows:,} interactions of {users:,} users, {with_two:,} of them with two or more"
    if not passed:
        found += (
            f"; Personalize needs {MIN_INTERACTIONS:,} interactions, and"
            f" {MIN_USERS_WITH_TWO_INTERACTIONS} users (and 1 % of them) with two or more: bring"
            " more data, or lower interactions.min_rating"
        )
    return Checked(
        "enough_interactions",
        passed,
        found,
        numbers={"interactions": rows, "users": users, "users_with_two_or_more": with_two},
    )


def plausible(first: int | None, last: int | None, unit: str, now: datetime) -> Checked:
    """That the times are in seconds, between 1980 and now, by the first and the last."""
    if first is None or last is None:
        return Checked("timestamps_plausible", passed=False, found="there are no interactions")
    passed = EARLIEST.timestamp() <= first and last <= (now + CLOCK_SLACK).timestamp()
    found = f"from {_day(first)} to {_day(last)}, read as {unit}"
    if not passed:
        other = "s" if unit == "ms" else "ms"
        found += (
            f"; times of ratings lie between {EARLIEST:%Y} and now: is ratings.timestamp_unit"
            f" {other}, or ratings.columns.timestamp another column?"
        )
    return Checked("timestamps_plausible", passed, found, {"days": (last - first) / 86_400})


def items_readable(read: Callable[[], ItemsRead], on_bad_rows: str) -> Checked:
    """That the rows of the items file can be read, or may be left out."""
    try:
        items = read()
    except PreparationError as error:
        return Checked("items_readable", passed=False, found=str(error))
    rows, bad = items.rows, items.bad
    found = f"{bad.total:,} of {rows:,} rows cannot be read"
    if bad.total:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in bad.counts.items())
        found += f" ({reasons}); the first: {bad.examples[0]}"
        found += (
            "; they are left out (items.on_bad_rows: skip)"
            if on_bad_rows == "skip"
            else "; mend the file, or leave such rows out with items.on_bad_rows: skip"
        )
    passed = bad.total < rows and (not bad.total or on_bad_rows == "skip")
    return Checked("items_readable", passed, found, {"rows": rows, "bad_rows": bad.total})


def every_user_has_a_line(users: pl.Series, answered: pl.Series) -> Checked:
    """That each user who was asked for was answered, once."""
    missing = users.filter(~users.is_in(answered.implode()))
    twice = answered.len() - answered.n_unique()
    found = f"{answered.n_unique():,} of {len(users):,} users have a line"
    if len(missing):
        some = _some(missing.head(SOME), len(missing))
        found += f"; missing are {some}: run the batch inference again"
    if twice:
        found += f"; {twice:,} lines are repeated"
    return Checked(
        "every_user_has_a_line",
        not len(missing) and not twice,
        found,
        {"users": len(users), "missing": len(missing), "repeated_lines": twice},
    )


def every_segment_has_a_line(queries: Sequence[str], lines: pl.DataFrame) -> Checked:
    """That each segment that was asked for was answered, once. lines: segment."""
    answered = lines.get_column("segment")
    asked = pl.Series(queries)
    missing = asked.filter(~asked.is_in(answered.implode()))
    twice = answered.len() - answered.n_unique()
    found = f"{answered.n_unique():,} of {len(queries):,} segments have a line"
    if len(missing):
        some = _some(missing.head(SOME), len(missing))
        found += f"; missing are {some}: run the batch segment job again"
    if twice:
        found += f"; {twice:,} lines are repeated"
    return Checked(
        "every_segment_has_a_line",
        not len(missing) and not twice,
        found,
        {"segments": len(queries), "missing": len(missing), "repeated_lines": twice},
    )


def lines_failed(
    failed: int,
    lines: int,
    first: tuple[str, str] | None,
    of: str = "user_id",
    mend: str = "",
) -> Checked:
    """That no line has an error in place of what was asked for; `of` is whose line it is, `first`
    whose failed first, and why."""
    found = f"{failed:,} of {lines:,} lines failed"
    if first is not None:
        whose, error = first
        found += f"; the first, of {of.removesuffix('_id')} {whose!r}: {error}{mend}"
    return Checked("no_line_failed", not failed, found, {"lines": lines, "failed": failed})


def repeated(count: int, member: str = "item_id") -> Checked:
    """That no list holds an item twice, or no segment a user."""
    found = f"{count:,} {member.removesuffix('_id')}s stand twice in a list"
    return Checked("no_duplicates", not count, found, {"repeated": count})


def none_seen(seen: int) -> Checked:
    """That no list holds what its user already interacted with."""
    return Checked(
        "none_seen", not seen, f"{seen:,} items of the lists were seen before", {"seen": seen}
    )


def lists_full(full: int, users: int, num_results: int, *, filtered: bool = False) -> Checked:
    """Whether every user has as many items as asked for: worth a warning, not a halt."""
    found = f"{full:,} of {users:,} users have all {num_results} items"
    if full < users:
        found += "; the others have seen nearly everything that Personalize offered for them"
        if filtered:
            found += ", or recommendations.filter leaves them little"
    return Checked("lists_full", full == users, found, {"users": users, "full": full})


def _day(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"the year {1970 + seconds // 31_556_952:,}"


def _some(first: Iterable[str], count: int) -> str:
    """The first few of so many."""
    listed = ", ".join(map(repr, first))
    return listed if count <= SOME else f"{listed} and {count - SOME:,} more"
