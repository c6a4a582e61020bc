"""The grammar of filter expressions, and how one is read.

Source: developer guide, "Filter expression structure and elements". The guide does not say which
of AND and OR binds tighter, nor whether conditions may stand in parentheses: as in SQL, AND does,
and they may.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from batchrec_dagster.local_personalize.filters.syntax import (
    NUMBER,
    STRING,
    All,
    Comparison,
    Either,
    Expression,
    FieldRef,
    FilterError,
    Placeholder,
    number_value,
    string_value,
)

MAX_LENGTH = 2500

_GRAMMAR = rf"""
start: expression ("|" expression)*
expression: ACTION TARGET _WHERE either [_IF users]
users: comparison (_AND comparison)*
?either: all (_OR all)*
?all: term (_AND term)*
?term: comparison | "(" either ")"
comparison: subject operator operands
operator: COMPARE | IN | NOT IN
operands: operand | LPAR operand ("," operand)* ")"
?operand: STRING | NUMBER | PLACEHOLDER | reference
subject: NAME "." NAME
reference: NAME "." NAME

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
PLACEHOLDER: /\$[A-Za-z0-9_]+/
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
    "PLACEHOLDER": "a $PLACEHOLDER",
    "STRING": "a quoted string",
    "NUMBER": "a number",
    "$END": "the end",
}
_WORD = re.compile(r"\w+|.", re.DOTALL)


class _Builder(Transformer[Token, Any]):
    """From matched rules to syntax; the parser calls it rule by rule, so nothing recurses."""

    def start(self, children: list[Any]) -> tuple[Expression, ...]:
        return tuple(children)

    def expression(self, children: list[Any]) -> Expression:
        action, target, where, *users = children
        conditions = users[0] if users and users[0] else ()
        return Expression(action.upper() == "INCLUDE", target.upper(), where, conditions)

    def users(self, children: list[Any]) -> tuple[Comparison, ...]:
        return tuple(children)

    def either(self, children: list[Any]) -> Either:
        return Either(tuple(children))

    def all(self, children: list[Any]) -> All:
        return All(tuple(children))

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

    reference = subject

    def PLACEHOLDER(self, token: Token) -> Placeholder:  # noqa: N802 - named after the terminal
        return Placeholder(token[1:])

    def STRING(self, token: Token) -> str:  # noqa: N802
        return string_value(str(token))

    def NUMBER(self, token: Token) -> int | float:  # noqa: N802
        return number_value(token)


_PARSER = Lark(_GRAMMAR, parser="lalr", transformer=_Builder(), maybe_placeholders=False)


@lru_cache(maxsize=128)
def parse(text: str) -> tuple[Expression, ...]:
    """The expressions of a filter, as `|` chains them; whether they make sense is not checked.

    Raises FilterError, with the place, for what is no expression.
    """
    if len(text) > MAX_LENGTH:
        raise FilterError(
            f"The expression has {len(text)} characters; {MAX_LENGTH} at most are allowed."
        )
    try:
        expressions: tuple[Expression, ...] = _PARSER.parse(text)  # type: ignore[assignment]
    except UnexpectedInput as error:
        raise FilterError(_explained(error, text)) from None
    return expressions


def _explained(error: UnexpectedInput, text: str) -> str:
    expected: set[str] = set()
    if isinstance(error, UnexpectedCharacters):
        expected = error.allowed or set()
    elif isinstance(error, UnexpectedToken):
        expected = error.expected
    wanted = [words for name, words in _EXPECTED.items() if name in expected]
    listed = f"; expected: {', '.join(wanted)}" if wanted else ""
    at = error.pos_in_stream
    if at is None or at >= len(text) or (isinstance(error, UnexpectedToken) and not error.token):
        return f"Invalid Expression: it ends too early, after {text[-30:]!r}{listed}."
    word = _WORD.match(text, at)
    assert word is not None
    return f"Invalid Expression: unexpected {word[0][:40]!r} at character {at + 1}{listed}."
