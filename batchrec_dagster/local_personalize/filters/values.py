"""The values that an input line gives to the placeholders of a filter.

Source: developer guide, "Filtering batch recommendations and user segments": strings are quoted,
numbers are not, several values are separated by commas: `"\\"horror\\",\\"comedy\\""`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from batchrec_dagster.local_personalize.filters.check import LISTS
from batchrec_dagster.personalize.filter_grammar import (
    ANY_EVENT,
    NUMBER,
    STRING,
    Comparison,
    Expression,
    Literal,
    Placeholder,
    comparisons,
    number_value,
    string_value,
)
from batchrec_dagster.personalize.schemas import INTERACTIONS

_VALUE = re.compile(rf"\s*(?:(?P<string>{STRING})|(?P<number>{NUMBER}))\s*", re.DOTALL)


@dataclass(frozen=True)
class Use:
    """Where a placeholder stands, and what its values must be like there."""

    placeholder: Placeholder
    comparison: Comparison
    is_string: bool
    required: bool  # in an INCLUDE expression

    def problem(self, raw: object) -> str | None:
        """Why the value, as it is in `filterValues`, does not do; None when it does."""
        name = self.placeholder.name
        if raw is None:
            wanted = f"The filter needs a value for the parameter {name} in filterValues"
            return wanted if self.required else None
        if not isinstance(raw, str):
            return f"The value of the filter parameter {name} must be a string"
        found = read_values(raw)
        if found is None:
            return (
                f"The value of the filter parameter {name} is not valid: it must be quoted strings"
                f" or numbers, separated by commas, but it is {raw[:80]!r}"
            )
        if any(isinstance(value, str) != self.is_string for value in found):
            kind = "quoted strings" if self.is_string else "a number without quotes"
            return f"The value of the filter parameter {name} must be {kind}, for {self.comparison}"
        if len(found) > 1 and self.comparison.operator not in LISTS:
            return f"The filter parameter {name} takes one value, for {self.comparison}"
        if ANY_EVENT in found and self.comparison.field.dataset != INTERACTIONS:
            return f'The value of the filter parameter {name} cannot be "*", for {self.comparison}'
        return None


def uses(
    expressions: tuple[Expression, ...], is_string: Mapping[tuple[str, str], bool]
) -> list[Use]:
    """Where all placeholders stand; `is_string` by (dataset type, column)."""
    return [
        Use(
            operand,
            comparison,
            is_string[comparison.field.dataset_type, comparison.field.column],
            expression.include,
        )
        for expression in expressions
        for comparison in (*comparisons(expression.where), *expression.users)
        for operand in comparison.operands
        if isinstance(operand, Placeholder)
    ]


def read_values(text: str) -> tuple[Literal, ...] | None:
    """The values, or None when the text is not a list of strings and numbers."""
    values: list[Literal] = []
    at = 0
    while True:
        found = _VALUE.match(text, at)
        if found is None:
            return None
        quoted, number = found.group("string", "number")
        values.append(string_value(quoted) if quoted else number_value(number))
        at = found.end()
        if at == len(text):
            return tuple(values)
        if text[at] != ",":
            return None
        at += 1
