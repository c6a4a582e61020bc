"""The fast path for clean files: Polars reads every cell as its type.

A row is odd if it may have a problem, and a file is clean if it has no odd row. One pass reads the
cells, looks for odd rows, and writes the output. If there is an odd row, `rows` reads the files
again and finds the problem. For clean files this module and `rows` write the same output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.file_form import (
    AUTO,
    BLANKS,
    DATETIME,
    END_OF_TIME,
    EPOCH_UNITS,
    FILTER,
    FIRST_SENTINEL,
    NO_TIMES,
    Columns,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.row_conditions import TYPES, parse_as
from batchrec_dagster.preparation.polars.row_table import RowTable
from batchrec_dagster.preparation.polars.rows import (
    IN_FILTER,
    evaluate_filter,
    leave_out_erased,
)
from batchrec_dagster.preparation.row_rules import (
    BELOW_MIN_RATING,
    EVENT_TYPE_VALUE,
    NOT_IN_FILTER,
    PreparationResult,
    RowRules,
)

# The column that says whether a row is odd: whether it may have a problem.
_ODD = "odd"


def write_clean(
    tables: Sequence[RowTable],
    columns: Columns,
    rules: RowRules,
    unit: str,
    target: Path | None,
    erased: pl.Series,
) -> PreparationResult | None:
    """Write the rows that the rules on a single row keep, if all rows are clean.

    unit: the form of the times: a value of `Columns.time_form` other than `auto`.
    target: the file to write. With None, the rows are only counted.
    erased: the ids in the tables that belong to erased users. The rows of these users are passed
    over.

    Returns None if a row is odd, if a cell that must be a number is not one, if there is no row, or
    if `_choose_types` returns None. Then the content of the target must be ignored.
    """
    types = _choose_types(columns, unit)
    if types is None:
        return None
    rows = pl.concat(
        leave_out_erased(table.read_typed(columns.wanted, types), erased).with_columns(
            pl.any_horizontal(_list_odd_conditions(columns, unit, table, types)).alias(_ODD)
        )
        for table in tables
    )
    rows = evaluate_filter(rows, {name: pl.col(FILTER + name) for name in columns.types}, rules)
    is_below = pl.lit(value=False)
    if rules.min_rating is not None:
        is_below = pl.col("rating") < rules.min_rating
    is_in_filter = pl.lit(value=True) if rules.filter is None else pl.col(IN_FILTER)
    counts = rows.select(
        pl.len().alias("rows"),
        pl.col(_ODD).any(),
        is_below.sum().alias(BELOW_MIN_RATING),
        (~is_below & ~is_in_filter).sum().alias(NOT_IN_FILTER),
    )
    plans = [counts]
    if target is not None:
        # The output is ignored if there is an odd row. Odd rows are still left out, because one id
        # of 200 KB in a million rows would fill the disk.
        is_good = ~pl.col(_ODD).fill_null(value=False)
        output = build_output_columns(columns, rules, _parse_seconds(columns, unit))
        rows_kept = rows.filter(~is_below & is_in_filter & is_good).select(output)
        plans.append(rows_kept.sink_csv(target, lazy=True))
    try:
        # The plans are collected together, so that the files are read once.
        summary = pl.collect_all(plans, engine="streaming")[0].row(0, named=True)
    except pl.exceptions.PolarsError:
        return None
    if not summary["rows"] or summary[_ODD]:
        return None
    reasons = (BELOW_MIN_RATING, NOT_IN_FILTER)
    left_out = {reason: summary[reason] for reason in reasons if summary[reason]}
    return PreparationResult(summary["rows"], left_out, (), unit)


def _choose_types(columns: Columns, unit: str) -> dict[str, pl.DataType] | None:
    """Return the types, by role, of the columns that are not text.

    The result is None if a column would have two types. It is also None if the form of the times is
    `datetime` and a time zone is declared.
    """
    if unit == DATETIME and columns.timezone is not None:
        # The declared zone is for columns without a zone of their own. `rows` tells them apart.
        return None
    types: dict[str, pl.DataType] = {"rating": pl.Float64()}
    if unit in (DATETIME, *EPOCH_UNITS):
        types["timestamp"] = pl.Int64()
    types.update({FILTER + name: TYPES[kind] for name, kind in columns.types.items()})
    type_of_column: dict[object, pl.DataType] = {}
    for role, column in columns.wanted.items():
        kind = types.get(role, pl.String())
        if type_of_column.setdefault(column, kind) != kind:
            return None
    return types


def _list_odd_conditions(
    columns: Columns, unit: str, table: RowTable, types: Collection[str]
) -> Iterator[pl.Expr]:
    """Yield the conditions for an odd row.

    A row is odd if a needed cell is missing, too long or out of range. It is also odd if a cell has
    a forbidden character, may be a null value, or is not of its type.
    """
    latest = (
        FIRST_SENTINEL - 1 if columns.latest is None else min(columns.latest, FIRST_SENTINEL - 1)
    )
    yield ~_parse_seconds(columns, unit).is_between(1, latest).fill_null(value=False)
    if unit in EPOCH_UNITS:
        yield pl.col("timestamp").is_in(END_OF_TIME)
        if columns.time_form == AUTO:
            yield ~times.is_in_unit(pl.col("timestamp"), unit)
            yield times.is_compact(pl.col("timestamp"))
    texts = ["user", "item", *(["event_type"] if "event_type" in columns.roles else [])]
    for text in map(pl.col, texts):
        # In the order of ASCII, the empty text and texts that begin with a blank come before "!".
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
    """Return the null values that are numbers. None of the default null values is a number."""
    numbers = pl.Series(columns.null_values, dtype=pl.String).cast(pl.Float64, strict=False)
    return numbers.filter(numbers.is_finite()).to_list()


def _parse_seconds(columns: Columns, unit: str) -> pl.Expr:
    """Return the time of a row in whole seconds since 1970."""
    time = pl.col("timestamp")
    if unit == DATETIME:
        return time
    if unit in EPOCH_UNITS:
        return time // EPOCH_UNITS[unit]
    return times.parse_seconds(time, unit, None if unit == NO_TIMES else columns.timezone)


def build_output_columns(columns: Columns, rules: RowRules, seconds: pl.Expr) -> list[pl.Expr]:
    """Return the columns of Personalize's interactions CSV, computed from the columns of the roles.

    seconds: the time in whole seconds since 1970.
    """
    has_event_type = "event_type" in columns.roles
    event_type = pl.col("event_type") if has_event_type else pl.lit(EVENT_TYPE_VALUE)
    values = {
        schemas.USER_ID: pl.col("user"),
        schemas.ITEM_ID: pl.col("item"),
        schemas.TIMESTAMP: seconds,
        schemas.EVENT_TYPE: event_type,
        schemas.EVENT_VALUE: pl.col("event_value").str.strip_chars(BLANKS),
    }
    return [values[name].alias(name) for name in list_output_columns(columns, rules)]


def list_output_columns(columns: Columns, rules: RowRules) -> list[str]:
    """Return the names of the columns of the interactions CSV, in their order."""
    return schemas.make_interactions_schema(
        event_type=rules.event_type, event_value="event_value" in columns.roles
    ).columns
