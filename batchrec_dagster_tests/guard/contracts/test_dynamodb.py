"""Tests of the sink to DynamoDB, on moto's server.

Unprocessed writes are sent again, lists of absent users are removed, and lists that no run renews
expire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

from batchrec_dagster_tests.guard.seams.publishing import Sink, SinkFailedError, SinkRetryError
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.sink_tables import build_large_table, build_lists_table

pytestmark = pytest.mark.slow

TABLE = "shop-lists"
AWS = {
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
}
DAY_SECONDS = 86_400

Send = Callable[[dict[str, Any]], Any]


@pytest.fixture
def client() -> Iterator[Any]:
    with mock_aws():
        session = boto3.Session("key", "secret", region_name="eu-central-1")
        yield session.client("dynamodb")


@pytest.fixture
def sink(client: Any, tmp_path: Path) -> Sink:
    """Return the sink of an existing table."""
    create(client)
    return Sink("dynamodb", {"table": TABLE, "ttl_days": 7}, Store.open(tmp_path, AWS))


def create(client: Any, key: str = "user_id", kind: str = "S") -> None:
    client.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind}],
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
    )


def read_items(client: Any) -> dict[str, Any]:
    pages = client.get_paginator("scan").paginate(TableName=TABLE)
    return {item["user_id"]["S"]: item for page in pages for item in page["Items"]}


@contextmanager
def replaced_writes(write: Callable[[Send, dict[str, Any]], Any]) -> Iterator[None]:
    """Pass write requests, and a function that sends them on, to `write` until the block ends."""
    call = BaseClient._make_api_call  # type: ignore[attr-defined]

    def call_or_write(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        if operation != "BatchWriteItem":
            return call(client, operation, parameters)
        return write(lambda request: call(client, operation, request), parameters)

    with patch.object(BaseClient, "_make_api_call", call_or_write):
        yield


def test_unprocessed_writes_are_sent_again(client: Any, sink: Sink) -> None:
    requests_sent = 0

    def take_three(send: Send, parameters: dict[str, Any]) -> Any:
        nonlocal requests_sent
        requests_sent += 1
        items = parameters["RequestItems"][TABLE]
        answer = send({**parameters, "RequestItems": {TABLE: items[:3]}})
        return {**answer, "UnprocessedItems": {TABLE: items[3:]} if items[3:] else {}}

    with patch("time.sleep"), replaced_writes(take_three):
        assert sink.write(build_large_table(10)) == (50, 10)
    assert requests_sent >= 4
    assert {*read_items(client)} == {str(user) for user in range(10)}


def test_a_write_that_is_killed_forgets_nobody(client: Any, sink: Sink) -> None:
    """The next complete write removes users without a list, whichever write gave them one."""
    new_users = build_lists_table({f"new {user}": ["a"] for user in range(30)})
    for requests_left in range(5):
        sink.write(build_large_table(30))
        requests = iter(range(requests_left))

        def end(send: Send, parameters: dict[str, Any], requests: Iterator[int] = requests) -> Any:
            if next(requests, None) is None:
                raise KeyboardInterrupt
            return send(parameters)

        with suppress(KeyboardInterrupt), replaced_writes(end):
            sink.write(new_users)
        sink.write(build_lists_table({"9": ["a"]}))
        assert {*read_items(client)} == {"9"}, requests_left


def test_a_list_expires_unless_it_is_renewed(client: Any, sink: Sink) -> None:
    before = int(time.time())
    sink.write(build_large_table(1))
    (item,) = read_items(client).values()
    assert 0 <= int(item["expires_at"]["N"]) - before - 7 * DAY_SECONDS < DAY_SECONDS


def test_a_check_says_how_a_table_gets_its_time_to_live(client: Any, sink: Sink) -> None:
    fix = sink.check()
    assert fix is not None
    assert fix.startswith(f"aws dynamodb update-time-to-live --table-name {TABLE}")
    specification = {"Enabled": True, "AttributeName": "expires_at"}
    client.update_time_to_live(TableName=TABLE, TimeToLiveSpecification=specification)
    assert sink.check() is None
    assert read_items(client) == {}


def test_a_table_that_cannot_be_is_reported(client: Any, sink: Sink) -> None:
    client.delete_table(TableName=TABLE)
    with pytest.raises(SinkFailedError, match=f"no DynamoDB table {TABLE}: create it with aws"):
        sink.write(build_large_table(1))
    for key, kind in (("id", "S"), ("user_id", "N")):
        create(client, key, kind)
        with pytest.raises(SinkFailedError, match="partition key user_id"):
            sink.write(build_large_table(1))
        client.delete_table(TableName=TABLE)


def test_a_table_of_somebody_elses_is_taken_over_as_the_message_says(
    client: Any, sink: Sink
) -> None:
    sink.write(build_large_table(3))
    elsewhere = replace(sink, address="films")
    with pytest.raises(SinkFailedError) as error:
        elsewhere.write(build_large_table(2))
    assert len(read_items(client)) == 3
    words = str(error.value).split()
    client.untag_resource(
        ResourceArn=words[words.index("--resource-arn") + 1],
        TagKeys=[words[words.index("--tag-keys") + 1]],
    )
    for _ in range(2):
        elsewhere.write(build_large_table(2))


def test_a_damaged_list_of_who_was_written_is_named(sink: Sink) -> None:
    sink.write(build_large_table(1))
    (key,) = sink.store.list("shop/records/users_in_dynamodb/")
    sink.store.put(key, b"cut")
    with pytest.raises(SinkFailedError, match=rf"{TABLE}.parquet is damaged .*: delete it"):
        sink.write(build_large_table(1))
    sink.store.delete(key)
    sink.write(build_large_table(1))


@pytest.mark.parametrize(
    ("code", "may_pass"),
    [
        ("ThrottlingException", True),
        ("InternalServerError", True),
        ("ExpiredTokenException", True),
        ("AccessDeniedException", False),
        ("ValidationException", False),
    ],
)
def test_passing_errors_are_told_from_lasting_errors(sink: Sink, code: str, may_pass: bool) -> None:
    def refuse(send: Send, parameters: dict[str, Any]) -> Any:
        error: Any = {"Error": {"Code": code, "Message": "the reason"}}
        raise ClientError(error, "BatchWriteItem")

    with (
        replaced_writes(refuse),
        pytest.raises(SinkFailedError, match=f"table {TABLE}: the reason") as error,
    ):
        sink.write(build_large_table(1))
    assert isinstance(error.value, SinkRetryError) is may_pass


def test_nobody_there_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1")
    sink = Sink("dynamodb", {"table": TABLE}, Store.open(tmp_path, AWS))
    with patch("time.sleep"), pytest.raises(SinkRetryError):
        sink.write(build_large_table(1))
