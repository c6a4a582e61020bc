"""Which columns of a file of ratings have the user, the item, the time and the rating."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

import polars as pl

from batchrec_dagster.cli.column_candidates import (
    UnknownColumnsError,
    check_columns,
    describe_columns,
    has_times,
    holds_times,
    list_columns,
    may_hold_times,
)
from batchrec_dagster.preparation.column_names import NAMES, find_columns
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import NO_TIMES, Column
from batchrec_dagster.preparation.polars.json_table import JsonTable, describe_nested
from batchrec_dagster.preparation.polars.row_conditions import parse_as

# The options that give the columns that every source of ratings must have.
REQUIRED_OPTIONS = {"user": "--user", "item": "--item", "timestamp": "--time"}
# An order has a user and items, and is neither.
ORDER = re.compile("order|bestell|auftrag|rechnung|invoice", re.IGNORECASE)
# Words in the name of a column that may hold such ids. They are a hint for people only.
HINTS = {
    "user": re.compile(
        "customer|client|user|member|buyer|visitor|e-?mail|kunde|besteller|utilisateur|cliente",
        re.IGNORECASE,
    ),
    "item": re.compile(
        "sku|item|product|article|isbn|asin|artikel|produkt|produit|produto|film|movie|book|track",
        re.IGNORECASE,
    ),
}
# The lowest rating that says that someone liked an item, by the top of the scale.
LIKED = {5: 3.5, 10: 7.0}
# A column with more distinct values does not hold event types.
MOST_EVENT_TYPES = 30


def choose_rating_columns(
    sample: FileSample, given_columns: Mapping[str, Column]
) -> dict[str, Column]:
    """The columns by role: as given, else by their names, else by their contents."""
    without_times = given_columns.get("timestamp") == NO_TIMES
    columns_given = {role: column for role, column in given_columns.items() if column != NO_TIMES}
    check_columns(sample, columns_given)
    names = _recognise_by_name(sample) if sample.has_header else {}
    if not sample.has_header and not columns_given:
        return _choose_by_position(sample, without_times=without_times)
    if without_times:
        names.pop("timestamp", None)
    columns: dict[str, Column] = {
        **{role: name for role, name in names.items() if name not in columns_given.values()},
        **columns_given,
    }
    free = [name for name in sample.columns if name not in columns.values()]
    if sample.has_header and "timestamp" not in columns and not without_times:
        candidates = [name for name in sample.columns if has_times(sample, name)]
        candidates = candidates or [name for name in free if holds_times(sample, name)]
        if len(candidates) == 1 and candidates[0] in free:
            columns["timestamp"] = candidates[0]
    required_roles = [role for role in REQUIRED_OPTIONS if role != "timestamp" or not without_times]
    missing = [role for role in required_roles if role not in columns]
    if missing:
        raise _build_unknown_columns_error(sample, missing, free, columns.get("user"))
    if "event_type" in columns and "event_type" not in columns_given:
        event_types = sample.read_cells(columns["event_type"])
        if not len(event_types) or event_types.n_unique() > MOST_EVENT_TYPES:
            del columns["event_type"]
    return columns


def _recognise_by_name(sample: FileSample) -> dict[str, str]:
    """The column of each role, by its name, if what is in it fits."""
    chosen = {}
    for role, words in NAMES.items():
        names = find_columns(sample.columns, words)
        if role == "timestamp":
            names = _choose_times(sample, names)
        filled = [name for name in names if len(sample.read_cells(name))]
        if filled:
            chosen[role] = filled[0]
    return chosen


def _choose_times(sample: FileSample, names: Sequence[str]) -> list[str]:
    """Those of the columns that have times, else those that may be meant to have some."""
    with_times = [name for name in names if holds_times(sample, name)]
    if with_times:
        return with_times
    # A column with another name may have times where these have, for example, durations.
    if any(has_times(sample, name) for name in sample.columns if name not in names):
        return []
    return [name for name in names if may_hold_times(sample, name)]


def find_other_times(sample: FileSample, columns: Mapping[str, Column]) -> list[str]:
    """The columns that have times too, but no role.

    columns: the chosen columns by role.
    """
    used = columns.values()
    return [name for name in sample.columns if name not in used and holds_times(sample, name)]


def _choose_by_position(sample: FileSample, *, without_times: bool) -> dict[str, Column]:
    """A user, an item, perhaps a rating, and a time, in columns of this order or nearly so."""
    positions = range(1, len(sample.columns) + 1)
    time_positions = [
        position for position, name in enumerate(sample.columns, 1) if has_times(sample, name)
    ]
    other_positions = [position for position in positions if position not in time_positions]
    if len(time_positions) != (0 if without_times else 1) or len(other_positions) not in (2, 3):
        raise _build_unknown_columns_error(sample, list(REQUIRED_OPTIONS), [])
    columns = dict(zip(("user", "item", "rating"), other_positions, strict=False))
    # Numbers on no scale may be of a category, or of a price.
    if "rating" in columns:
        numbers = parse_numbers(sample.read_cells(columns["rating"]))
        if numbers.has_nulls() or choose_min_rating(numbers) is None:
            del columns["rating"]
    if time_positions:
        columns["timestamp"] = time_positions[0]
    return dict(columns)


def parse_numbers(cells: pl.Series) -> pl.Series:
    """The numbers in these cells; null where there is none."""
    return pl.select(parse_as(pl.lit(cells), "double").alias("number")).to_series()


def choose_min_rating(ratings: pl.Series) -> float | None:
    """The lowest rating that says that someone liked an item, on a scale of 5 or 10.

    None if the ratings are on no such scale, or all the same.
    """
    if ratings.n_unique() < 2:
        return None
    bottom, top = ratings.sort()[[0, -1]]
    return next(
        (lowest for end, lowest in LIKED.items() if bottom >= 0 and end - 1 <= top <= end), None
    )


def _build_unknown_columns_error(
    sample: FileSample, missing: Sequence[str], free: Sequence[str], user: Column | None = None
) -> UnknownColumnsError:
    """The error that says which columns to give, with a guess.

    missing: the roles without a column.
    free: the columns without a role.
    user: the column of the user, if it is known.
    """
    no_times = " (or --time none)" if "timestamp" in missing else ""
    if not sample.has_header:
        needed = " ".join(f"{REQUIRED_OPTIONS[role]} COL" for role in missing)
        return UnknownColumnsError(
            f"{sample.name} has no header. Its columns: {describe_columns(sample)}. Give them by"
            f" position, from 1: {needed}{no_times}, and --rating COL if there are ratings"
        )
    words = [role.replace("timestamp", "time") for role in missing]
    what = f"{', '.join(words[:-1])} and {words[-1]} columns" if words[1:] else f"{words[0]} column"
    dates = [name for name in free if holds_times(sample, name)]
    others = [name for name in free if name not in dates and not ORDER.search(name)]
    likely_user = user or next(iter(_sort_by_hint(others, "user")), None)
    if likely_user is not None:
        # A time that is the same in all rows of a user is none of an interaction.
        dates.sort(key=lambda name: sample.is_same_for_each(likely_user, name))
    several = ""
    if "timestamp" in missing and dates[1:]:
        several = f" {' and '.join(dates)} have times."
    nested = ""
    if isinstance(sample.table, JsonTable) and sample.table.nested_columns:
        nested = f". {describe_nested(sample.table.nested_columns)}"
    options = []
    for role in missing:
        candidates = dates if role == "timestamp" else _sort_by_hint(others, role)
        column = candidates[0] if candidates else None
        if column in others:
            others.remove(column)
        options.append(f"{REQUIRED_OPTIONS[role]} {shlex.quote(column) if column else 'COL'}")
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise the {what}. Found: {list_columns(sample)}.{several}"
        f" Try: {' '.join(options)}{no_times}{nested}"
    )


def _sort_by_hint(names: Sequence[str], role: str) -> list[str]:
    """The columns, those first whose name has a word for this role, and those last that have one
    for the other."""
    hint, other_hint = HINTS["user"], HINTS["item"]
    if role == "item":
        hint, other_hint = other_hint, hint
    return sorted(names, key=lambda name: bool(other_hint.search(name)) - bool(hint.search(name)))
