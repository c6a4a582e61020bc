"""Tests that the local Personalize enforces the constraints of botocore's model, like Amazon's.

Each constraint on a batch operation's input is broken, and just kept. The cases are derived from
the model, so that constraints of a later botocore are tested too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape

from batchrec_dagster_tests.guard.contracts.personalize_walk import OPERATIONS, find_input
from batchrec_dagster_tests.guard.servers.personalize import Local

# For each pattern of the model, the start of a matching text, and a text that makes it longer.
FITTING = {
    None: ("x", "x"),
    r"^[a-zA-Z0-9][a-zA-Z0-9\-_]*": ("a-_9", "Z"),
    r"arn:([a-z\d-]+):personalize:.*:.*:.+": ("arn:aws:personalize:::recipe/x", "x"),
    r"arn:([a-z\d-]+):iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+": (
        "arn:aws:iam::000000000000:role/x",
        "x",
    ),
    r"arn:aws.*:kms:.*:[0-9]{12}:key/.*": ("arn:aws:kms:us-east-1:000000000000:key/", "x"),
    r"(s3|http|https)://.+": ("s3://b/", "x"),
    r"^[A-Za-z_]+$": ("Items", "_"),
    r"[A-Za-z_][A-Za-z\d_]*": ("_A", "0"),
    r"rate\(\d+ days?\)": ("rate(1 days)", None),
    r"\p{ASCII}{0,1500}": ("x", "~"),
    r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$": ("ä 9_.:/=+-@", "文"),
}
UNFITTING = {
    r"^[a-zA-Z0-9][a-zA-Z0-9\-_]*": ["-a", "a b", "ä", "a\n", "\u0663"],
    r"arn:([a-z\d-]+):personalize:.*:.*:.+": ["x", "arn:aws:s3:::b", "arn:aws:personalize:::"],
    r"arn:([a-z\d-]+):iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+": [
        "arn:aws:iam::1:role/x",
        "arn:aws:iam::000000000000:user/x",
        "arn:aws:iam::" + "\u0660" * 12 + ":role/x",
    ],
    r"arn:aws.*:kms:.*:[0-9]{12}:key/.*": ["arn:aws:kms:us-east-1:1:key/x", "key"],
    r"(s3|http|https)://.+": ["s3://", "b/k", "ftp://b/k"],
    r"^[A-Za-z_]+$": ["", "Items1", "It ems"],
    r"[A-Za-z_][A-Za-z\d_]*": ["1A", "", "A-B"],
    r"rate\(\d+ days?\)": ["rate(x days)", "1 day", "rate(1 weeks)"],
    r"\p{ASCII}{0,1500}": ["ä"],
    r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$": ["#", "a\tb", "💥"],
}
# A value of each JSON type. Values that fit the member's type are left out.
WRONG: dict[str, list[Any]] = {
    "string": [5, True, [], {}, "\ud800"],
    "boolean": ["true", 1, []],
    "integer": ["5", 5.5, True, 2**31, -(2**31) - 1, []],
    "double": ["5", True, {}],
    "list": ["x", {}, 1],
    "map": ["x", [], 1],
    "structure": ["x", [], 1],
}


class Case(NamedTuple):
    """A request, and the member that breaks a constraint (None if no member does)."""

    params: dict[str, Any]
    member: str | None
    constraint: str = ""


def _build_smallest_value(shape: Shape, depth: int = 0) -> Any:
    """Return the smallest value that keeps the constraints."""
    if isinstance(shape, StructureShape):
        return {
            name: _build_smallest_value(shape.members[name], depth + 1)
            for name in shape.required_members
        }
    if isinstance(shape, ListShape):
        return []
    if isinstance(shape, MapShape):
        return {}
    if shape.type_name == "boolean":
        return True
    if shape.type_name in ("integer", "double"):
        return shape.metadata.get("min", 1)
    enum_values = getattr(shape, "enum", None)
    return enum_values[0] if enum_values else FITTING[_find_pattern(shape)][0]


def _find_pattern(shape: Shape) -> str | None:
    pattern: str | None = shape.metadata.get("pattern")
    return pattern


def _list_values(shape: Shape) -> Iterator[tuple[Any, str, str]]:
    """Yield values of a shape, the path to the broken constraint, and the constraint's message.

    An empty constraint means that the value is just allowed.
    """
    for wrong in WRONG[shape.type_name]:
        yield wrong, "", "Member must be a"
    minimum, maximum = shape.metadata.get("min"), shape.metadata.get("max")
    if isinstance(shape, StructureShape):
        yield from _list_structures(shape)
    elif isinstance(shape, ListShape):
        yield from _list_lists(shape, maximum)
    elif isinstance(shape, MapShape):
        yield from _list_maps(shape, maximum)
    elif shape.type_name in ("integer", "double"):
        if minimum is not None:
            yield minimum, "", ""
            yield minimum - 1, "", f"value greater than or equal to {minimum}"
        if maximum is not None:
            yield maximum, "", ""
            yield maximum + 1, "", f"value less than or equal to {maximum}"
    elif shape.type_name == "string":
        yield from _list_strings(shape, minimum, maximum)


def _list_strings(
    shape: Shape, minimum: int | None, maximum: int | None
) -> Iterator[tuple[Any, str, str]]:
    enum_values = getattr(shape, "enum", None) or []
    yield from ((name, "", "") for name in enum_values)
    if enum_values:
        yield "NONE_OF_THESE", "", "Member must satisfy enum value set: ["
        yield enum_values[0].lower(), "", "Member must satisfy enum value set: ["
        return
    start, filler = FITTING[_find_pattern(shape)]
    yield start, "", ""
    if maximum is not None and filler:
        yield start + filler * (maximum - len(start)), "", ""
        too_long = start + filler * (maximum + 1 - len(start))
        yield too_long, "", f"length less than or equal to {maximum}"
    if minimum:
        yield "", "", f"length greater than or equal to {minimum}"
    for unfit in UNFITTING.get(_find_pattern(shape) or "", []):
        if len(unfit) >= (minimum or 0):
            yield unfit, "", f"regular expression pattern: {_find_pattern(shape)}"


def _list_structures(shape: StructureShape) -> Iterator[tuple[Any, str, str]]:
    base = _build_smallest_value(shape)
    yield base, "", ""
    for name in shape.required_members:
        incomplete = {key: value for key, value in base.items() if key != name}
        yield incomplete, name, "Member must not be null"
        yield incomplete | {name: None}, name, "Member must not be null"
    for name, member in shape.members.items():
        for value, path, constraint in _list_values(member):
            yield base | {name: value}, f"{name}.{path}".rstrip("."), constraint


def _list_lists(shape: ListShape, maximum: int | None) -> Iterator[tuple[Any, str, str]]:
    entry = _build_smallest_value(shape.member)
    if maximum is not None:
        yield [entry] * maximum, "", ""
        yield [entry] * (maximum + 1), "", f"length less than or equal to {maximum}"
    for value, path, constraint in _list_values(shape.member):
        yield [entry, value], f"2.member.{path}".rstrip("."), constraint


def _list_maps(shape: MapShape, maximum: int | None) -> Iterator[tuple[Any, str, str]]:
    entry = _build_smallest_value(shape.value)
    keys = list(getattr(shape.key, "enum", None) or [])
    start, filler = FITTING[_find_pattern(shape.key)]
    if maximum is not None:
        assert not keys
        keys_over_maximum = [start + str(filler) * n for n in range(maximum + 1)]
        yield dict.fromkeys(keys_over_maximum[:-1], entry), "", ""
        yield dict.fromkeys(keys_over_maximum, entry), "", f"length less than or equal to {maximum}"
    key = keys[0] if keys else start
    for value, path, constraint in _list_values(shape.value):
        yield {key: value}, f"{key}.value.{path}".rstrip("."), constraint
    for value, _, constraint in _list_values(shape.key):
        if isinstance(value, str):
            yield {value: entry}, "key", constraint


def _list_cases(operation: str) -> Iterator[Case]:
    for params, path, constraint in _list_structures(find_input(operation)):
        yield Case(copy.deepcopy(params), path if constraint else None, constraint)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """Return a Personalize without any resources except the cases' own."""
    return Local(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_each_constraint_of_the_model_is_kept(empty: Local, operation: str) -> None:
    refused_count = accepted_count = 0
    for case in _list_cases(operation):
        reply = empty.send(operation, case.params)
        message = reply.content.get("message", "")
        if case.member is None:
            accepted_count += 1
            # A rule beyond the model may refuse the value, but with another message.
            assert "failed to satisfy constraint" not in message, (case, message)
            assert reply.status in (200, 400)
        else:
            refused_count += 1
            assert reply.status == 400, (case, message)
            assert reply.content["__type"] == "InvalidInputException", (case, message)
            assert f"'{case.member}'" in message, case
            assert case.constraint in message, (case, message)
    assert refused_count >= 3
    assert accepted_count >= 2


def test_every_pattern_of_the_model_is_walked() -> None:
    def collect_patterns(shape: Shape) -> Iterator[str]:
        if pattern := _find_pattern(shape):
            yield pattern
        if isinstance(shape, StructureShape):
            for member in shape.members.values():
                yield from collect_patterns(member)
        elif isinstance(shape, ListShape):
            yield from collect_patterns(shape.member)
        elif isinstance(shape, MapShape):
            yield from collect_patterns(shape.key)
            yield from collect_patterns(shape.value)

    model_patterns = {
        pattern for operation in OPERATIONS for pattern in collect_patterns(find_input(operation))
    }
    assert model_patterns == set(UNFITTING)
    assert model_patterns | {None} == set(FITTING)
