"""Fingerprints, validators, errors by key, and checks of filters against the declared datasets.

Filters and item attributes that Personalize would refuse fail at load time.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError, field_validator
from pydantic_core import InitErrorDetails

from batchrec_dagster.personalize import filter_check
from batchrec_dagster.personalize.filter_grammar import FilterExpressionError
from batchrec_dagster.personalize.item_attributes import ItemAttributesError, typed_conditions
from batchrec_dagster.personalize.schemas import EVENT_TYPE, INTERACTIONS, ITEMS, USERS, Schema
from batchrec_dagster.preparation.rules import EVENT_TYPE_VALUE
from batchrec_dagster.preparation.sources.errors import SourceError


def fingerprint(*parts: BaseModel | object) -> str:
    """16 hex digits that change when any of the settings does."""
    text = "\n".join(
        part.model_dump_json() if isinstance(part, BaseModel) else repr(part) for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_field_errors(messages: Mapping[tuple[str, ...], str]) -> ValidationError:
    """The error for a validator to raise.

    messages: each by its keys within the validated model.
    """
    return ValidationError.from_exception_data(
        "declaration",
        [
            # A type of pydantic's own, as Dagster rebuilds each error from its details.
            InitErrorDetails(
                type="value_error", loc=keys, input=None, ctx={"error": ValueError(message)}
            )
            for keys, message in messages.items()
        ],
    )


def validate_range(
    *fields: str, least: float | None = None, above: float | None = None, most: float | None = None
) -> Any:
    """A validator for numbers, which must be finite and within these bounds.

    Dagster's models take no constraints in the fields themselves.

    least: the smallest number allowed.
    above: numbers must be larger than this.
    most: the largest number allowed.
    """

    def check(number: float | None) -> float | None:
        fits = number is None or (
            math.isfinite(number)
            and (least is None or number >= least)
            and (above is None or number > above)
            and (most is None or number <= most)
        )
        if not fits:
            bounds = {"from": least, "above": above, "to": most}
            limits = [f" {word} {bound}" for word, bound in bounds.items() if bound is not None]
            raise ValueError("write a number" + "".join(limits))
        return number

    return field_validator(*fields)(check)


def validate_with(check: Callable[[str], object], *fields: str) -> Any:
    """A validator for texts, which `check` must not refuse once templates are filled in.

    check: raises ValueError or SourceError for a text that is not allowed.
    """

    def check_filled(text: str | None) -> str | None:
        try:
            if text is not None and "{{" not in text:
                check(text)
        except SourceError as error:
            raise ValueError(str(error)) from None
        return text

    return field_validator(*fields)(check_filled)


def validate_pattern(*fields: str, pattern: str, or_else: str, or_template: bool = False) -> Any:
    """A validator for texts, which must match the whole pattern.

    or_else: the message for other texts, which says what to write.
    or_template: whether templates are allowed. They are where the model is also made of what was
        declared, before templates are filled in.
    """

    def check(text: str | None) -> str | None:
        template = or_template and "{{" in (text or "")
        if text is not None and not template and not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(or_else)
        return text

    return field_validator(*fields)(check)


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
        raise ValueError("CurrentItem only works for similar items: here there is none")
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
                f"Interactions.{EVENT_TYPE} is {EVENT_TYPE_VALUE!r} for all: declare"
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
