"""Checks filters and item attributes against the declared datasets.

So what Personalize would refuse fails when the pipeline is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from batchrec_dagster.personalize import filter_check
from batchrec_dagster.personalize.filter_grammar import FilterExpressionError
from batchrec_dagster.personalize.item_attributes import ItemAttributesError, typed_conditions
from batchrec_dagster.personalize.schemas import EVENT_TYPE, INTERACTIONS, ITEMS, USERS, Schema
from batchrec_dagster.preparation.rules import EVENT_TYPE_VALUE

# By dataset type.
Schemas = Mapping[str, Schema]


def find_filter_traits(expression: str | None) -> filter_check.FilterTraits | None:
    """What a filter of lists or segments needs; None without a filter, and for a template.

    Raises ValueError, with the position of an error in the syntax.
    """
    if expression is None or "{{" in expression:
        return None
    traits = filter_check.find_traits(expression)
    if traits.uses_current_item:
        raise ValueError(
            "CurrentItem works only in filters of similar items: a user's list has no current item"
        )
    return traits


def find_filter_problem(
    expression: str, schemas: Schemas, values: Mapping[str, str], *, events: bool
) -> str | None:
    """Why Personalize would refuse the filter, or why it matches nothing; None if it works.

    values: the filterValues of an input line.
    events: whether interactions have different event types.
    """
    try:
        for dataset, field in sorted(filter_check.find_used_fields(expression)):
            problem = _explain_missing_field(dataset, field, schemas)
            if problem:
                return problem
        filter_check.check_expression(expression, schemas)
        filter_check.check_values(expression, schemas, values)
        if not events and filter_check.find_event_types(expression) - {"*", EVENT_TYPE_VALUE}:
            return (
                f"Interactions.{EVENT_TYPE} is {EVENT_TYPE_VALUE!r} in every interaction: set"
                " ratings.columns.event_type"
            )
    except FilterExpressionError as error:
        return str(error)
    return None


def find_attributes_problem(expression: str, schemas: Schemas) -> str | None:
    """Why the expression would match no items; None if it works."""
    if ITEMS not in schemas:
        return f"{expression!r} matches nothing: no items with metadata are declared"
    try:
        typed_conditions(expression, schemas[ITEMS])
    except ItemAttributesError as error:
        return str(error)
    return None


def _explain_missing_field(dataset: str, field: str, schemas: Schemas) -> str | None:
    """What to declare for a missing field; None if it exists, or cannot be declared."""
    schema = schemas.get(dataset)
    if schema is not None and schema.field(field) is not None:
        return None
    if dataset == USERS:
        return f"Users.{field} does not exist: pipelines have no users dataset, only items"
    if dataset == ITEMS:
        if schema is None:
            return f"Items.{field} does not exist: no items are declared"
        columns = ", ".join(schema.columns)
        return f"Items.{field} does not exist: items.columns declares only {columns}"
    if (dataset, field) == (INTERACTIONS, EVENT_TYPE):
        return f"Interactions.{EVENT_TYPE} does not exist: declare ratings.columns.event_type"
    return None
