"""Checks a request against botocore's model of the service: the constraints AWS checks first.

botocore's client itself checks only types, required members and minimum sizes; a service has to
check maximum, pattern and enumeration too.
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

from batchrec_dagster.local_personalize.errors import InvalidInputError

SERVICE = "personalize"


@cache
def service_model() -> ServiceModel:
    """The model that comes with botocore; one in the user's ~/.aws/models is not looked at."""
    loader = Loader(
        extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False
    )
    return ServiceModel(loader.load_service_model(SERVICE, "service-2"), SERVICE)


@cache
def input_shape(operation: str) -> StructureShape:
    """The shape of an operation's request. Every operation of Personalize has one."""
    shape = service_model().operation_model(operation).input_shape
    if not isinstance(shape, StructureShape):
        raise TypeError(f"{operation} takes no structure")
    return shape


@cache
def member_shape(operation: str, *path: str) -> Shape:
    """The shape of a member of an operation's answer, down a path of structures."""
    members = output_members(operation)
    shape = members[path[0]]
    for name in path[1:]:
        if not isinstance(shape, StructureShape):
            raise TypeError(f"{operation} answers no structure that has {name}")
        shape = shape.members[name]
    return shape


@cache
def output_members(operation: str) -> Mapping[str, Shape]:
    """The members of an operation's answer; empty when it answers with nothing."""
    shape = service_model().operation_model(operation).output_shape
    return shape.members if isinstance(shape, StructureShape) else {}


def pruned(value: Any, shape: Shape) -> Any:
    """`value` with the members that `shape` has and no others; absent (None) members left out."""
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        return {
            name: pruned(value[name], member)
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [pruned(entry, shape.member) for entry in value]
    if shape.type_name == "integer":
        return int(value)  # JSON does not tell 5.0 from 5
    return value


_NAMED = 50  # a message names no more problems than this
_SHOWN = 200  # a message quotes no more of a value than this

# What the model's patterns use of Java's regular expressions and Python's `re` lacks. \w without
# the underscore is letters and digits; Python has no class for separators, so they are listed.
_CLASSES = {
    r"\p{ASCII}": r"[\x00-\x7f]",
    r"\p{L}\p{Z}\p{N}": r"\w \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}


def check_request(params: dict[str, Any], shape: Shape) -> None:
    """Raises InvalidInputError that names every member that breaks a constraint, and which.

    Of very many it names the first: an answer must not be many times as large as its request.
    """
    problems = list(islice(_problems(params, shape, ""), _NAMED + 1))
    if problems:
        more = "More than " if len(problems) > _NAMED else ""
        named = problems[:_NAMED]
        count = f"{more}{len(named)} validation error{'s' if len(named) > 1 else ''} detected"
        raise InvalidInputError(f"{count}: {'; '.join(named)}")


def _problems(value: Any, shape: Shape, path: str) -> Iterator[str]:
    kind = shape.type_name
    if not _has_type(value, kind):
        yield _broken(value, shape, path, f"Member must be a {kind}")
        return
    constraint = _broken_constraint(value, shape)
    if constraint:
        yield _broken(value, shape, path, constraint)
    if isinstance(shape, StructureShape):
        for name in shape.required_members:
            if value.get(name) is None:
                yield _broken(None, shape, _join(path, name), "Member must not be null")
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _problems(value[name], member, _join(path, name))
    elif isinstance(shape, ListShape):
        for position, entry in enumerate(value, start=1):
            yield from _problems(entry, shape.member, _join(path, f"{position}.member"))
    elif isinstance(shape, MapShape):
        for key, entry in value.items():
            yield from _problems(key, shape.key, _join(path, "key"))
            yield from _problems(entry, shape.value, _join(path, f"{key}.value"))


def _broken(value: Any, shape: Shape, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{_shown(value, shape)}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


def _shown(value: Any, shape: Shape) -> str:
    if shape.metadata.get("sensitive"):
        return "***"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


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
    except UnicodeEncodeError:  # half of a surrogate pair is no character
        return False
    return True


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def _broken_constraint(value: Any, shape: Shape) -> str | None:
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
    if pattern and not _compiled(pattern).fullmatch(value):
        return f"Member must satisfy regular expression pattern: {pattern}"
    allowed = getattr(shape, "enum", None)
    if allowed and value not in allowed:
        return f"Member must satisfy enum value set: [{', '.join(allowed)}]"
    return None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    flags = re.RegexFlag(0) if r"\p{L}" in pattern else re.ASCII
    for java, python in _CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern, flags)
