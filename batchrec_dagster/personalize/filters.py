"""Filter expressions: the grammar, the parser, and the filters that batchrec itself writes.

Source: developer guide, "Filter expression structure and elements". Where the guide is silent,
SQL's rules apply: AND binds tighter than OR, and parentheses group conditions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, USERS

ITEM_TARGET, USER_TARGET, ACTION_TARGET = "ITEMID", "USERID", "ACTIONID"
CURRENT_USER = "CURRENTUSER"
ANY_EVENT = "*"  # matches every event type
# The operators that take a list of values.
LISTS = ("IN", "NOT IN")

# The guide's spelling of the datasets. Any case is accepted.
DATASETS = {
    ITEMS: "Items",
    USERS: "Users",
    INTERACTIONS: "Interactions",
    CURRENT_USER: "CurrentUser",
}
# AWS's own samples use both kinds of quotes.
STRING = r""""[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*'"""
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_ESCAPED = re.compile(r"""\\(["'\\])""")

Literal = str | int | float


class FilterExpressionError(ValueError):
    """A filter expression that cannot be used. The message says why."""


@dataclass(frozen=True)
class FieldRef:
    """A field of a dataset. Both names are in upper case, because case does not matter."""

    dataset: str
    column: str

    def __str__(self) -> str:
        return f"{DATASETS.get(self.dataset, self.dataset)}.{self.column}"

    @property
    def dataset_type(self) -> str:
        """The type of the dataset that holds the field."""
        return USERS if self.dataset == CURRENT_USER else self.dataset


@dataclass(frozen=True)
class Comparison:
    """A comparison of a field with a value or, for IN and NOT IN, with a list of values."""

    field: FieldRef
    operator: str
    operands: tuple[Literal, ...]
    in_parentheses: bool

    def __str__(self) -> str:
        return f"{self.field} {self.operator}"


@dataclass(frozen=True)
class And:
    """Conditions joined with AND."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Or:
    """Conditions joined with OR."""

    parts: tuple[Condition, ...]


Condition = Comparison | And | Or


@dataclass(frozen=True)
class Expression:
    """A single expression of the chain that `|` forms."""

    include: bool
    """Whether the expression is INCLUDE rather than EXCLUDE."""
    target: str
    where: Condition
    users: tuple[Comparison, ...]
    """The IF conditions, which must all hold."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions of the expression, including the IF conditions."""
        return self.where, *self.users

    @property
    def on_interactions(self) -> bool:
        """Whether the expression uses interactions. If so, it uses no other dataset."""
        return next(iterate_comparisons(self.where)).field.dataset == INTERACTIONS


def iterate_comparisons(*conditions: Condition) -> Iterator[Comparison]:
    """Yield all comparisons in the conditions, in order."""
    stack = list(reversed(conditions))
    while stack:
        current = stack.pop()
        if isinstance(current, Comparison):
            yield current
        else:
            stack.extend(reversed(current.parts))


def list_fields(expressions: tuple[Expression, ...]) -> set[tuple[str, str]]:
    """Return the distinct dataset fields in the expressions, as (dataset type, column)."""
    conditions = [condition for expression in expressions for condition in expression.conditions]
    refs = [comparison.field for comparison in iterate_comparisons(*conditions)]
    return {(ref.dataset_type, ref.column) for ref in refs}


def parse_number(text: str) -> int | float:
    """Return an int if the number fits into 64 bits, else the nearest float."""
    if len(text) <= 20 and text.lstrip("+-").isdigit() and -(2**63) <= int(text) < 2**63:
        return int(text)
    return float(text)


MAX_LENGTH = 2500

_GRAMMAR = rf"""
start: expression ("|" expression)*
condition: either
expression: ACTION TARGET _WHERE either [_IF users]
users: comparison (_AND comparison)*
?either: all (_OR all)*
?all: term (_AND term)*
?term: comparison | "(" either ")"
comparison: subject operator operands
operator: COMPARE | IN | NOT IN
operands: operand | LPAR operand ("," operand)* ")"
?operand: STRING | NUMBER
subject: NAME "." NAME

ACTION: /(?:INCLUDE|EXCLUDE)\b/i
TARGET: /(?:ITEM|USER|ACTION)ID\b/i
_WHERE: /WHERE\b/i
_IF: /IF\b/i
_AND: /AND\b/i
_OR: /OR\b/i
IN: /IN\b/i
NOT: /NOT\b/i
COMPARE: /[<>!]=|[<>=]/
LPAR: "("
NAME: /[A-Za-z_][A-Za-z0-9_]*/
STRING: /{STRING}/s
NUMBER: /{NUMBER}/
%ignore /\s+/
"""

_EXPECTED = {
    "ACTION": "INCLUDE or EXCLUDE",
    "TARGET": "ItemID or UserID",
    "_WHERE": "WHERE",
    "_IF": "IF",
    "_AND": "AND",
    "_OR": "OR",
    "IN": "IN",
    "NOT": "NOT IN",
    "COMPARE": "=, !=, <, <=, >, >=",
    "LPAR": '"("',
    "RPAR": '")"',
    "COMMA": '","',
    "DOT": '"."',
    "VBAR": '"|"',
    "NAME": "a name",
    "STRING": "a quoted string",
    "NUMBER": "a number",
    "$END": "the end",
}
_WORD = re.compile(r"\w+|.", re.DOTALL)


