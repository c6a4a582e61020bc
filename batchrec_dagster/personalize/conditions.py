"""Checks of conditions against dataset schemas, and a search for rows that meet a condition.

The conditions, such as `ITEMS.STOCK > 0`, are used in Personalize's filters and in rules. A null
never matches, not even with != or NOT IN. A string with `|` matches as a whole, and also by each of
the values that `|` separates. Names match in any case; values are case-sensitive.

Source: developer guide, "Filter expressions", "Guidelines and requirements" and "Common error
messages in Amazon Personalize".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import polars as pl

from batchrec_dagster.personalize.filters import (
    ACTION_TARGET,
    ANY_EVENT,
    CURRENT_USER,
    DATASETS,
    ITEM_TARGET,
    LISTS,
    USER_TARGET,
    Comparison,
    Condition,
    Expression,
    FieldRef,
    FilterExpressionError,
    Or,
    iterate_comparisons,
    list_fields,
    parse,
)
from batchrec_dagster.personalize.schemas import (
    CREATION_TIMESTAMP,
    EVENT_TYPE,
    INTERACTIONS,
    ITEMS,
    SECONDS_A_DAY,
    USERS,
    VALUE_SEPARATOR,
    Field,
    Schema,
)

MAX_FIELDS = 10

_EQUALITY = ("=", "!=")
_DATASETS_OF = {ITEM_TARGET: (ITEMS, INTERACTIONS), USER_TARGET: (USERS, INTERACTIONS)}

# The schemas of a dataset group by dataset type.
Schemas = Mapping[str, Schema]


def check_expression(expression: str, schemas: Schemas) -> None:
    """Raise FilterExpressionError for the first requirement that the filter breaks.

    The message names the part of the filter, and says what is allowed.

    schemas: the schemas of the dataset group, by dataset type.
    """
    parts = parse(expression)
    targets = {part.target for part in parts}
    if ACTION_TARGET in targets:
        raise FilterExpressionError(
            "ActionID is for action recommendations, which batch jobs do not support: use ItemID"
            " or UserID."
        )
    if len(targets) > 1:
        raise FilterExpressionError(
            "A filter is for items or for users: use ItemID or UserID, not both."
        )
    for part in parts:
        _check_part(part, schemas)
    field_count = len(list_fields(parts))
    if field_count > MAX_FIELDS:
        raise FilterExpressionError(
            f"The filter uses {field_count} distinct dataset fields; {MAX_FIELDS} at most are"
            " allowed."
        )


def _check_part(part: Expression, schemas: Schemas) -> None:
    """Check a single expression of the chain that `|` forms."""
    first: FieldRef | None = None
    for comparison in iterate_comparisons(part.where):
        field = comparison.field
        _check_dataset(field, part.target)
        first = first or field
        if field.dataset != first.dataset:
            raise FilterExpressionError(
                f"{first} and {field} are of different datasets, which cannot be used in one"
                " expression: chain two expressions with |."
            )
        _check_comparison(comparison, schemas)
    if part.users and part.target != ITEM_TARGET:
        raise FilterExpressionError(
            "IF is allowed with ItemID only: there is no CurrentUser in a segment."
        )
    for comparison in part.users:
        if comparison.field.dataset != CURRENT_USER:
            raise FilterExpressionError(
                f"IF checks conditions of CurrentUser only, such as CurrentUser.AGE > 18; not"
                f" {comparison.field}."
            )
        _check_comparison(comparison, schemas)


def _check_dataset(field: FieldRef, target: str) -> None:
    """Check that an expression with this target may use the field's dataset."""
    if field.dataset not in DATASETS:
        allowed = " and ".join(DATASETS[dataset] for dataset in _DATASETS_OF[target])
        raise FilterExpressionError(f"{field} is of no known dataset: allowed are {allowed}.")
    if field.dataset == CURRENT_USER:
        raise FilterExpressionError(f"{field} is allowed only in an IF condition at the end.")
    if field.dataset == USERS and target == ITEM_TARGET:
        raise FilterExpressionError(
            f"{field} cannot choose items: use IF CurrentUser.{field.column} at the end, or UserID."
        )
    if field.dataset == ITEMS and target == USER_TARGET:
        raise FilterExpressionError(
            f"{field} cannot choose users: use fields of Users or Interactions."
        )


