"""The DynamoDB sink on moto's DynamoDB, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from botocore.config import Config
from moto import mock_aws

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.sinks import dynamodb_table
from batchrec_dagster.sinks import sink as lists
from batchrec_dagster.sinks.dynamodb_table import UserListTable
from batchrec_dagster.storage.connection import S3Connection, StorageResource
from batchrec_dagster.storage.layout import PipelineFiles, StorageKeys
from batchrec_dagster_tests.guard.sink_tables import (
    build_large_table,
)

pytestmark = pytest.mark.slow

TABLE = "shop-recommendations"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(dynamodb_table, "LONGEST_WAIT", 0.001)
    session: Any = boto3.Session("key", "secret", region_name="eu-central-1")
    with mock_aws():
        yield session.client("dynamodb", config=Config(retries={"total_max_attempts": 1}))


def create(client: Any, key: str = "user_id", kind: str = "S", *, ttl: bool = True) -> None:
    client.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind}],
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
    )
    if ttl:
        client.update_time_to_live(
            TableName=TABLE,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"},
        )


def open_lists_table(client: Any, folder: Path) -> UserListTable:
    storage = StorageResource(root=str(folder), s3=S3Connection())
    return UserListTable(client, TABLE, 30, PipelineFiles(storage, StorageKeys("shop")), "shop")


@pytest.fixture
def table(client: Any, tmp_path: Path) -> UserListTable:
    """The sink of a table that is there."""
    create(client)
    return open_lists_table(client, tmp_path)


def write(table: UserListTable, frame: pl.DataFrame, run_id: str = "run") -> lists.SinkResult:
    with dynamodb_table.raise_as_sink_errors(TABLE):
        return table.write(frame.lazy(), run_id)


def read_stored_items(client: Any) -> dict[str, Any]:
    pages = client.get_paginator("scan").paginate(TableName=TABLE)
    return {item["user_id"]["S"]: item for page in pages for item in page["Items"]}


def test_users_are_whole_over_the_ends_of_batches(
    client: Any, table: UserListTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "BATCH_ROWS", 7)
    assert write(table, build_large_table(60)).counts == (300, 60, 5)
    items = read_stored_items(client)
    assert len(items) == 60
    assert {len(item["items"]["L"]) for item in items.values()} == {5}


def test_what_is_not_read_again_at_once_is_asked_for_again(
    client: Any, table: UserListTable
) -> None:
    requests_held_back: list[Any] = []

    def hold_back(params: dict[str, Any], **_: Any) -> None:
        request_items = params["RequestItems"][TABLE]
        requests_held_back.append({**request_items, "Keys": request_items["Keys"][3:]})
        params["RequestItems"] = {TABLE: {**request_items, "Keys": request_items["Keys"][:3]}}

    def give_back(parsed: dict[str, Any], **_: Any) -> None:
        if (requests_held := requests_held_back.pop())["Keys"]:
            parsed["UnprocessedKeys"] = {TABLE: requests_held}

    events = client.meta.events
    events.register("provide-client-params.dynamodb.BatchGetItem", hold_back)
    events.register("after-call.dynamodb.BatchGetItem", give_back)
    assert write(table, build_large_table(10)).counts.users == 10


def test_a_table_that_takes_nothing_is_reported(client: Any, table: UserListTable) -> None:
    users = [{"user_id": {"S": user}} for user in "012"]

    def refuse(parsed: dict[str, Any], **_: Any) -> None:
        parsed["UnprocessedItems"] = {TABLE: [{"PutRequest": {"Item": user}} for user in users]}

    client.meta.events.register("after-call.dynamodb.BatchWriteItem", refuse)
    with pytest.raises(Retry, match="3 of 4 items were refused 12 times"):
        write(table, build_large_table(5))


def test_a_damaged_record_of_users_is_named(table: UserListTable) -> None:
    write(table, build_large_table(1))
    record = table.files.storage.uri(table.files.storage_keys.users_in_dynamodb(TABLE))
    table.files.storage.store.put(record, b"cut")
    with pytest.raises(UserError, match=rf"{TABLE}.parquet is damaged .*: delete it"):
        write(table, build_large_table(1))


def test_another_run_that_writes_is_noticed(
    table: UserListTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = UserListTable._put_lists
    monkeypatch.setattr(
        UserListTable, "_put_lists", lambda self, frame, _: other(self, frame, "another")
    )
    with pytest.raises(Retry, match=r"of 4 users written .*, 0 have this run's list"):
        write(table, build_large_table(4))


@pytest.mark.parametrize(
    ("code", "passing"),
    [
        ("ThrottlingException", True),
        ("InternalServerError", True),
        ("ExpiredTokenException", True),
        ("AccessDeniedException", False),
        ("ValidationException", False),
    ],
)
def test_what_may_pass_is_told_from_what_lasts(
    client: Any, table: UserListTable, code: str, passing: bool
) -> None:
    def answer(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
        http_response.status_code = 400
        parsed["Error"] = {"Code": code, "Message": "the reason"}

    client.meta.events.register("after-call.dynamodb.BatchWriteItem", answer)
    with pytest.raises(UserError, match=f"cannot write the DynamoDB table {TABLE}: the") as error:
        write(table, build_large_table(1))
    assert isinstance(error.value, Retry) is passing


def test_users_are_erased_and_the_others_stay(client: Any, table: UserListTable) -> None:
    write(table, build_large_table(230))
    users = [str(user) for user in range(5, 225)]
    assert table.count_users([*users, "unknown", "", "x" * 5000]) == 220
    assert table.erase_users([*users, "unknown", "", "x" * 5000]) == 220
    left = {*map(str, range(5)), *map(str, range(225, 230))}
    assert read_stored_items(client).keys() == left
    assert table.count_users(users) == table.erase_users(users) == 0


def test_nobody_is_in_a_table_that_is_missing(client: Any, tmp_path: Path) -> None:
    table = open_lists_table(client, tmp_path)
    assert table.count_users(["1"]) == table.erase_users(["1"]) == 0
