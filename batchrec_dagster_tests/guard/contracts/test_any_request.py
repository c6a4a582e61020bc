"""Tests that any bytes get a short answer in Personalize's protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.contracts.personalize_walk import MODEL, OPERATIONS, find_input
from batchrec_dagster_tests.guard.repeats import IS_LONG, repeats
from batchrec_dagster_tests.guard.servers.personalize import Local

pytestmark = pytest.mark.slow

BIG_BYTES = 1_000_000
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
# Values that pass the checks of the model, or nearly pass.
TEXTS = st.sampled_from(
    [
        "films",
        "arn:aws:personalize:us-east-1:000000000000:dataset-group/films",
        "arn:aws:personalize:us-east-1:000000000000:schema/films",
        "arn:aws:personalize:us-east-1:000000000000:solution/films",
        "arn:aws:personalize:::recipe/aws-user-personalization",
        "arn:aws:iam::000000000000:role/me",
        "s3://data/users.json",
        "s3://data/../x",
        "http://data",
        "Interactions",
        "FULL",
        "{}",
        "\ud800",
        "\0",
        "",
        "9" * 5000,
    ]
) | st.text(max_size=20)

SETTINGS = settings(
    max_examples=repeats(80, 15), database=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Local:
    return Local(tmp_path_factory.mktemp("shared"))


def draw_shaped_values(shape: Shape) -> st.SearchStrategy[Any]:
    """Return a strategy of values that mostly match the shape."""
    if isinstance(shape, StructureShape):
        members = {name: draw_shaped_values(member) for name, member in shape.members.items()}
        required_values = {name: members.pop(name) for name in shape.required_members}
        return st.fixed_dictionaries(required_values, optional=members) | ANYTHING
    if isinstance(shape, ListShape):
        return st.lists(draw_shaped_values(shape.member), max_size=3)
    if isinstance(shape, MapShape):
        return st.dictionaries(TEXTS, draw_shaped_values(shape.value), max_size=3)
    match shape.type_name:
        case "string":
            enum_values = getattr(shape, "enum", None)
            return TEXTS | st.sampled_from(enum_values) if enum_values else TEXTS
        case "boolean":
            return st.booleans()
        case _:
            return st.integers() | st.integers(0, 100) | st.floats()


REQUESTS = st.sampled_from(sorted(OPERATIONS)).flatmap(
    lambda operation: st.tuples(st.just(operation), draw_shaped_values(find_input(operation)))
)


def _check(shared: Local, operation: str, body: Any, target: str = "AmazonPersonalize.") -> None:
    reply = shared.send(operation, body, target)
    # The status is never 500, which would be an error of the service.
    assert reply.status in (200, 400), reply.content
    assert len(reply.text) < 50_000  # regardless of the request's size
    if reply.status == 400:
        assert reply.content["__type"].endswith("Exception")
        assert reply.content["message"]
        assert "Traceback" not in reply.content["message"]


@SETTINGS
@given(target=st.text() | st.sampled_from(MODEL.operation_names), body=st.binary())
def test_any_bytes(shared: Local, target: str, body: bytes) -> None:
    _check(shared, target, body, "")
    _check(shared, target, body)


@SETTINGS
@given(operation=st.sampled_from(sorted(OPERATIONS)), value=ANYTHING)
def test_any_json(shared: Local, operation: str, value: Any) -> None:
    _check(shared, operation, value)


@settings(SETTINGS, max_examples=repeats(150, 30))
@given(request=REQUESTS)
def test_any_request_of_the_right_shape(shared: Local, request: tuple[str, Any]) -> None:
    _check(shared, *request)


@SETTINGS
@given(value=ANYTHING, fields=st.lists(ANYTHING, max_size=4))
def test_any_schema_is_refused_with_a_reason(shared: Local, value: Any, fields: list[Any]) -> None:
    kinds = {"type": "record", "namespace": "com.amazonaws.personalize.schema"}
    for schema in (
        value,
        {**kinds, "name": value, "fields": fields},
        {**kinds, "name": "Users", "fields": fields},
        {**kinds, "name": "Users", "fields": [{"name": "USER_ID", "type": value}]},
    ):
        reply = shared.send("CreateSchema", {"name": "films", "schema": json.dumps(schema)})
        assert reply.content["__type"] == "InvalidInputException"
        assert reply.content["message"]


def _build_big_values(shape: Shape) -> Iterator[Any]:
    """Yield values with the largest possible part in each place of the shape."""
    if isinstance(shape, StructureShape):
        for name, member in shape.members.items():
            yield from ({name: value} for value in _build_big_values(member))
    elif isinstance(shape, ListShape):
        entries: tuple[Any, ...] = ({}, 1, "")
        for entry in entries:
            yield [entry] * (BIG_BYTES // 5)
    elif isinstance(shape, MapShape):
        yield {str(n): 1 for n in range(BIG_BYTES // 15)}
    elif shape.type_name == "string":
        for text in ("(", "[", '{"a":', "arn:aws:personalize:"):
            yield text * (BIG_BYTES // 2 // len(text))
    else:
        yield 10**4000


# These requests have the most members. The remaining requests are tested at night.
BIGGEST = ("CreateBatchInferenceJob", "CreateSchema")


@pytest.mark.parametrize("operation", sorted(OPERATIONS) if IS_LONG else BIGGEST)
def test_requests_as_big_as_can_be(shared: Local, operation: str) -> None:
    unknown = {f"unknown {n}": n for n in range(BIG_BYTES // 30)}
    for params in (unknown, *_build_big_values(find_input(operation))):
        _check(shared, operation, params)
    for text in (b"[", b'{"name":', b'{"name":[', b"9", b'"'):
        _check(shared, operation, text * (BIG_BYTES // len(text)))
