"""Conditions of rules, such as ITEMS.STOCK > 0: their columns, and the rows that meet them.

They are written in the grammar of Personalize's filters, and mean what they mean there. A null
never matches, not even != or NOT IN. A string with `|` matches as a whole and by each of the values
that `|` separates. Names match in any case, values do not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import polars as pl

from batchrec_dagster.personalize.filter_grammar import (
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


def find_matches(condition: Condition, table: pl.DataFrame) -> pl.Series:
    """Whether each row of the table meets the condition.

    condition: one that suits the types of the table's columns, without placeholders.
    """
    columns = {name.upper(): name for name in table.columns}
    return table.select(_build_expression(condition, columns)).to_series()


def _build_expression(condition: Condition, columns: Mapping[str, str]) -> pl.Expr:
    if isinstance(condition, Comparison):
        column = pl.col(columns[condition.field.column])
        return _compare(condition, column).fill_null(value=False)
    combine = operator.or_ if isinstance(condition, Or) else operator.and_
    return reduce(combine, [_build_expression(part, columns) for part in condition.parts])


def _compare(comparison: Comparison, column: pl.Expr) -> pl.Expr:
    sign, operands = comparison.operator, comparison.operands
    if sign not in LISTS and not isinstance(operands[0], str):
        return _OPERATORS[sign](column, pl.lit(operands[0]))
    texts = pl.Series(map(str, operands), dtype=pl.String).implode()
    has_value = (
        column.is_in(texts)
        | column.str.split(VALUE_SEPARATOR).list.eval(pl.element().is_in(texts)).list.any()
    )
    return has_value if sign in ("=", "IN") else ~has_value