def _check_comparison(comparison: Comparison, schemas: Schemas) -> None:
    """Check that the field may be compared in this way."""
    field = _find_field(comparison.field, schemas)
    is_string = field.type == "string"
    sign = comparison.operator
    if sign in LISTS and not is_string:
        raise FilterExpressionError(
            f"{comparison.field} is of type {field.type}: IN and NOT IN compare strings; use =, !=,"
            " <, <=, > or >= with a number."
        )
    if is_string and sign not in (*LISTS, *_EQUALITY):
        raise FilterExpressionError(
            f"{comparison.field} is of type string: {sign} compares numbers; use IN, NOT IN, ="
            " or != with quoted strings."
        )
    if sign not in LISTS and len(comparison.operands) != 1:
        raise FilterExpressionError(
            f"{comparison} takes one value, not {len(comparison.operands)}."
        )
    if sign in LISTS and not comparison.in_parentheses:
        raise FilterExpressionError(
            f'{comparison} takes a list in parentheses, such as ("a", "b").'
        )
    for operand in comparison.operands:
        _check_literal(comparison, field, operand)


def _find_field(ref: FieldRef, schemas: Schemas) -> Field:
    """Return the field from its schema.

    Raises FilterExpressionError if filters cannot use the field.
    """
    dataset = DATASETS[ref.dataset_type]
    if ref.dataset == INTERACTIONS and ref.column != EVENT_TYPE:
        raise FilterExpressionError(
            f"{ref} cannot be used: of interactions, filters see EVENT_TYPE only."
        )
    schema = schemas.get(ref.dataset_type)
    if schema is None:
        raise FilterExpressionError(
            f"{ref} cannot be used: the dataset group has no {dataset} dataset. Create it, with"
            f" the field {ref.column} in its schema, before the filter."
        )
    field = schema.field(ref.column)
    if field is None:
        allowed = [EVENT_TYPE] if ref.dataset == INTERACTIONS else schema.columns
        raise FilterExpressionError(
            f"{ref} is not in the schema of the {dataset} dataset: it needs the field"
            f" {ref.column}; filters can use {', '.join(allowed)}."
        )
    if field.type == "boolean":
        raise FilterExpressionError(
            f"Invalid Expression: {ref} is of type boolean, which filters cannot use: import it"
            ' as the strings "True" and "False", or as the numbers 0 and 1.'
        )
    if field.textual:
        raise FilterExpressionError(f"{ref} is textual metadata, which filters cannot use.")
    return field


def _check_literal(comparison: Comparison, field: Field, literal: object) -> None:
    """Check that the literal has the field's type."""
    if isinstance(literal, str) != (field.type == "string"):
        required = "quoted strings" if field.type == "string" else "a number without quotes"
        raise FilterExpressionError(
            f"{comparison} {literal!r}: {comparison.field} is of type {field.type}, compare it"
            f" with {required}."
        )
    if literal == ANY_EVENT and comparison.field.dataset != INTERACTIONS:
        raise FilterExpressionError(
            f'{comparison} cannot take "*", which is for Interactions.EVENT_TYPE.'
        )


@dataclass(frozen=True)
class FilterTraits:
    """The properties of a filter: its target, and the data that it needs."""

    filters_users: bool
    """Whether the filter selects users (UserID), for segments, rather than items (ItemID)."""
    uses_interactions: bool
    """Whether the filter uses interactions."""


def find_traits(expression: str) -> FilterTraits:
    """Return the filter's target and the data that it needs. Raises FilterExpressionError."""
    parts = parse(expression)
    return FilterTraits(
        filters_users=parts[0].target == USER_TARGET,
        uses_interactions=any(part.on_interactions for part in parts),
    )


def check_condition(condition: Condition, dataset: str, schemas: Schemas) -> None:
    """Raise FilterExpressionError unless the condition uses fields of this dataset alone.

    dataset: the type of the dataset, such as ITEMS.
    """
    for comparison in iterate_comparisons(condition):
        if comparison.field.dataset != dataset:
            raise FilterExpressionError(
                f"{comparison.field} cannot be used here: write conditions on"
                f" {DATASETS[dataset]}, such as {dataset}.COLUMN = 1."
            )
        _check_comparison(comparison, schemas)


def find_used_fields(expression: str) -> set[tuple[str, str]]:
    """Return the fields in the expression, as (dataset type, name in upper case).

    Raises FilterExpressionError.
    """
    return list_fields(parse(expression))


def find_event_types(expression: str) -> set[str]:
    """Return the event types in the expression, in lower case; `*` stands for any type.

    Raises FilterExpressionError.
    """
    return {
        str(operand).lower()
        for part in parse(expression)
        for comparison in iterate_comparisons(part.where)
        if comparison.field.dataset == INTERACTIONS
        for operand in comparison.operands
    }


