"""What a filter expression says, once it has been read: parts, conditions, values.

Source: developer guide, "Filter expression structure and elements".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from batchrec_dagster.formats.schemas import INTERACTIONS, ITEMS, USERS

ITEM_TARGET, USER_TARGET, ACTION_TARGET = "ITEMID", "USERID", "ACTIONID"
CURRENT_USER, CURRENT_ITEM = "CURRENTUSER", "CURRENTITEM"
ANY_EVENT = "*"

# How each dataset is spelt in the guide; any case is taken.
DATASETS = {
    ITEMS: "Items",
    USERS: "Users",
    INTERACTIONS: "Interactions",
    CURRENT_USER: "CurrentUser",
    CURRENT_ITEM: "CurrentItem",
}
# AWS's own samples quote with either mark.
STRING = r""""[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*'"""
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_ESCAPED = re.compile(r"""\\(["'\\])""")

Literal = str | int | float


class FilterError(ValueError):
    """The expression cannot be used; the message says why."""


@dataclass(frozen=True)
class FieldRef:
    """A field of a dataset; both names in upper case, for case does not matter."""

    dataset: str
    column: str

    def __str__(self) -> str:
        return f"{DATASETS.get(self.dataset, self.dataset)}.{self.column}"

    @property
    def dataset_type(self) -> str:
        """The type of the dataset that has the values."""
        return {CURRENT_USER: USERS, CURRENT_ITEM: ITEMS}.get(self.dataset, self.dataset)


@dataclass(frozen=True)
class Placeholder:
    """`$NAME`: its values come with each input line. The name's case matters."""

    name: str


Variable = Placeholder | FieldRef  # stands for a value that comes with the line
Operand = Literal | Variable


@dataclass(frozen=True)
class Comparison:
    """A field against one value, or against a list of them with IN and NOT IN."""

    field: FieldRef
    operator: str
    operands: tuple[Operand, ...]
    in_parentheses: bool

    def __str__(self) -> str:
        return f"{self.field} {self.operator}"


@dataclass(frozen=True)
class All:
    """Conditions joined with AND."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Either:
    """Conditions joined with OR."""

    parts: tuple[Condition, ...]


Condition = Comparison | All | Either


@dataclass(frozen=True)
class Expression:
    """One of the expressions that `|` chains; it counts for users of whom all of `users` hold."""

    include: bool
    target: str
    where: Condition
    users: tuple[Comparison, ...]

    @property
    def on_interactions(self) -> bool:
        """Whether it looks at interactions; then it looks at nothing else."""
        return next(comparisons(self.where)).field.dataset == INTERACTIONS


def comparisons(condition: Condition) -> Iterator[Comparison]:
    """All comparisons of a condition, in order."""
    waiting = [condition]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Comparison):
            yield found
        else:
            waiting.extend(reversed(found.parts))


def fields(expressions: tuple[Expression, ...]) -> set[tuple[str, str]]:
    """The distinct dataset fields, as (dataset type, column)."""
    used = set()
    for expression in expressions:
        for comparison in (*comparisons(expression.where), *expression.users):
            refs = [o for o in comparison.operands if isinstance(o, FieldRef)]
            used |= {(ref.dataset_type, ref.column) for ref in (comparison.field, *refs)}
    return used


def string_value(text: str) -> str:
    """What a quoted string says."""
    return _ESCAPED.sub(r"\1", text[1:-1])


def number_value(text: str) -> int | float:
    """A whole number where it fits into a long, else the nearest double."""
    if len(text) <= 20 and text.lstrip("+-").isdigit() and -(2**63) <= int(text) < 2**63:
        return int(text)
    return float(text)
