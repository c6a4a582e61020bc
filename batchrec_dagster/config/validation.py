"""Errors by key, fingerprints, and filters checked against the declared datasets.

Filters and item attributes that Personalize would refuse fail at load time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails

from batchrec_dagster.personalize.datasets import EVENT_TYPE
from batchrec_dagster.personalize.filter_check import (
    check_expression,
    check_values,
    event_types,
    traits,
    used_fields,
)
from batchrec_dagster.personalize.filter_grammar import FilterError
from batchrec_dagster.personalize.item_attributes import ItemAttributesError, typed_conditions
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, USERS, Schema
from batchrec_dagster.preparation.rules import EVENT_TYPE_VALUE


def fingerprint(*parts: BaseModel | object) -> str:
    """16 hex digits that change when any of the settings does."""
    text = "\n".join(
        part.model_dump_json() if isinstance(part, BaseModel) else repr(part) for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def field_errors(messages: Mapping[tuple[str, ...], str]) -> ValidationError:
    """An error for a validator to raise: what is wrong, by the keys within what it validates."""
    return ValidationError.from_exception_data(
        "declaration",
        [
            # Of pydantic's own types, for Dagster makes each detail into an error once more.
            InitErrorDetails(
                type="value_error", loc=keys, input=None, ctx={"error": ValueError(message)}
            )
            for keys, message in messages.items()
        ],
    )


Schemas = Mapping[str, Schema]  # by dataset type


def check_syntax(expression: str) -> None:
    """Raises ValueError, with the place, for what is no filter expression of users' lists."""
    if "{{" not in expression and traits(expression).current_item:
        raise ValueError("CurrentItem is what similar items are asked for: here there is none")


def filter_problem(
    expression: str, schemas: Schemas, values: Mapping[str, str], *, events: bool
) -> str | None:
    """Why Personalize would refuse the filter with these values, as an input line has them, or find
    nothing by it, as there are no `events`: then the type of every interaction is the same."""
    try:
        for dataset, field in sorted(used_fields(expression)):
            if problem := _missing(dataset, field, schemas):
                return problem
        check_expression(expression, schemas)
        check_values(expression, schemas, values)
        if not events and event_types(expression) - {"*", EVENT_TYPE_VALUE}:
            return (
                f"Interactions.{EVENT_TYPE} is {EVENT_TYPE_VALUE!r} for all: declare"
                " ratings.columns.event_type"
            )
    except FilterError as error:
        return str(error)
    return None


def attributes_problem(expression: str, schemas: Schemas) -> str | None:
    """Why the expression would find no items."""
    if ITEMS not in schemas:
        return f"{expression!r} is not answered: no items with metadata are declared"
    try:
        typed_conditions(expression, schemas[ITEMS])
    except ItemAttributesError as error:
        return str(error)
    return None


def _missing(dataset: str, field: str, schemas: Schemas) -> str | None:
    """What to declare for a field that is not there; what nobody can declare is told elsewhere."""
    schema = schemas.get(dataset)
    if schema is not None and schema.field(field) is not None:
        return None
    if dataset == USERS:
        return f"Users.{field} is not there: a pipeline has no dataset of users, only items"
    if dataset == ITEMS:
        only = f"items.columns declares only {', '.join(schema.columns)}" if schema else ""
        return f"Items.{field} is not there: {only or 'no items are declared'}"
    if (dataset, field) == (INTERACTIONS, EVENT_TYPE):
        return f"Interactions.{EVENT_TYPE} is not there: declare ratings.columns.event_type"
    return None
