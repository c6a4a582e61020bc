"""Filter expressions: batchrec's own, and the values that an input line gives to placeholders.

Source: Amazon Personalize developer guide, "Filter expressions", "Batch inference" and "Filtering
batch recommendations and user segments": strings are quoted, numbers are not, several values are
separated by commas: `"\\"horror\\",\\"comedy\\""`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from batchrec_dagster.personalize import filter_grammar as grammar
from batchrec_dagster.personalize.schemas import INTERACTIONS, Schema

# "*" is every event type. Only the latest FILTER_HISTORY interactions of a user and event type
# count, see schemas.py.
EXCLUDE_SEEN = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'


def build_exclude_events(events: Sequence[str]) -> str:
    """The filter that leaves out items with an interaction of one of these types.

    events: types without a quote or a backslash in them.
    """
    return f"EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ({format_values(events)})"


# Of the values of a placeholder on an input line.
MAX_VALUE_LENGTH = 1000


def format_values(values: Iterable[str | float]) -> str:
    """A placeholder's values as an input line gives them: strings quoted, comma-separated."""
    return ",".join(f'"{value}"' if isinstance(value, str) else f"{value}" for value in values)


_VALUE = re.compile(
    rf"\s*(?:(?P<string>{grammar.STRING})|(?P<number>{grammar.NUMBER}))\s*", re.DOTALL
)


@dataclass(frozen=True)
class PlaceholderUse:
    """A placeholder in a comparison, and what its values must be there."""

    placeholder: grammar.Placeholder
    comparison: grammar.Comparison
    is_string: bool
    """Whether its values are strings rather than numbers."""
    required: bool
    """Whether each line needs a value, as in an INCLUDE expression."""

    def problem(self, raw: object) -> str | None:
        """Why the value from `filterValues` is not valid; None if it is."""
        name = self.placeholder.name
        if raw is None:
            problem = f"The filter needs a value for the parameter {name} in filterValues"
            return problem if self.required else None
        if not isinstance(raw, str):
            return f"The value of the filter parameter {name} must be a string"
        values = parse_values(raw)
        if values is None:
            return (
                f"The value of the filter parameter {name} is not valid: it must be quoted strings"
                f" or numbers, separated by commas, but it is {raw[:80]!r}"
            )
        if any(isinstance(value, str) != self.is_string for value in values):
            kind = "quoted strings" if self.is_string else "a number without quotes"
            return f"The value of the filter parameter {name} must be {kind}, for {self.comparison}"
        if len(values) > 1 and self.comparison.operator not in grammar.LISTS:
            return f"The filter parameter {name} takes one value, for {self.comparison}"
        if grammar.ANY_EVENT in values and self.comparison.field.dataset != INTERACTIONS:
            return f'The value of the filter parameter {name} cannot be "*", for {self.comparison}'
        return None


def list_placeholder_uses(
    expressions: tuple[grammar.Expression, ...], schemas: Mapping[str, Schema]
) -> list[PlaceholderUse]:
    """Every use of a placeholder, in expressions that fit the schemas, by dataset type."""
    types = {
        (kind, field.name.upper()): field.type
        for kind, schema in schemas.items()
        for field in schema.fields
    }
    return [
        PlaceholderUse(
            operand,
            comparison,
            types[comparison.field.dataset_type, comparison.field.column] == "string",
            expression.include,
        )
        for expression in expressions
        for comparison in grammar.iterate_comparisons(*expression.conditions)
        for operand in comparison.operands
        if isinstance(operand, grammar.Placeholder)
    ]


def parse_values(text: str) -> tuple[grammar.Literal, ...] | None:
    """The values of a comma-separated list; None if the text is not such a list."""
    values: list[grammar.Literal] = []
    position = 0
    while True:
        match = _VALUE.match(text, position)
        if match is None:
            return None
        quoted, number = match.group("string", "number")
        values.append(grammar.unquote(quoted) if quoted else grammar.parse_number(number))
        position = match.end()
        if position == len(text):
            return tuple(values)
        if text[position] != ",":
            return None
        position += 1