def find_open_exclusion(expression: str) -> Comparison | None:
    """Return the first EXCLUDE condition that names the items to keep; None if there is none.

    Such a condition, with NOT IN or !=, is meant to keep only items with certain values. But it
    also keeps the items that are missing from the Items dataset.

    Raises FilterExpressionError.
    """
    for part in parse(expression):
        if part.include or part.target != ITEM_TARGET:
            continue
        for comparison in iterate_comparisons(part.where):
            if comparison.field.dataset == ITEMS and comparison.operator in ("NOT IN", "!="):
                return comparison
    return None


# A column of Items for rules, available where items.columns.created is declared: the days from the
# item's creation to the newest interaction.
AGE_DAYS = "AGE_DAYS"

_OPERATORS: dict[str, Callable[[Any, Any], pl.Expr]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def find_matches(condition: Condition, table: pl.DataFrame) -> pl.Series:
    """Return whether each row of the table meets the condition.

    condition: a condition without placeholders that suits the types of the table's columns.
    table: the rows. A column of lists holds each row's event types, in lower case.
    """
    columns = {name.upper(): name for name in table.columns}
    return table.select(_build_expression(condition, table.schema, columns)).to_series()


def _build_expression(
    condition: Condition, schema: pl.Schema, columns: Mapping[str, str]
) -> pl.Expr:
    """Return the condition as an expression on the table's columns.

    columns: the names of the columns by their upper-case names.
    """
    if isinstance(condition, Comparison):
        column = columns[condition.field.column]
        return compare(column, schema[column], condition.operator, condition.operands)
    combine = operator.or_ if isinstance(condition, Or) else operator.and_
    return reduce(combine, [_build_expression(part, schema, columns) for part in condition.parts])


def compare(column: str, dtype: pl.DataType, sign: str, operands: Sequence[Any]) -> pl.Expr:
    """Return an expression: whether each cell of the column meets a comparison such as `>= 3`."""
    cells = pl.col(column)
    if isinstance(dtype, pl.List):
        matches = _has_event(cells, operands)
    elif dtype == pl.String:
        matches = _has_value(cells, operands)
    else:
        # In a column of 32-bit floats, a stored 0.1 was rounded to the nearest such float. So the
        # literal is rounded in the same way.
        literal = pl.lit(operands[0], dtype=pl.Float32 if dtype == pl.Float32 else None)
        return _OPERATORS[sign](cells, literal).fill_null(value=False)
    is_positive = sign in ("=", LISTS[0])
    return (matches if is_positive else ~matches).fill_null(value=False)


def _has_value(cells: pl.Expr, operands: Sequence[Any]) -> pl.Expr:
    """Return whether the whole cell, or a value in the cell, equals any operand."""
    texts = pl.Series(map(str, operands), dtype=pl.String).implode()
    values = cells.str.split(VALUE_SEPARATOR)
    return cells.is_in(texts) | values.list.eval(pl.element().is_in(texts)).list.any()


def _has_event(cells: pl.Expr, operands: Sequence[Any]) -> pl.Expr:
    """Return whether a cell, which is a list of event types, contains any of the operands."""
    if ANY_EVENT in operands:
        return cells.list.len() > 0
    events = pl.Series([str(event).lower() for event in operands], dtype=pl.String).implode()
    return cells.list.eval(pl.element().is_in(events)).list.any()


def add_age(schemas: Schemas) -> dict[str, Schema]:
    """Return the schemas, with the field AGE_DAYS added to Items.

    The field is added only if Items has CREATION_TIMESTAMP and no field AGE_DAYS yet.
    """
    items = schemas.get(ITEMS)
    if items is None or items.field(CREATION_TIMESTAMP) is None or items.field(AGE_DAYS):
        return dict(schemas)
    age = Field(AGE_DAYS, "double")
    return {**schemas, ITEMS: replace(items, fields=(*items.fields, age))}


def add_age_column(items: pl.DataFrame, now: int) -> pl.DataFrame:
    """Return the items with the column AGE_DAYS, which `add_age` adds to the schema.

    If Items has no CREATION_TIMESTAMP, or has AGE_DAYS already, the items stay as they are.

    now: the time at which the ages are computed, in epoch seconds.
    """
    names = {name.upper() for name in items.columns}
    if CREATION_TIMESTAMP not in names or AGE_DAYS in names:
        return items
    age = (pl.lit(now) - pl.col(CREATION_TIMESTAMP)) / SECONDS_A_DAY
    return items.with_columns(age.cast(pl.Float64).alias(AGE_DAYS))
