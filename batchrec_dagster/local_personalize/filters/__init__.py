"""Filter expressions: what may, and what may not, be recommended or be in a segment.

Source: developer guide, "Filter expressions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchrec_dagster.local_personalize.filters.check import MAX_FIELDS_OF_GROUP, Schemas, check
from batchrec_dagster.local_personalize.filters.job import JobFilter
from batchrec_dagster.local_personalize.filters.tables import Read
from batchrec_dagster.local_personalize.filters.values import uses
from batchrec_dagster.personalize.filter_grammar import (
    CURRENT_ITEM,
    USER_TARGET,
    FieldRef,
    FilterError,
    comparisons,
    fields,
    parse,
)
from batchrec_dagster.personalize.schemas import INTERACTIONS

__all__ = [
    "FilterError",
    "JobFilter",
    "Read",
    "Traits",
    "check_expression",
    "check_fields_of_group",
    "check_values",
    "event_types_of",
    "fields_of",
    "traits",
]


@dataclass(frozen=True)
class Traits:
    """What a filter is for, and what it needs to know."""

    users: bool  # it filters users, for segments (UserID); else items (ItemID)
    interactions: bool  # it looks at interactions
    current_item: bool  # it needs the item that is asked for: CurrentItem


def traits(expression: str) -> Traits:
    """What the expression is for. Raises FilterError for what is no expression."""
    expressions = parse(expression)
    operands = [o for e in expressions for c in comparisons(e.where) for o in c.operands]
    return Traits(
        users=expressions[0].target == USER_TARGET,
        interactions=any(e.on_interactions for e in expressions),
        current_item=any(isinstance(o, FieldRef) and o.dataset == CURRENT_ITEM for o in operands),
    )


def check_expression(expression: str, schemas: Schemas) -> None:
    """Raises FilterError for what is no expression, or what these schemas of the group, by dataset
    type, do not allow."""
    check(parse(expression), schemas)


def check_values(expression: str, schemas: Schemas, values: Mapping[str, str]) -> None:
    """Raises FilterError for `filterValues` that do not do for the placeholders of an expression
    that has been checked against the schemas."""
    is_string = {
        (kind, field.name.upper()): field.type == "string"
        for kind, schema in schemas.items()
        for field in schema.fields
    }
    for use in uses(parse(expression), is_string):
        if problem := use.problem(values.get(use.placeholder.name)):
            raise FilterError(problem)


def fields_of(expression: str) -> set[tuple[str, str]]:
    """The fields that it looks at, as (dataset type, name in upper case). Raises FilterError."""
    return fields(parse(expression))


def event_types_of(expression: str) -> set[str]:
    """The event types that it speaks of, in lower case, for their case does not matter; `*` is any.
    Raises FilterError."""
    return {
        str(operand).lower()
        for part in parse(expression)
        for comparison in comparisons(part.where)
        if comparison.field.dataset == INTERACTIONS
        for operand in comparison.operands
    }


def check_fields_of_group(expressions: Sequence[str]) -> None:
    """Raises FilterError when all filters of a group together use too many dataset fields."""
    used = set().union(*(fields(parse(expression)) for expression in expressions))
    if len(used) > MAX_FIELDS_OF_GROUP:
        raise FilterError(
            f"The filters of the dataset group would use {len(used)} distinct dataset fields;"
            f" {MAX_FIELDS_OF_GROUP} at most are allowed."
        )
