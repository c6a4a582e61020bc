"""Checks that filters, conditions and the columns of rules fit the declared datasets.

An expression that Personalize would refuse already fails when the pipeline is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.personalize import conditions
from batchrec_dagster.personalize.conditions import Schemas
from batchrec_dagster.personalize.filters import (
    DATASETS,
    FilterExpressionError,
    iterate_comparisons,
    parse_attributes,
    parse_condition,
)
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    INTERACTIONS,
    ITEM_ID,
    ITEMS,
    USER_ID,
    USERS,
)
from batchrec_dagster.preparation.row_rules import EVENT_TYPE_VALUE


def find_filter_traits(expression: str | None) -> conditions.FilterTraits | None:
    """Return the traits of a filter for lists or segments; None without a filter.

    Raises ValueError, with the position of an error in the syntax.
    """
    if expression is None:
        return None
    return conditions.find_traits(expression)


def find_filter_problem(expression: str, schemas: Schemas, *, has_event_types: bool) -> str | None:
    """Return why Personalize would refuse the filter or why nothing matches; None if it works.

    has_event_types: whether interactions may have event types.
    """
    try:
        for dataset, field in sorted(conditions.find_used_fields(expression)):
            problem = _explain_missing_field(dataset, field, schemas)
            if problem:
                return problem
        conditions.check_expression(expression, schemas)
        other_events = conditions.find_event_types(expression) - {"*", EVENT_TYPE_VALUE}
        if other_events:
            return find_events_problem([*other_events], has_event_types=has_event_types)
    except FilterExpressionError as error:
        return str(error)
    return None


def find_condition_problem(condition: str, dataset: str, schemas: Schemas) -> str | None:
    """Return why the condition on a dataset cannot be used; None if it can.

    dataset: the type of the dataset, ITEMS or USERS.
    """
    try:
        parsed = parse_condition(condition)
        for comparison in iterate_comparisons(parsed):
            field = comparison.field
            if field.dataset == dataset:
                problem = _explain_missing_field(dataset, field.column, schemas)
                if problem:
                    return problem
        conditions.check_condition(parsed, dataset, schemas)
    except FilterExpressionError as error:
        if condition.lstrip()[:7].upper() in ("INCLUDE", "EXCLUDE"):
            return f"write the condition alone, such as {dataset}.COLUMN = 1, without INCLUDE"
        return str(error)
    return None


def find_column_problem(column: str, kind: str, schemas: Schemas) -> str | None:
    """Return why a rule cannot use this column of the items; None if it can.

    kind: categories or numbers, the setting in items.columns that declares such columns.
    """
    problem = _explain_missing_field(ITEMS, column, schemas)
    if problem:
        return problem
    field = schemas[ITEMS].field(column)
    is_text = field is not None and field.type == "string"
    if is_text != (kind == "categories") or column.upper() == ITEM_ID:
        return f"Items.{column} is not one of items.columns.{kind}"
    return None


def find_user_category_problem(column: str, schemas: Schemas) -> str | None:
    """Return why users cannot be grouped by this column; None if they can."""
    problem = _explain_missing_field(USERS, column, schemas)
    if problem:
        return problem
    field = schemas[USERS].field(column)
    if field is None or field.type != "string" or column.upper() == USER_ID:
        return f"Users.{column} is not one of users.columns.categories"
    return None


def find_events_problem(events: Sequence[str], *, has_event_types: bool) -> str | None:
    """Return why no interaction has any of the event types; None if an interaction may have one."""
    if has_event_types or EVENT_TYPE_VALUE in map(str.lower, events):
        return None
    return (
        f"Interactions.{EVENT_TYPE} is {EVENT_TYPE_VALUE!r} in every interaction: set"
        " ratings.columns.event_type"
    )


def explain_open_filter(expression: str | None) -> str | None:
    """Return why the filter lets through items missing in the items file, and a better filter.

    Return None if the filter was not meant to leave out such items. The expression must have a
    valid syntax.
    """
    if expression is None:
        return None
    comparison = conditions.find_open_exclusion(expression)
    if comparison is None:
        return None
    wanted = "IN (…)" if comparison.operator == "NOT IN" else "= …"
    return (
        f"EXCLUDE … {comparison} lets items through that the items file does not have: write"
        f" INCLUDE ItemID WHERE {comparison.field} {wanted}"
    )


def find_attributes_problem(expression: str, schemas: Schemas) -> str | None:
    """Return why the expression would match no items; None if it works."""
    if ITEMS not in schemas:
        return f"{expression!r} matches nothing: no items with metadata are declared"
    try:
        conditions.check_condition(parse_attributes(expression), ITEMS, schemas)
    except FilterExpressionError as error:
        return str(error)
    return None


def _explain_missing_field(dataset: str, field: str, schemas: Schemas) -> str | None:
    """Return what to declare for a missing field.

    None if the field exists, or if no declaration could add it.
    """
    schema = schemas.get(dataset)
    if schema is not None and schema.field(field) is not None:
        return None
    if dataset in (ITEMS, USERS):
        name, block = DATASETS[dataset], dataset.lower()
        if schema is None:
            return f"{name}.{field} does not exist: no {block} are declared"
        columns = ", ".join(schema.columns)
        return f"{name}.{field} does not exist: {block}.columns declares only {columns}"
    if (dataset, field) == (INTERACTIONS, EVENT_TYPE):
        return f"Interactions.{EVENT_TYPE} does not exist: declare ratings.columns.event_type"
    return None
