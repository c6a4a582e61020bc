"""The fast path for clean files: one pass reads the cells as numbers, counts oddities and writes.

Any oddity, and `rows` diagnoses the rows instead. For clean files both write the same.
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
    Layout,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.row_conditions import TYPES
from batchrec_dagster.preparation.polars.rows import IN_FILTER, evaluate_filter, parse_as
from batchrec_dagster.preparation.polars.tables import RowTable
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    EVENT_TYPE_VALUE,
    LEFT_OUT_BY_RULES,
    NOT_IN_FILTER,
    PreparationResult,
    Rules,
)

_ODD = "odd"


def write_clean(
    tables: Sequence[RowTable], layout: Layout, rules: Rules, target: Path | None
) -> PreparationResult | None:
    """Write the rows that the rules on a single row keep; nothing is written without a target.

    None where this is not for these files, or there is something wrong with a row.
    """
    rows = _rows(tables, layout, rules)
    if rows is None:
        return None
    below = pl.lit(value=False)
    if rules.min_rating is not None:
        below = pl.col("rating") < rules.min_rating
    inside = pl.lit(value=True) if rules.filter is None else pl.col(IN_FILTER)
    time = _seconds(layout) if layout.timestamp is None else pl.col("timestamp")
    counts = rows.select(
        pl.len().alias("rows"),
        pl.col(_ODD).any(),
        time.min().alias("first"),
        time.max().alias("last"),
        below.sum().alias(BELOW_MIN_RATING),
        (~below & ~inside).sum().alias(NOT_IN_FILTER),
    )
    plans = [counts]
    if target is not None:
        # What is odd is not used, but an id of 200 KB in a million rows would fill the disk.
        good = ~pl.col(_ODD).fill_null(value=False)
        kept = rows.filter(~below & inside & good).select(
            output_columns(layout, rules, _seconds(layout))
        )
        plans.append(kept.sink_csv(target, lazy=True))
    try:
        # Of one plan: the files are read once.
        found = pl.collect_all(plans, engine="streaming")[0].row(0, named=True)
    except pl.exceptions.PolarsError:
        return None
    unit = _unit(layout, found["first"], found["last"])
    if not found["rows"] or found[_ODD] or unit is None:
        return None
    left_out = {reason: found[reason] for reason in LEFT_OUT_BY_RULES if found[reason]}
    return PreparationResult(found["rows"], left_out, (), unit)


def _rows(tables: Sequence[RowTable], layout: Layout, rules: Rules) -> pl.LazyFrame | None:
    """All rows: the wanted columns by role, _ODD, and IN_FILTER where there is a filter."""
    types = _types(layout, rules)
    if types is None:
        return None
    read = pl.concat(
        table.read_typed(layout.roles, types).with_columns(
            pl.any_horizontal(_odd(layout, table, types)).alias(_ODD)
        )
        for table in tables
    )
    columns = {name: pl.col(FILTER + name) for name in layout.types}
    return evaluate_filter(read, columns, rules)


def _types(layout: Layout, rules: Rules) -> dict[str, pl.DataType] | None:
    """The types of the columns that are no text, by role; None when a column would have two."""
    if layout.timestamp_unit == DATETIME and layout.timezone is not None:
        return None  # A column may have a zone of its own.
    types: dict[str, pl.DataType] = {"rating": pl.Float64()}
    if layout.timestamp_unit in (AUTO, DATETIME, *EPOCH_UNITS):
        types["timestamp"] = pl.Int64()
    types.update({FILTER + name: TYPES[kind] for name, kind in layout.types.items()})
    by_column: dict[object, pl.DataType] = {}
    for role, column in layout.roles.items():
        kind = types.get(role, pl.String())
        if by_column.setdefault(column, kind) != kind:
            return None
    return types


def _odd(layout: Layout, table: RowTable, types: Collection[str]) -> Iterator[pl.Expr]:
    """Whether anything in a row is missing, or has to be looked at closely."""
    yield ~_seconds(layout).is_between(1, FIRST_SENTINEL - 1).fill_null(value=False)
    if layout.timestamp_unit in (AUTO, *EPOCH_UNITS):
        yield pl.col("timestamp").is_in(END_OF_TIME)
    texts = ["user", "item", *(["event_type"] if layout.event_type is not None else [])]
    for text in map(pl.col, texts):
        # Blanks come before ! in ASCII, and so does nothing at all.
        yield text.is_null() | (text < "!") | (text.str.len_bytes() > schemas.MAX_ID_LENGTH)
        if not table.opened.is_plain:
            yield text.str.contains("[\n\r\0\ufffd]")
    for role in layout.roles:
        if role not in types:
            yield pl.col(role).is_in(layout.null_values) | pl.col(role).str.ends_with(" ")
        elif not role.startswith(FILTER) and (numbers := _null_numbers(layout)):
            yield pl.col(role).cast(pl.Float64).is_in(numbers)
    if layout.rating is not None:
        yield ~pl.col("rating").is_finite().fill_null(value=False)
    if layout.event_value is not None:
        value = pl.col("event_value")
        yield value.is_not_null() & parse_as(value, "double").is_null()
    for name, kind in layout.types.items():
        if kind == "double":
            yield ~pl.col(FILTER + name).is_finite()


def _null_numbers(layout: Layout) -> list[float]:
    """Those of the null values that are numbers, which the default ones are not."""
    numbers = pl.Series(layout.null_values, dtype=pl.String).cast(pl.Float64, strict=False)
    return numbers.filter(numbers.is_finite()).to_list()


def _seconds(layout: Layout) -> pl.Expr:
    time, unit = pl.col("timestamp"), layout.timestamp_unit
    if unit == AUTO:
        return times.convert_by_size(time)
    if unit == DATETIME:
        return time
    if unit == NO_TIMES:
        return times.parse_seconds(time, unit)
    return (
        time // EPOCH_UNITS[unit]
        if unit in EPOCH_UNITS
        else times.parse_seconds(time, unit, layout.timezone)
    )


def _unit(layout: Layout, first: int | None, last: int | None) -> str | None:
    """How times are written; None where they are not all written so."""
    if layout.timestamp_unit != AUTO:
        return layout.timestamp_unit
    if first is None or last is None:
        return None
    unit = times.guess_epoch_unit(first)
    return unit if unit == times.guess_epoch_unit(last) else None


def output_columns(layout: Layout, rules: Rules, seconds: pl.Expr) -> list[pl.Expr]:
    """The columns of Personalize's interactions CSV, of rows with the roles."""
    columns = {
        schemas.USER_ID: pl.col("user"),
        schemas.ITEM_ID: pl.col("item"),
        schemas.TIMESTAMP: seconds,
        schemas.EVENT_TYPE: pl.lit(EVENT_TYPE_VALUE)
        if layout.event_type is None
        else pl.col("event_type"),
        schemas.EVENT_VALUE: pl.col("event_value").str.strip_chars(" \t"),
    }
    return [columns[name].alias(name) for name in output_column_names(layout, rules)]


def output_column_names(layout: Layout, rules: Rules) -> list[str]:
    return schemas.list_interactions_columns(
        event_type=rules.event_type, event_value=layout.event_value is not None
    )
