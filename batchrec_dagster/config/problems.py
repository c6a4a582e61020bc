"""Problems with settings: their keys in the YAML, and messages that say what to write."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails

Keys = tuple[str | int, ...]
"""The path to a setting: keys such as ("solution", "event_weights"), and indexes of lists."""

# Errors show this text in place of the value, which may be a secret.
NOT_SHOWN = "not shown"

_TRUE_OR_FALSE = "true or false"
_WHOLE_NUMBER = "a whole number"
# The allowed values, by the error type in pydantic. Names in braces come from the error's context.
_ALLOWED = MappingProxyType(
    {
        "bool_parsing": _TRUE_OR_FALSE,
        "bool_type": _TRUE_OR_FALSE,
        "dict_type": "names with values, such as {{a: b}}",
        "finite_number": "a number",
        "float_parsing": "a number",
        "float_type": "a number",
        "greater_than": "a number above {gt:.15g}",
        "greater_than_equal": "a number of {ge:.15g} or more",
        "int_from_float": _WHOLE_NUMBER,
        "int_parsing": _WHOLE_NUMBER,
        "int_type": _WHOLE_NUMBER,
        "less_than_equal": "a number of {le:.15g} or less",
        "list_type": "a list, such as [a, b]",
        "literal_error": "{expected}",
        "model_type": "its settings on separate lines below it",
        "string_too_short": "at least {min_length} character",
        "too_long": "at most {max_length} of them",
        "string_type": "text, in quotes if it looks like a number",
    }
)
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than_equal")


def raise_problems(problems: Iterable[tuple[Keys, str]]) -> None:
    """Raise ValidationError if there are problems. Validators of settings call this function.

    problems: pairs of the keys within the validated model and the message.
    """
    details = [_build_problem(keys, message) for keys, message in dict(problems).items()]
    if details:
        raise ValidationError.from_exception_data("declaration", details)


def _build_problem(keys: Keys, message: str) -> InitErrorDetails:
    # The type is one of pydantic's own, because Dagster rebuilds each error from its details.
    return InitErrorDetails(
        type="value_error", loc=keys, input=NOT_SHOWN, ctx={"error": ValueError(message)}
    )


def describe_error(error: ErrorDetails) -> str:
    """Return the problem with a setting, or advice on what to write there.

    error: an error from pydantic. Its message is kept if there is no text for the error's type.
    """
    if error["type"] == "missing":
        return "this must be set"
    if error["type"] in _ALLOWED:
        allowed = _ALLOWED[error["type"]].format(**error.get("ctx", {}))
        return "write " + allowed.replace("'", "")
    return error["msg"].removeprefix("Value error, ")


def locate_problems(
    error: ValidationError, settings: Any, schema: Mapping[str, Any]
) -> ValidationError:
    """Return the error with its problems by their keys in the YAML, without the values.

    Several problems of a setting become one problem.

    If a setting may have several types, pydantic reports the problems with each type, under the
    type's name.

    settings: the validated input.
    schema: the JSON schema of the settings.
    """
    problems: dict[Keys, list[str]] = {}
    alternatives = set()
    for detail in error.errors():
        keys = _find_keys(detail["loc"], settings)
        message = describe_error(detail)
        if detail["type"] == "missing":
            keys = (*keys, detail["loc"][-1])
        elif len(keys) < len(detail["loc"]):
            alternatives.add(keys)
        if detail["type"] == "extra_forbidden":
            message = _describe_unknown_setting(str(keys[-1]), schema)
        elif detail["type"] in _OUT_OF_RANGE:
            message = _describe_range(keys, schema) or message
        elif detail["type"] == "dict_type":
            message = _describe_example(keys, schema) or message
        problems.setdefault(keys, []).append(message)
    for keys in alternatives:
        # If settings within the block have problems, the user meant the block. So the problems with
        # the other types are left out.
        if any(other[: len(keys)] == keys and len(other) > len(keys) for other in problems):
            del problems[keys]
    return ValidationError.from_exception_data(
        error.title,
        [_build_problem(keys, _join_alternatives(messages)) for keys, messages in problems.items()],
    )


def _find_keys(location: Keys, settings: Any) -> Keys:
    """Return the location without the parts that pydantic adds, such as types' names."""
    keys: Keys = ()
    for key in location:
        is_key = isinstance(settings, Mapping) and key in settings
        is_index = isinstance(settings, list) and isinstance(key, int) and key < len(settings)
        if is_key or is_index:
            settings = settings[key]
            keys = (*keys, key)
    return keys


def _join_alternatives(messages: Iterable[str]) -> str:
    """Return one sentence made of the messages about each type that the setting may have."""
    first, *further = dict.fromkeys(messages)
    return ", or ".join([first, *(message.removeprefix("write ") for message in further)])


def _describe_unknown_setting(name: str, schema: Mapping[str, Any]) -> str:
    blocks = (schema, *schema["$defs"].values())
    names = {setting for block in blocks for setting in block.get("properties", ())} - {name}
    similar_names = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.8)
    suggestion = f"; did you mean {similar_names[0]}?" if similar_names else ""
    return f"there is no such setting{suggestion}"


def _describe_range(keys: Keys, schema: Mapping[str, Any]) -> str | None:
    """Return what to write if a number has two limits; None if a limit is missing."""
    for setting in _find_schemas(keys, schema, schema["$defs"]):
        least, above = setting.get("minimum"), setting.get("exclusiveMinimum")
        largest = setting.get("maximum")
        if largest is not None and least is not None:
            return f"write a number from {least} to {largest}"
        if largest is not None and above is not None:
            return f"write a number above {above}, at most {largest}"
    return None


def _describe_example(keys: Keys, schema: Mapping[str, Any]) -> str | None:
    """Return an example of names with values; None if the setting has no such example."""
    for setting in _find_schemas(keys, schema, schema["$defs"]):
        for example in setting.get("examples", ()):
            if isinstance(example, dict):
                return f"write names with values, such as {json.dumps(example)}"
    return None


def _find_schemas(
    keys: Keys, schema: Mapping[str, Any], blocks: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a JSON schema that describe the setting with these keys.

    blocks: the schemas that the schema refers to, by name.
    """
    if "$ref" in schema:
        yield from _find_schemas(keys, blocks[schema["$ref"].removeprefix("#/$defs/")], blocks)
    elif "anyOf" in schema:
        for alternative in schema["anyOf"]:
            yield from _find_schemas(keys, alternative, blocks)
    elif not keys:
        yield schema
    else:
        first, *inner_keys = keys
        children = (
            schema.get("properties", {}).get(first),
            schema.get("additionalProperties"),
            schema.get("items"),
        )
        for child in children:
            if isinstance(child, Mapping):
                yield from _find_schemas(tuple(inner_keys), child, blocks)
