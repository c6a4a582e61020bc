"""Filter expressions: batchrec's own, and the values that an input line gives to placeholders.

Source: Amazon Personalize developer guide, "Filter expressions", "Batch inference" and "Filtering
batch recommendations and user segments": strings are quoted, numbers are not, several values are
separated by commas: `"\\"horror\\",\\"comedy\\""`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchrec_dagster.personalize.filter_grammar import (
    ANY_EVENT,
    LISTS,
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

# "*" stands for every event type. Only the latest FILTER_HISTORY interactions of a user and event
# type count, see formats.interactions.
EXCLUDE_SEEN = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'

# Of an expression, and of the values of a placeholder on an input line.
MAX_LENGTH = 2500
MAX_VALUE_LENGTH = 1000


def joined(*expressions: str) -> str:
    """One filter of several: a batch job takes no more than one."""
    return " | ".join(expressions)


def placeholders(expression: str) -> set[str]:
    """The names of the values that input lines have to bring: GENRES for $GENRES."""
    return set(re.findall(r"\$(\w+)", _without_texts(expression)))


def targets(expression: str) -> set[str]:
    """What it includes or excludes, in lower case: itemid, userid."""
    found = re.findall(r"\b(?:INCLUDE|EXCLUDE)\s+(\w+)", _without_texts(expression), re.IGNORECASE)
    return {target.lower() for target in found}


def looks_at_interactions(expression: str) -> bool:
    """Whether it speaks of a field of the Interactions dataset."""
    text = _without_texts(expression)
    return re.search(r"\bInteractions\s*\.", text, re.IGNORECASE) is not None


def filter_value(values: Iterable[str | float]) -> str:
    """A placeholder's values as an input line holds them: texts quoted, parted by commas."""
    return ",".join(f'"{value}"' if isinstance(value, str) else f"{value}" for value in values)


def _without_texts(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


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
