"""The validation of requests against botocore's service model, before all other checks, as on AWS.

botocore's client checks only types, required members and minimum sizes. A service must also check
maximum sizes, patterns and enumerations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape

from ..errors import InvalidInputError

SERVICE = "personalize"

_MAX_PROBLEMS, _MAX_QUOTED = 50, 200
"""The largest number of problems in a message, and of quoted characters of a value."""

# The model's patterns are Java's. Python's `re` lacks these character classes. The second class is
# translated to letters, digits and a list of the separators.
_CHARACTER_CLASSES = {
    r"\p{ASCII}": r"[\x00-\x7f]",
    r"\p{L}\p{Z}\p{N}": r"\w \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    # JSON text can contain an escaped lone surrogate, which UTF-8 cannot store.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "structure": lambda value: isinstance(value, dict),
    "map": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "string": _is_text,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and value == int(value) and abs(value) < 2**31,
    "double": _is_number,
    "float": _is_number,
    "long": _is_number,
}


@cache
def load_service_model() -> ServiceModel:
    """Return botocore's model of Amazon Personalize, ignoring models in ~/.aws/models."""
    loader = Loader(
        extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False
    )
    return ServiceModel(loader.load_service_model(SERVICE, "service-2"), SERVICE)


@cache
def find_output_members(operation: str) -> Mapping[str, Shape]:
    """Return the shape of each member of an operation's response, by name."""
    shape = load_service_model().operation_model(operation).output_shape
    return shape.members if isinstance(shape, StructureShape) else {}


def prune(value: Any, shape: Shape) -> Any:
    """Return the value with only the members in its shape, without members that are None."""
    if isinstance(shape, StructureShape):
        members = {name: value.get(name) for name in shape.members}
        return {
            name: prune(member, shape.members[name])
            for name, member in members.items()
            if member is not None
        }
    if isinstance(shape, ListShape):
        return [prune(entry, shape.member) for entry in value]
    # JSON clients may send 5.0 in place of 5.
    return int(value) if shape.type_name == "integer" else value


def check_request(params: dict[str, Any], shape: Shape) -> None:
    """Raise InvalidInputError if the parameters break a constraint of the service model.

    The message names each broken constraint and its member, up to a limit that keeps the response
    small.
    """
    problems = list(islice(_find_problems(params, shape, ""), _MAX_PROBLEMS))
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
        raise InvalidInputError(f"{count}: {'; '.join(problems)}")


def _find_problems(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Yield a sentence for the first constraint that the value breaks.

    If the value itself is valid, yield the sentences for its parts.

    path: the value's place in the request, such as `tags.1.member`. Empty for the request itself.
    """
    for constraint in _find_broken_constraints(value, shape):
        text = "***" if shape.metadata.get("sensitive") else str(value)
        quoted = "null" if value is None else f"'{text[:_MAX_QUOTED]}'"
        yield f"Value {quoted} at '{path}' failed to satisfy constraint: {constraint}"
        return
    parts: list[tuple[str, Any, Shape]] = []
    if isinstance(shape, StructureShape):
        parts = [
            (name, value.get(name), member)
            for name, member in shape.members.items()
            if value.get(name) is not None or name in shape.required_members
        ]
    elif isinstance(shape, ListShape):
        parts = [(f"{number}.member", entry, shape.member) for number, entry in enumerate(value, 1)]
    elif isinstance(shape, MapShape):
        parts = [("key", key, shape.key) for key in value]
        parts += [(f"{key}.value", entry, shape.value) for key, entry in value.items()]
    for name, part, part_shape in parts:
        yield from _find_problems(part, part_shape, f"{path}.{name}" if path else name)


def _find_broken_constraints(value: Any, shape: Shape) -> Iterator[str]:
    """Yield the constraints that the value itself breaks."""
    if value is None:
        yield "Member must not be null"
    elif not _TYPES[shape.type_name](value):
        yield f"Member must be a {shape.type_name}"
    elif shape.type_name not in ("structure", "boolean"):
        size, what = (value, "value") if _is_number(value) else (len(value), "length")
        least, most = shape.metadata.get("min", -math.inf), shape.metadata.get("max", math.inf)
        if size > most:
            yield f"Member must have {what} less than or equal to {most}"
        if size < least:
            yield f"Member must have {what} greater than or equal to {least}"
        pattern, allowed = shape.metadata.get("pattern"), getattr(shape, "enum", None)
        if pattern and not _compile(pattern).fullmatch(value):
            yield f"Member must satisfy regular expression pattern: {pattern}"
        if allowed and value not in allowed:
            yield f"Member must satisfy enum value set: [{', '.join(allowed)}]"


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the service model, translated from Java's regular expressions."""
    flags = re.RegexFlag(0) if r"\p{L}" in pattern else re.ASCII
    for java, python in _CHARACTER_CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern, flags)
