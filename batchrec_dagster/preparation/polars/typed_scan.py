"""The fast path for clean files: one pass reads cells as numbers, finds odd rows, and writes.

If there is anything odd, the rows are read by `rows` instead, which finds out what it is. For clean
files both write the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.layout import (
    AUTO,
    DATETIME,
    END_OF_TIME,
    EPOCH_UNITS,
    FILTER,
    FIRST_SENTINEL,
    NO_TIMES,
    Columns,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.row_conditions import TYPES
from batchrec_dagster.preparation.polars.rows import (
    IN_FILTER,
    NO_IDS,
    evaluate_filter,
    is_of_erased_user,
    parse_as,
)
from batchrec_dagster.preparation.polars.tables import RowTable
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    ERASED_USER,
    EVENT_TYPE_VALUE,
    LEFT_OUT_BY_RULES,
    NOT_IN_FILTER,
    PreparationResult,
    Rules,
)

# Whether a row may have something wrong with it, or has to be read as text to tell.
_ODD = "odd"
# Whether a row is of a user who was erased.
_ERASED = "erased"
# How many users who were erased have rows.
_USERS = "erased users"


def write_clean(
    tables: Sequence[RowTable],
    columns: Columns,
    rules: Rules,
    target: Path | None,
    erased: pl.Series = NO_IDS,
) -> PreparationResult | None:
    """Write the rows that the rules on a single row keep, if all rows are clean.

    target: where to write. If it is None, the rows are only counted.
    erased: the ids in the tables whose users were erased.

    Returns None if a row is odd, or if a cell that must be a number is none. What was written to
    the target must then be ignored.
    """
    rows = _scan_rows(tables, columns, rules, erased)
    if rows is None:
        return None
    is_erased = pl.col(_ERASED) if len(erased) else pl.lit(value=False)
    is_below = pl.lit(value=False)
    if rules.min_rating is not None:
        is_below = pl.col("rating") < rules.min_rating
    is_in_filter = pl.lit(value=True) if rules.filter is None else pl.col(IN_FILTER)
    seconds = _parse_seconds(columns)
    # The unit shows in the times as they are written.
    time = seconds if "timestamp" not in columns.roles else pl.col("timestamp")
    if len(erased):
        time = time.filter(~is_erased)
        is_below &= ~is_erased
    counts = rows.select(
        pl.len().alias("rows"),
        pl.col(_ODD).any(),
        (pl.col("user").filter(is_erased).n_unique() if len(erased) else pl.lit(0)).alias(_USERS),
        time.min().alias("first"),
        time.max().alias("last"),
        is_erased.sum().alias(ERASED_USER),
        is_below.sum().alias(BELOW_MIN_RATING),
        (~is_erased & ~is_below & ~is_in_filter).sum().alias(NOT_IN_FILTER),
    )
    plans = [counts]
    if target is not None:
        # With an odd row the file is of no use, but one id of 200 KB in a million rows would fill
        # the disk.
        is_good = ~pl.col(_ODD).fill_null(value=False)
        rows_kept = rows.filter(~is_erased & ~is_below & is_in_filter & is_good)
        plans.append(
            rows_kept.select(build_output_columns(columns, rules, seconds)).sink_csv(
                target, lazy=True
            )
        )
    try:
        # Together, so that the files are read once.
        summary = pl.collect_all(plans, engine="streaming")[0].row(0, named=True)
    except pl.exceptions.PolarsError:
        return None
    unit = _find_unit(columns, summary["first"], summary["last"])
    if not summary["rows"] or summary[_ODD] or unit is None:
        return None
    left_out = {reason: summary[reason] for reason in LEFT_OUT_BY_RULES if summary[reason]}
    return PreparationResult(summary["rows"], left_out, (), unit, summary[_USERS])


def _scan_rows(
    tables: Sequence[RowTable], columns: Columns, rules: Rules, erased: pl.Series
) -> pl.LazyFrame | None:
    """The wanted columns of all rows by role, _ODD, and IN_FILTER if there is a filter.

    They have _ERASED if any user was erased. None if a column would have two types.
    """
    types = _choose_types(columns)
    if types is None:
        return None
    rows = pl.concat(
        table.read_typed(columns.wanted, types).with_columns(
            pl.any_horizontal(_list_odd_conditions(columns, table, types)).alias(_ODD)
        )
        for table in tables
    )
    if len(erased):
        is_odd = pl.col(_ODD) & ~pl.col(_ERASED)
        rows = rows.with_columns(is_of_erased_user(erased).alias(_ERASED)).with_columns(is_odd)
    of_filter = {name: pl.col(FILTER + name) for name in columns.types}
    return evaluate_filter(rows, of_filter, rules)


def _choose_types(columns: Columns) -> dict[str, pl.DataType] | None:
    """The types of the columns that are not text, by role; None if a column would have two."""
    if columns.time_form == DATETIME and columns.timezone is not None:
        return None  # A column may have a zone of its own.
    types: dict[str, pl.DataType] = {"rating": pl.Float64()}
    if columns.time_form in (AUTO, DATETIME, *EPOCH_UNITS):
        types["timestamp"] = pl.Int64()
    types.update({FILTER + name: TYPES[kind] for name, kind in columns.types.items()})
    type_of_column: dict[object, pl.DataType] = {}
    for role, column in columns.wanted.items():
        kind = types.get(role, pl.String())
        if type_of_column.setdefault(column, kind) != kind:
            return None
    return types


def _list_odd_conditions(
    columns: Columns, table: RowTable, types: Collection[str]
) -> Iterator[pl.Expr]:
    """The conditions under which a row is odd: a cell is missing, or has to be read as text."""
    latest = FIRST_SENTINEL - 1
    if columns.latest is not None:
        latest = min(columns.latest, latest)
    yield ~_parse_seconds(columns).is_between(1, latest).fill_null(value=False)
    if columns.time_form in (AUTO, *EPOCH_UNITS):
        yield pl.col("timestamp").is_in(END_OF_TIME)
    if columns.time_form == AUTO:
        yield times.is_compact(pl.col("timestamp"))
    texts = ["user", "item", *(["event_type"] if "event_type" in columns.roles else [])]
    for text in map(pl.col, texts):
        # The empty text comes before ! in the order of ASCII, and so do blanks.
        yield text.is_null() | (text < "!") | (text.str.len_bytes() > schemas.MAX_ID_LENGTH)
        if not table.opened.is_plain:
            yield text.str.contains("[\n\r\0\ufffd]")
    for role in columns.wanted:
        if role not in types:
            yield pl.col(role).is_in(columns.null_values) | pl.col(role).str.ends_with(" ")
        elif not role.startswith(FILTER) and (numbers := _list_numeric_null_values(columns)):
            yield pl.col(role).cast(pl.Float64).is_in(numbers)
    if "rating" in columns.roles:
        yield ~pl.col("rating").is_finite().fill_null(value=False)
    if "event_value" in columns.roles:
        value = pl.col("event_value")
        yield value.is_not_null() & parse_as(value, "double").is_null()
    for name, kind in columns.types.items():
        if kind == "double":
            yield ~pl.col(FILTER + name).is_finite()


def _list_numeric_null_values(columns: Columns) -> list[float]:
    """Those of the null values that are numbers, which none of the default ones is."""
    numbers = pl.Series(columns.null_values, dtype=pl.String).cast(pl.Float64, strict=False)
    return numbers.filter(numbers.is_finite()).to_list()


def _parse_seconds(columns: Columns) -> pl.Expr:
    """The time of a row in whole seconds since 1970."""
    time, unit = pl.col("timestamp"), columns.time_form
    if unit == AUTO:
        return times.convert_by_size(time)
    if unit == DATETIME:
        return time
    if unit in EPOCH_UNITS:
        return time // EPOCH_UNITS[unit]
    return times.parse_seconds(time, unit, None if unit == NO_TIMES else columns.timezone)


def _find_unit(columns: Columns, first: int | None, last: int | None) -> str | None:
    """How times are written; None if they are not all written in one way.

    first, last: the smallest and the largest time as they are written.
    """
    if columns.time_form != AUTO:
        return columns.time_form
    if first is None or last is None:
        return None
    unit = times.guess_form(first)
    return unit if unit == times.guess_form(last) else None


def build_output_columns(columns: Columns, rules: Rules, seconds: pl.Expr) -> list[pl.Expr]:
    """The columns of Personalize's interactions CSV, from those of the roles.

    seconds: the time in whole seconds since 1970.
    """
    has_event_type = "event_type" in columns.roles
    event_type = pl.col("event_type") if has_event_type else pl.lit(EVENT_TYPE_VALUE)
    values = {
        schemas.USER_ID: pl.col("user"),
        schemas.ITEM_ID: pl.col("item"),
        schemas.TIMESTAMP: seconds,
        schemas.EVENT_TYPE: event_type,
        schemas.EVENT_VALUE: pl.col("event_value").str.strip_chars(" \t"),
    }
    return [values[name].alias(name) for name in list_output_columns(columns, rules)]


def list_output_columns(columns: Columns, rules: Rules) -> list[str]:
    """The columns of the CSV, in their order."""
    return schemas.make_interactions_schema(
        event_type=rules.event_type, event_value="event_value" in columns.roles
    ).columns
