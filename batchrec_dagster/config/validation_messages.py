"""pydantic's errors in batchrec's words: what is wrong with a setting, and what to write."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

UNKNOWN_SETTING = "there is no such setting"

_LINES = "its settings on separate lines below it"
_LIST = "a list, such as [a, b]"
_TRUE_OR_FALSE = "true or false"
_TEXT = "text, in quotes if it looks like a number"
_WHOLE_NUMBER = "a whole number"

# What to write, by pydantic's type of the error.
_ALLOWED = MappingProxyType(
    {
        "bool_parsing": _TRUE_OR_FALSE,
        "bool_type": _TRUE_OR_FALSE,
        "dict_type": "names with values, such as {a: b}",
        "finite_number": "a number",
        "float_parsing": "a number",
        "float_type": "a number",
        "int_from_float": _WHOLE_NUMBER,
        "int_parsing": _WHOLE_NUMBER,
        "int_type": _WHOLE_NUMBER,
        "list_type": _LIST,
        "model_attributes_type": _LINES,
        "model_type": _LINES,
        "set_type": _LIST,
        "string_type": _TEXT,
        "tuple_type": _LIST,
    }
)


def describe_error(error_type: str, message: str) -> str:
    """What is wrong with the setting, or what to write there.

    error_type: pydantic's type of the error, such as `missing`.
    message: pydantic's message, which is kept if the type is not one of those that settings have.
    """
    if error_type in _ALLOWED:
        return f"write {_ALLOWED[error_type]}"
    match error_type:
        case "missing":
            return "this must be set"
        case "extra_forbidden":
            return UNKNOWN_SETTING
        case "literal_error":
            return message.replace("Input should be", "write").replace("'", "")
    return message.removeprefix("Value error, ")


def join_alternatives(messages: Sequence[str]) -> str:
    """One sentence for the messages about each type that a setting may have."""
    distinct = list(dict.fromkeys(messages))
    if all(message.startswith("write ") for message in distinct):
        return "write " + ", or ".join(message.removeprefix("write ") for message in distinct)
    return ", or: ".join(distinct)
