"""The columns of the user, the item, the time and the rating in a file of ratings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

import polars as pl

from batchrec_dagster.cli.column_contents import has_recognised_times, has_times
from batchrec_dagster.cli.recognised_source import (
    UnknownColumnsError,
    list_columns,
    preview_rows,
    require_columns,
)
from batchrec_dagster.preparation.column_names import NAMES, find_columns
from batchrec_dagster.preparation.file_form import NO_TIMES, Column, Decimal
from batchrec_dagster.preparation.file_sample import FileSample, are_all
from batchrec_dagster.preparation.polars.csv_table import swap_comma_and_point
from batchrec_dagster.preparation.polars.json_table import JsonTable, describe_nested
from batchrec_dagster.preparation.polars.row_conditions import parse_as

# The options for the columns that every source of ratings must have.
REQUIRED_OPTIONS = {"user": "--user", "item": "--item", "timestamp": "--time"}
# Words in the names of columns about orders. An order is neither a user nor an item.
ORDER = re.compile("order|receipt|bestell|auftrag|rechnung|beleg|invoice", re.IGNORECASE)
# Words in the names of columns that may hold ids of users or items. They are only used for hints in
# error messages.
HINTS = {
    "user": re.compile(
        r"customer|client|user|member|buyer|visitor|e-?mail|kunde|\bkd|besteller|utilisateur|cliente",
        re.IGNORECASE,
    ),
    "item": re.compile(
        "sku|item|product|article|isbn|asin|artikel|produkt|produit|produto|film|movie|book|track",
        re.IGNORECASE,
    ),
}
# The lowest rating that means that a user liked an item, by the top of the scale.
LIKED = {5: 3.5, 10: 7.0}
# A column with more distinct values does not hold event types.
MOST_DISTINCT_EVENTS = 30


def choose_rating_columns(sample: FileSample, given: Mapping[str, Column]) -> dict[str, Column]:
    """Return the column of each role: as given, else as recognised.

    A column is recognised by its name or, if it has the times, by its contents. If the file has no
    header and no column is given, columns are recognised by their positions.
    given: the columns by role; NO_TIMES as the timestamp if there are no times.

    Raises UnknownColumnsError.
    """
    roles = {role: column for role, column in given.items() if column != NO_TIMES}
    require_columns(sample, roles)
    if not sample.table.has_header and not roles:
        return _choose_by_position(sample, given)
    needed = [role for role in REQUIRED_OPTIONS if given.get(role) != NO_TIMES]
    if sample.table.has_header:
        recognised = _recognise_by_name(sample, given)
        roles = {
            **{role: name for role, name in recognised.items() if name not in roles.values()},
            **roles,
        }
        if "timestamp" in needed and "timestamp" not in roles:
            candidates = [name for name in sample.columns if has_recognised_times(sample, name)]
            candidates = candidates or find_other_times(sample, roles)
            if len(candidates) == 1 and candidates[0] not in roles.values():
                roles["timestamp"] = candidates[0]
    missing = [role for role in needed if role not in roles]
    if missing:
        raise _build_unknown_columns_error(sample, missing, roles)
    require_columns(sample, roles)
    return roles


def _recognise_by_name(sample: FileSample, given: Mapping[str, Column]) -> dict[str, str]:
    """Return the column of each role that is not given, by its name, if its contents fit."""
    roles = {}
    for role in NAMES.keys() - given.keys():
        names = find_columns(sample.columns, NAMES[role])
        if role == "timestamp":
            names = _choose_times(sample, names)
        if role == "event_type":
            names = [
                name for name in names if sample.read_cells(name).n_unique() <= MOST_DISTINCT_EVENTS
            ]
        filled = [name for name in names if len(sample.read_cells(name))]
        if filled:
            roles[role] = filled[0]
    return roles


def _choose_times(sample: FileSample, names: Sequence[str]) -> list[str]:
    """Return the columns that have times, or else the columns that may be meant to have times."""
    with_times = [name for name in names if has_times(sample, name)]
    if with_times or any(
        has_recognised_times(sample, name) for name in sample.columns if name not in names
    ):
        # A column with another name may have the times, while these columns have, for example,
        # durations.
        return with_times
    return [name for name in names if sample.read_cells(name).str.contains("[0-9]").any()]


def find_other_times(sample: FileSample, roles: Mapping[str, Column]) -> list[str]:
    """Return the columns that have times, but no role."""
    used = roles.values()
    return [name for name in sample.columns if name not in used and has_times(sample, name)]


def _choose_by_position(sample: FileSample, given: Mapping[str, Column]) -> dict[str, Column]:
    """Return the columns of a file without a header: user, item, perhaps rating, and time.

    The time may be in any position; the other columns must be in this order. Raises
    UnknownColumnsError if the columns do not fit.
    """
    time_positions = [
        position
        for position, name in enumerate(sample.columns, 1)
        if has_recognised_times(sample, name)
    ]
    positions = range(1, len(sample.columns) + 1)
    untimed = [position for position in positions if position not in time_positions]
    if len(time_positions) != (0 if "timestamp" in given else 1) or len(untimed) not in (2, 3):
        raise _build_unknown_columns_error(sample, list(REQUIRED_OPTIONS), {})
    roles: dict[str, Column] = dict(zip(("user", "item", "rating"), untimed, strict=False))
    if time_positions:
        roles["timestamp"] = time_positions[0]
    if "rating" in roles:
        cells = sample.read_cells(roles["rating"])
        # Numbers that are on no scale of ratings may be categories or prices.
        if not are_all(cells, "double") or choose_min_rating(cells) is None:
            del roles["rating"]
    return roles


def choose_min_rating(cells: pl.Series, decimal: Decimal = ".") -> float | None:
    """Return the lowest rating that means that a user liked an item, on a scale of 5 or 10.

    Returns None if the ratings are on no such scale, or are all equal.
    """
    text = pl.lit(cells) if decimal == "." else swap_comma_and_point(pl.lit(cells))
    ratings = pl.select(parse_as(text, "double")).to_series().drop_nulls()
    if ratings.n_unique() < 2:
        return None
    bottom, top = ratings.sort()[[0, -1]]
    return next(
        (lowest for end, lowest in LIKED.items() if bottom >= 0 and end - 1 <= top <= end), None
    )


def _build_unknown_columns_error(
    sample: FileSample, missing: Sequence[str], roles: Mapping[str, Column]
) -> UnknownColumnsError:
    """Return the error that says which columns to give, with a guess.

    missing: the roles without a column.
    roles: the columns of the other roles.
    """
    no_times = " (or --time none)" if "timestamp" in missing else ""
    if not sample.table.has_header:
        needed = " ".join(f"{REQUIRED_OPTIONS[role]} COL" for role in missing)
        return UnknownColumnsError(
            f"{sample.name} has no header. Give its columns by position, from 1:"
            f" {needed}{no_times}, and --rating COL if there are ratings\n\n{preview_rows(sample)}"
        )
    words = [role.replace("timestamp", "time") for role in missing]
    what = f"{', '.join(words[:-1])} and {words[-1]} columns" if words[1:] else f"{words[0]} column"
    dates = find_other_times(sample, roles)
    several = ""
    if "timestamp" in missing and dates[1:]:
        several = f" {' and '.join(dates)} have times."
    nested = ""
    if isinstance(sample.table, JsonTable) and sample.table.nested_columns:
        nested = f". {describe_nested(sample.table.nested_columns)}"
    used = {*roles.values(), *dates}
    unused = [name for name in sample.columns if name not in used and not ORDER.search(name)]
    options = []
    for role in missing:
        candidates = dates if role == "timestamp" else _sort_by_hint(unused, role)
        column = candidates[0] if candidates else None
        unused = [name for name in unused if name != column]
        options.append(f"{REQUIRED_OPTIONS[role]} {shlex.quote(column) if column else 'COL'}")
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise the {what}. Found: {list_columns(sample)}.{several}"
        f" Try: {' '.join(options)}{no_times}{nested}\n\n{preview_rows(sample)}"
    )


def _sort_by_hint(names: Sequence[str], role: str) -> list[str]:
    """Sort columns by how well their names match the role.

    Names with a word for the role come first. Names with a word for the other role come last.
    """
    hint, other_hint = HINTS["user"], HINTS["item"]
    if role == "item":
        hint, other_hint = other_hint, hint
    return sorted(names, key=lambda name: bool(other_hint.search(name)) - bool(hint.search(name)))
