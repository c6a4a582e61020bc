"""Conditions such as `ITEMS.STOCK > 0`: the rows that meet them.

They are those of Personalize's filters, and of rules, which are written in the same grammar. A null
never matches, not even != or NOT IN. A string with `|` matches as a whole and by each of the values
that `|` separates. Names match in any case, values do not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import polars as pl

from batchrec_dagster.personalize.filter_grammar import (
    ANY_EVENT,
    LISTS,
    Comparison,
    Condition,
    Or,
)
from batchrec_dagster.personalize.schemas import (
    CREATION_TIMESTAMP,
    ITEMS,
    VALUE_SEPARATOR,
    Field,
    Schema,
)

# The column of Items that rules have where items.columns.created is declared: the days from the
# item's creation to the newest interaction.
AGE_DAYS = "AGE_DAYS"
SECONDS_A_DAY = 86_400

_OPERATORS: dict[str, Callable[[Any, Any], pl.Expr]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def find_matches(condition: Condition, table: pl.DataFrame) -> pl.Series:
    """Whether each row of the table meets the condition.

    condition: one that suits the types of the table's columns, without placeholders.
    table: a column of lists has the event types of each row, in lower case.
    """
    columns = {name.upper(): name for name in table.columns}
    return table.select(_build_expression(condition, table.schema, columns)).to_series()


def _build_expression(
    condition: Condition, schema: pl.Schema, columns: Mapping[str, str]
) -> pl.Expr:
    if isinstance(condition, Comparison):
        column = columns[condition.field.column]
        return compare(column, schema[column], condition.operator, condition.operands)
    combine = operator.or_ if isinstance(condition, Or) else operator.and_
    return reduce(combine, [_build_expression(part, schema, columns) for part in condition.parts])


def compare(column: str, dtype: pl.DataType, sign: str, operands: Sequence[Any]) -> pl.Expr:
    """Whether each value of a column of this type compares so, such as `>=` with 3."""
    cells = pl.col(column)
    if isinstance(dtype, pl.List):
        matches = _has_event(cells, operands)
    elif dtype == pl.String:
        matches = _has_value(cells, operands)
    else:
        # A stored 0.1 was rounded to the nearest 32-bit float, so the literal is rounded too.
        literal = pl.lit(operands[0], dtype=pl.Float32 if dtype == pl.Float32 else None)
        return _OPERATORS[sign](cells, literal).fill_null(value=False)
    is_positive = sign in ("=", LISTS[0])
    return (matches if is_positive else ~matches).fill_null(value=False)


def _has_value(cells: pl.Expr, operands: Sequence[Any]) -> pl.Expr:
    texts = pl.Series(map(str, operands), dtype=pl.String).implode()
    values = cells.str.split(VALUE_SEPARATOR)
    return cells.is_in(texts) | values.list.eval(pl.element().is_in(texts)).list.any()


def _has_event(cells: pl.Expr, operands: Sequence[Any]) -> pl.Expr:
    if ANY_EVENT in operands:
        return cells.is_not_null()
    events = pl.Series([str(event).lower() for event in operands], dtype=pl.String).implode()
    return cells.list.eval(pl.element().is_in(events)).list.any()


def add_age(schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """The schemas with AGE_DAYS in Items, if that has CREATION_TIMESTAMP and no such column."""
    items = schemas.get(ITEMS)
    if items is None or items.field(CREATION_TIMESTAMP) is None or items.field(AGE_DAYS):
        return dict(schemas)
    age = Field(AGE_DAYS, "double")
    return {**schemas, ITEMS: replace(items, fields=(*items.fields, age))}


def add_age_column(items: pl.DataFrame, now: int) -> pl.DataFrame:
    """The items with the column AGE_DAYS, as `add_age` adds it to the schema.

    now: a time in epoch seconds.
    """
    names = {name.upper() for name in items.columns}
    if CREATION_TIMESTAMP not in names or AGE_DAYS in names:
        return items
    age = (pl.lit(now) - pl.col(CREATION_TIMESTAMP)) / SECONDS_A_DAY
    return items.with_columns(age.cast(pl.Float64).alias(AGE_DAYS))
