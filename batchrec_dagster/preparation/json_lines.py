"""A line of JSON as cells of text: for every engine, with nothing but what Python brings."""

from __future__ import annotations

import json

NOT_AN_OBJECT = "not a JSON object"
# Lines that tell which columns there are.
LOOKED_AT = 10_000


def parse(line: str) -> dict[str, object] | None:
    """The object with its numbers as they are written; None where there is none."""
    try:
        found = json.loads(line.lstrip("\ufeff"), parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def cell(value: object) -> str | None:
    """The value as text; None for what is missing, an object or a list."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            # JSON may have halves of characters, which are no text.
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case float():
            return str(value)
    return None
