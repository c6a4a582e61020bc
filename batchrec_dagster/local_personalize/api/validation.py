"""Validates requests against botocore's service model, which AWS does first, too.

botocore's client checks only types, required members and minimum sizes. A service must also check
maximum sizes, patterns and enumerations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape

from ..errors import InvalidInputError

SERVICE = "personalize"


@cache
def load_service_model() -> ServiceModel:
    """Return botocore's model of Amazon Personalize, whatever is in the user's ~/.aws/models."""
    loader = Loader(
        extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False
    )
    return ServiceModel(loader.load_service_model(SERVICE, "service-2"), SERVICE)


@cache
def find_input_shape(operation: str) -> StructureShape:
    """Return the shape of an operation's request. Every operation of Amazon Personalize has one."""
    shape = load_service_model().operation_model(operation).input_shape
    if not isinstance(shape, StructureShape):
        raise TypeError(f"{operation} takes no structure")
    return shape


@cache
def find_output_members(operation: str) -> Mapping[str, Shape]:
    """Return the shape of each member of an operation's response, by name."""
    shape = load_service_model().operation_model(operation).output_shape
    return shape.members if isinstance(shape, StructureShape) else {}


def prune(value: Any, shape: Shape) -> Any:
    """Return the value with the members that its shape has, without those that are None."""
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        return {
            name: prune(value[name], member)
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [prune(entry, shape.member) for entry in value]
    if shape.type_name == "integer":
        # JSON clients may send 5.0 for 5.
        return int(value)
    return value


_MAX_PROBLEMS = 50
"""How many problems a message names."""

_MAX_VALUE_CHARS = 200
"""How many characters of a value a message quotes."""

# Character classes in the model's patterns, which are Java's, that Python's `re` lacks. The second
# one is letters and digits, and a list of the separators.
_CHARACTER_CLASSES = {
    r"\p{ASCII}": r"[\x00-\x7f]",
    r"\p{L}\p{Z}\p{N}": r"\w \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}


def check_request(params: dict[str, Any], shape: Shape) -> None:
    """Raise InvalidInputError if the parameters break a constraint of the service model.

    The message names each broken constraint and its member, but at most the first _MAX_PROBLEMS,
    so that the response stays small.
    """
    problems = list(islice(_find_problems(params, shape, ""), _MAX_PROBLEMS + 1))
    if not problems:
        return
    more = "More than " if len(problems) > _MAX_PROBLEMS else ""
    named = problems[:_MAX_PROBLEMS]
    plural = "s" if len(named) > 1 else ""
    raise InvalidInputError(
        f"{more}{len(named)} validation error{plural} detected: {'; '.join(named)}"
    )


def _find_problems(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Yield a sentence for each constraint that the value or a part of it breaks.

    path: the value's place in the request, such as `tags.1.member`. Empty for the request itself.
    """
    kind = shape.type_name
    if not _has_type(value, kind):
        yield _describe_violation(value, shape, path, f"Member must be a {kind}")
        return
    constraint = _find_broken_constraint(value, shape)
    if constraint:
        yield _describe_violation(value, shape, path, constraint)
    if isinstance(shape, StructureShape):
        for name in shape.required_members:
            if value.get(name) is None:
                yield _describe_violation(None, shape, _join(path, name), "Member must not be null")
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _find_problems(value[name], member, _join(path, name))
    elif isinstance(shape, ListShape):
        for position, entry in enumerate(value, start=1):
            yield from _find_problems(entry, shape.member, _join(path, f"{position}.member"))
    elif isinstance(shape, MapShape):
        for key, entry in value.items():
            yield from _find_problems(key, shape.key, _join(path, "key"))
            yield from _find_problems(entry, shape.value, _join(path, f"{key}.value"))


def _describe_violation(value: Any, shape: Shape, path: str, constraint: str) -> str:
    quoted = "null" if value is None else f"'{_make_excerpt(value, shape)}'"
    return f"Value {quoted} at '{path}' failed to satisfy constraint: {constraint}"


def _make_excerpt(value: Any, shape: Shape) -> str:
    if shape.metadata.get("sensitive"):
        return "***"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_VALUE_CHARS else text[:_MAX_VALUE_CHARS] + "…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _has_type(value: Any, kind: str) -> bool:
    match kind:
        case "structure" | "map":
            return isinstance(value, dict)
        case "list":
            return isinstance(value, list)
        case "string":
            return _is_text(value)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return _is_number(value) and value == int(value) and -(2**31) <= value < 2**31
        case _:
            return _is_number(value)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        # It has a lone surrogate, which JSON can name but no encoding can store.
        return False
    return True


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _find_broken_constraint(value: Any, shape: Shape) -> str | None:
    """Return the first constraint on its size, pattern or values that a value breaks, or None."""
    metadata = shape.metadata
    minimum, maximum = metadata.get("min"), metadata.get("max")
    if shape.type_name in ("string", "list", "map"):
        size, size_name = len(value), "length"
    elif _is_number(value):
        size, size_name = value, "value"
    else:
        return None
    if maximum is not None and size > maximum:
        return f"Member must have {size_name} less than or equal to {maximum}"
    if minimum is not None and size < minimum:
        return f"Member must have {size_name} greater than or equal to {minimum}"
    pattern = metadata.get("pattern")
    if pattern and not _compile(pattern).fullmatch(value):
        return f"Member must satisfy regular expression pattern: {pattern}"
    allowed = getattr(shape, "enum", None)
    if allowed and value not in allowed:
        return f"Member must satisfy enum value set: [{', '.join(allowed)}]"
    return None


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the service model, translated from Java's regular expressions."""
    flags = re.RegexFlag(0) if r"\p{L}" in pattern else re.ASCII
    for java, python in _CHARACTER_CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern, flags)
