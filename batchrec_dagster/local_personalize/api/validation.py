"""Validates a request against botocore's service model, as AWS does first.

botocore's client checks only types, required members and minimum sizes; a service must also check
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
    """botocore's own model; ignores one in the user's ~/.aws/models."""
    loader = Loader(
        extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False
    )
    return ServiceModel(loader.load_service_model(SERVICE, "service-2"), SERVICE)


@cache
def find_input_shape(operation: str) -> StructureShape:
    """The shape of an operation's request. Every operation of Personalize has one."""
    shape = load_service_model().operation_model(operation).input_shape
    if not isinstance(shape, StructureShape):
        raise TypeError(f"{operation} takes no structure")
    return shape


@cache
def find_output_members(operation: str) -> Mapping[str, Shape]:
    """The members of an operation's response; empty if it has none."""
    shape = load_service_model().operation_model(operation).output_shape
    return shape.members if isinstance(shape, StructureShape) else {}


def prune(value: Any, shape: Shape) -> Any:
    """`value` with only the members of `shape`, without those that are None."""
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        return {
            name: prune(value[name], member)
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [prune(entry, shape.member) for entry in value]
    if shape.type_name == "integer":
        return int(value)  # JSON clients may send 5.0 for 5
    return value


_MAX_PROBLEMS = 50  # named in one message
_MAX_VALUE_CHARS = 200  # quoted in one message

# Character classes of the model's Java patterns that Python's `re` lacks: letters and digits, and a
# list of the separators.
_CLASSES = {
    r"\p{ASCII}": r"[\x00-\x7f]",
    r"\p{L}\p{Z}\p{N}": r"\w \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}


def check_request(params: dict[str, Any], shape: Shape) -> None:
    """Raise InvalidInputError that names each broken constraint and its member.

    Names at most the first _MAX_PROBLEMS, so that the answer stays small.
    """
    problems = list(islice(_find_problems(params, shape, ""), _MAX_PROBLEMS + 1))
    if problems:
        more = "More than " if len(problems) > _MAX_PROBLEMS else ""
        named = problems[:_MAX_PROBLEMS]
        count = f"{more}{len(named)} validation error{'s' if len(named) > 1 else ''} detected"
        raise InvalidInputError(f"{count}: {'; '.join(named)}")


def _find_problems(value: Any, shape: Shape, path: str) -> Iterator[str]:
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
    shown = "null" if value is None else f"'{_make_excerpt(value, shape)}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


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
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def _find_broken_constraint(value: Any, shape: Shape) -> str | None:
    metadata = shape.metadata
    least, most = metadata.get("min"), metadata.get("max")
    if shape.type_name in ("string", "list", "map"):
        size, what = len(value), "length"
    elif _is_number(value):
        size, what = value, "value"
    else:
        return None
    if most is not None and size > most:
        return f"Member must have {what} less than or equal to {most}"
    if least is not None and size < least:
        return f"Member must have {what} greater than or equal to {least}"
    pattern = metadata.get("pattern")
    if pattern and not _compile(pattern).fullmatch(value):
        return f"Member must satisfy regular expression pattern: {pattern}"
    allowed = getattr(shape, "enum", None)
    if allowed and value not in allowed:
        return f"Member must satisfy enum value set: [{', '.join(allowed)}]"
    return None


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    flags = re.RegexFlag(0) if r"\p{L}" in pattern else re.ASCII
    for java, python in _CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern, flags)
