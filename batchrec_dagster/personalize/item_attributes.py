"""`ITEMS.genres = "Comedy" AND ITEMS.year = 1999`: the items that a segment's input line names.

Source: developer guide, "Preparing input data for user segments": equality conditions joined by
AND, on columns of the Items dataset that are not textual. Keywords and names match in any case, as
in filters.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from batchrec_dagster.personalize.schemas import Field, Schema

_CONDITION = re.compile(
    r"""\s* items \s*\.\s* (?P<field>[a-z_]\w*) \s*=\s*
    (?: "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)' | (?P<bare>[\w.+-]+) ) \s*""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL | re.ASCII,
)
_AND = re.compile(r"AND\b", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

Value = str | bool | int | float


class ItemAttributesError(ValueError):
    """The expression cannot be used; the message says why."""


class Condition(NamedTuple):
    """A field of the Items dataset, as spelt in the expression, and the value it must have."""

    field: str
    value: str


def parse_conditions(expression: str) -> list[Condition]:
    """The conditions that AND joins. Raises ItemAttributesError."""
    conditions = []
    start = 0
    while True:
        match = _CONDITION.match(expression, start)
        if match is None:
            break
        value = match["bare"]
        if value is None:
            value = _ESCAPED.sub(r"\1", match["double"] or match["single"] or "")
        conditions.append(Condition(match["field"], value))
        start = match.end()
        if start == len(expression):
            return conditions
        conjunction = _AND.match(expression, start)
        if conjunction is None:
            break
        start = conjunction.end()
    raise ItemAttributesError(
        f"itemAttributes has an error at character {start + 1}: write conditions such as"
        ' ITEMS.genres = "Comedy", joined by AND'
    )


def typed_conditions(expression: str, schema: Schema) -> list[tuple[Field, Value]]:
    """Each condition's field, and its value in the field's type.

    Raises ItemAttributesError, also for what the Items schema does not allow.
    """
    typed = []
    for condition in parse_conditions(expression):
        field = schema.field(condition.field)
        if field is None:
            raise ItemAttributesError(f"the Items schema has no field {condition.field}")
        if field.textual:
            raise ItemAttributesError(f"{field.name} is textual: it cannot be an attribute")
        try:
            typed.append((field, _parse_value(field, condition.value)))
        except ValueError:
            raise ItemAttributesError(
                f"{field.name} is of type {field.type}, but {condition.value!r} is not"
            ) from None
    return typed


def _parse_value(field: Field, text: str) -> Value:
    match field.type:
        case "string":
            return text
        case "boolean":
            if text.lower() not in ("true", "false"):
                raise ValueError(text)
            return text.lower() == "true"
        case "int" | "long":
            whole = int(text)
            if not -(2**63) <= whole < 2**63:
                raise ValueError(text)
            return whole
        case _:
            number = float(text)
            if not math.isfinite(number):
                raise ValueError(text)
            return number