class _Builder(Transformer[Token, Any]):
    """A builder of syntax trees. The parser calls its methods rule by rule, without recursion."""

    def start(self, children: list[Any]) -> tuple[Expression, ...]:
        return tuple(children)

    def condition(self, children: list[Any]) -> Condition:
        condition: Condition = children[0]
        return condition

    def expression(self, children: list[Any]) -> Expression:
        action, target, where, *users = children
        conditions = users[0] if users and users[0] else ()
        return Expression(action.upper() == "INCLUDE", target.upper(), where, conditions)

    def users(self, children: list[Any]) -> tuple[Comparison, ...]:
        return tuple(children)

    def either(self, children: list[Any]) -> Or:
        return Or(tuple(children))

    def all(self, children: list[Any]) -> And:
        return And(tuple(children))

    def comparison(self, children: list[Any]) -> Comparison:
        field, operator, (operands, in_parentheses) = children
        return Comparison(field, operator, operands, in_parentheses)

    def operator(self, children: list[Token]) -> str:
        return " ".join(child.upper() for child in children)

    def operands(self, children: list[Any]) -> tuple[tuple[Any, ...], bool]:
        in_parentheses = isinstance(children[0], Token)
        return tuple(children[in_parentheses:]), in_parentheses

    def subject(self, children: list[Token]) -> FieldRef:
        dataset, name = children
        return FieldRef(dataset.upper(), name.upper())

    def STRING(self, token: Token) -> str:  # noqa: N802 - named after the terminal
        return _ESCAPED.sub(r"\1", token[1:-1])

    def NUMBER(self, token: Token) -> int | float:  # noqa: N802
        return parse_number(token)


@cache
def _parser() -> Lark:
    return Lark(
        _GRAMMAR,
        parser="lalr",
        transformer=_Builder(),
        maybe_placeholders=False,
        start=["start", "condition"],
    )


@lru_cache(maxsize=128)
def parse(text: str) -> tuple[Expression, ...]:
    """Return a filter's expressions, which `|` chains. They are not checked against a schema.

    Raises FilterExpressionError, with the position of the syntax error.
    """
    expressions: tuple[Expression, ...] = _parse(text, "start")
    return expressions


@lru_cache(maxsize=128)
def parse_condition(text: str) -> Condition:
    """Parse a condition on its own, without WHERE. It is not checked against a schema.

    Raises FilterExpressionError, with the position of the syntax error.
    """
    condition: Condition = _parse(text, "condition")
    return condition


def parse_attributes(expression: str) -> Condition:
    """Return the condition in an input line for aws-item-attribute-affinity.

    The condition is on items' attributes.

    Source: developer guide, "Preparing input data for user segments": equality conditions on Items,
    joined by AND.
    Raises FilterExpressionError for any other condition.
    """
    condition = parse_condition(expression)
    stack = [condition]
    for part in stack:
        if isinstance(part, And):
            stack.extend(part.parts)
        elif isinstance(part, Or) or part.operator != "=" or part.field.dataset != ITEMS:
            raise FilterExpressionError(
                "Invalid Expression at character 1: write conditions such as"
                ' ITEMS.genres = "Comedy", joined by AND.'
            )
    return condition


def build_exclude_events(events: Sequence[str]) -> str:
    """Return a filter that leaves out items with an interaction of one of the given types.

    events: event types that contain no quote and no backslash.
    """
    names = ",".join(f'"{event}"' for event in events)
    return f"EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ({names})"


# Personalize considers only the latest interactions: FILTER_HISTORY for each user and event type.
EXCLUDE_SEEN = build_exclude_events([ANY_EVENT])


def _parse(text: str, start: str) -> Any:
    """Return the syntax tree of the text, which must match the grammar's rule `start`."""
    if len(text) > MAX_LENGTH:
        raise FilterExpressionError(
            f"The expression has {len(text)} characters; {MAX_LENGTH} at most are allowed."
        )
    try:
        return _parser().parse(text, start=start)
    except UnexpectedInput as error:
        raise FilterExpressionError(_explain(error, text)) from None


def _explain(error: UnexpectedInput, text: str) -> str:
    """Describe where the text breaks the grammar, and what the grammar allows there."""
    expected: set[str] = set()
    if isinstance(error, UnexpectedCharacters):
        expected = error.allowed or set()
    elif isinstance(error, UnexpectedToken):
        expected = error.expected
    names = [words for name, words in _EXPECTED.items() if name in expected]
    expectation = f"; expected: {', '.join(names)}" if names else ""
    position = error.pos_in_stream
    if (
        position is None
        or position >= len(text)
        or (isinstance(error, UnexpectedToken) and not error.token)
    ):
        return f"Invalid Expression: it ends too early, after {text[-30:]!r}{expectation}."
    word = _WORD.match(text, position)
    assert word is not None
    return (
        f"Invalid Expression: unexpected {word[0][:40]!r} at character {position + 1}{expectation}."
    )
