"""Any bytes get a response of the protocol."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.api.service import LocalPersonalize, answer
from batchrec_dagster.local_personalize.api.validation import find_input_shape, load_service_model
from batchrec_dagster.local_personalize.operations.registry import OPERATIONS
from batchrec_dagster.personalize.schemas import SchemaError, parse_schema
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.web.server import MAX_BODY_BYTES
from batchrec_dagster_tests.guard.repeats import repeats

pytestmark = pytest.mark.slow

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
# Values that get past the checks of the model, and those that nearly do.
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
    max_examples=repeats(80, 15),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def service() -> Iterator[LocalPersonalize]:
    with tempfile.TemporaryDirectory() as folder:
        service = LocalPersonalize(
            Path(folder) / "home", ObjectStore(folders={"data": Path(folder) / "data"})
        )
        yield service
        service.close()


def draw_shaped_values(shape: Shape) -> st.SearchStrategy[Any]:
    """Values that have the shape, mostly."""
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
    lambda operation: st.tuples(st.just(operation), draw_shaped_values(find_input_shape(operation)))
)


def _check(service: LocalPersonalize, target: str, body: bytes) -> None:
    status, text, _ = answer(service.call, target, body)
    response = json.loads(text)
    assert status in (200, 400), response  # never 500: that is an error of this service
    assert isinstance(response, dict)
    assert len(text) < 50_000  # however big the request was
    if status == 400:
        assert response["__type"].endswith("Exception")
        assert response["message"]
        assert "Traceback" not in response["message"]


@SETTINGS
@given(target=st.text() | st.sampled_from(load_service_model().operation_names), body=st.binary())
def test_any_bytes(service: LocalPersonalize, target: str, body: bytes) -> None:
    _check(service, target, body)
    _check(service, f"AmazonPersonalize.{target}", body)


@SETTINGS
@given(operation=st.sampled_from(sorted(OPERATIONS)), value=ANYTHING)
def test_any_json(service: LocalPersonalize, operation: str, value: Any) -> None:
    _check(service, f"AmazonPersonalize.{operation}", json.dumps(value).encode())


@settings(SETTINGS, max_examples=repeats(150, 30))
@given(request=REQUESTS)
def test_any_request_of_the_right_shape(
    service: LocalPersonalize, request: tuple[str, Any]
) -> None:
    operation, params = request
    _check(service, f"AmazonPersonalize.{operation}", json.dumps(params).encode())


@SETTINGS
@given(value=ANYTHING, fields=st.lists(ANYTHING, max_size=4))
def test_any_schema(value: Any, fields: list[Any]) -> None:
    kinds = {"type": "record", "namespace": "com.amazonaws.personalize.schema"}
    for schema in (
        value,
        {**kinds, "name": value, "fields": fields},
        {**kinds, "name": "Users", "fields": fields},
        {**kinds, "name": "Users", "fields": [{"name": "USER_ID", "type": value}]},
    ):
        with pytest.raises(SchemaError) as error:
            parse_schema(json.dumps(schema))
        assert str(error.value)


def _build_big_values(shape: Shape) -> Iterator[Any]:
    """Values as big as a request can be, in each place that the shape has for one."""
    if isinstance(shape, StructureShape):
        for name, member in shape.members.items():
            yield from ({name: value} for value in _build_big_values(member))
    elif isinstance(shape, ListShape):
        entries: tuple[Any, ...] = ({}, 1, "")
        for entry in entries:
            yield [entry] * (MAX_BODY_BYTES // 5)
    elif isinstance(shape, MapShape):
        yield {str(n): 1 for n in range(MAX_BODY_BYTES // 15)}
        yield {str(n): "" for n in range(MAX_BODY_BYTES // 15)}
    elif shape.type_name == "string":
        for text in ("x", "(", "[", '{"a":', "arn:aws:personalize:"):
            yield text * (MAX_BODY_BYTES // 2 // len(text))
    else:
        yield 10**4000


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_requests_as_big_as_can_be(service: LocalPersonalize, operation: str) -> None:
    unknown = {f"unknown {n}": n for n in range(MAX_BODY_BYTES // 30)}
    for params in (unknown, *_build_big_values(find_input_shape(operation))):
        body = json.dumps(params).encode()
        assert len(body) <= MAX_BODY_BYTES
        _check(service, f"AmazonPersonalize.{operation}", body)
    for text in (b"[", b'{"name":', b'{"name":[', b"9", b'"'):
        body = text * (MAX_BODY_BYTES // len(text))
        _check(service, f"AmazonPersonalize.{operation}", body)
