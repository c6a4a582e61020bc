"""The DynamoDB sink on moto's DynamoDB, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from botocore.config import Config
from moto import mock_aws

from batchrec_dagster.sinks import SinkError, SinkUnavailableError, dynamodb_table
from batchrec_dagster.sinks import sink as lists
from batchrec_dagster.sinks.dynamodb_table import UserListTable
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.sinks.support import (
    build_hostile_table,
    build_large_table,
    build_lists_table,
    build_mail_table,
    build_similar_items_table,
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


def test_each_user_has_an_item_and_who_is_gone_is_removed(
    client: Any, table: UserListTable
) -> None:
    before = int(time.time())
    result = write(table, build_lists_table({"1": [("a", "A = 1"), "b"], "2": ["c"]}), "first")
    facts = {"table": TABLE, "users_removed": 0}
    assert result == lists.SinkResult(lists.SinkCounts(3, 2, 2), facts)
    items = read_stored_items(client)
    assert set(items) == {"1", "2"}
    assert items["1"]["items"] == {
        "L": [
            {"M": {"item_id": {"S": "a"}, "title": {"S": "A = 1"}, "score": {"N": "0.5"}}},
            {"M": {"item_id": {"S": "b"}, "score": {"N": "0.25"}}},
        ]
    }
    assert items["1"]["run_id"] == {"S": "first"}
    assert 0 <= int(items["1"]["expires_at"]["N"]) - before - 30 * 24 * 3600 <= 60
    second = build_lists_table({"2": ["d"], "3": ["e"]}, titles=False, score=None)
    facts = {"table": TABLE, "users_removed": 1}
    assert write(table, second, "second") == lists.SinkResult(lists.SinkCounts(2, 2, 1), facts)
    items = read_stored_items(client)
    assert set(items) == {"2", "3"}
    assert items["2"]["items"] == {"L": [{"M": {"item_id": {"S": "d"}}}]}
    assert "arm" not in items["2"]
    write(table, second.with_columns(arm=pl.lit("model")))
    assert read_stored_items(client)["2"]["arm"] == {"S": "model"}
    assert read_stored_items(client)["2"]["items"] == items["2"]["items"]
    assert write(table, second.clear()).facts["users_removed"] == 2
    assert read_stored_items(client) == {}


def test_an_item_has_the_columns_of_its_items(client: Any, table: UserListTable) -> None:
    write(table, build_mail_table())
    assert read_stored_items(client)["1"]["items"]["L"] == [
        {
            "M": {
                "item_id": {"S": "a"},
                "title": {"S": "A"},
                "image": {"S": "https://a.example/a.png"},
                "price": {"N": "19.9"},
                "reason": {"S": "because"},
                "reason_item": {"S": "z"},
                "score": {"N": "0.5"},
            }
        },
        {"M": {"item_id": {"S": "b"}, "reason": {"S": "popular"}, "score": {"N": "0.25"}}},
    ]


@pytest.mark.attack
def test_hostile_text_is_text(client: Any, table: UserListTable) -> None:
    write(table, build_hostile_table())
    items = read_stored_items(client)
    for (user,), rows in build_hostile_table().group_by("user_id", maintain_order=True):
        list_entries = [item["M"] for item in items[str(user)]["items"]["L"]]
        assert [(item["item_id"]["S"], item["title"]["S"]) for item in list_entries] == rows.select(
            "item_id", "title"
        ).rows()
    assert client.list_tables()["TableNames"] == [TABLE]


def test_users_are_whole_over_the_ends_of_batches(
    client: Any, table: UserListTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "BATCH_ROWS", 7)
    assert write(table, build_large_table(60)).counts == (300, 60, 5)
    items = read_stored_items(client)
    assert len(items) == 60
    assert {len(item["items"]["L"]) for item in items.values()} == {5}


def test_what_is_not_processed_is_sent_again(client: Any, table: UserListTable) -> None:
    requests_held_back: list[Any] = []

    def hold_back(params: dict[str, Any], **_: Any) -> None:
        requests = params["RequestItems"][TABLE]
        requests_held_back.append(requests[1:] if len(requests) > 1 else [])
        params["RequestItems"] = {TABLE: requests[:1]}

    def give_back(parsed: dict[str, Any], **_: Any) -> None:
        if requests_held := requests_held_back.pop():
            parsed["UnprocessedItems"] = {TABLE: requests_held}

    events = client.meta.events
    events.register("provide-client-params.dynamodb.BatchWriteItem", hold_back)
    events.register("after-call.dynamodb.BatchWriteItem", give_back)
    assert write(table, build_large_table(10)).counts.users == 10
    assert len(read_stored_items(client)) == 10
    assert requests_held_back == []


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
    with pytest.raises(SinkUnavailableError, match="3 of 4 items were refused 12 times"):
        write(table, build_large_table(5))


def test_a_write_that_was_killed_forgets_nobody(
    client: Any, table: UserListTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(table, build_large_table(3))
    with monkeypatch.context() as patch:
        patch.setattr(UserListTable, "_delete_users", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(table, build_lists_table({"2": ["a"], "7": ["a"]}))
    assert set(read_stored_items(client)) == {"0", "1", "2", "7"}
    assert write(table, build_lists_table({"9": ["a"]})).facts["users_removed"] == 4
    assert set(read_stored_items(client)) == {"9"}


def test_a_table_that_cannot_be_is_reported(client: Any, tmp_path: Path) -> None:
    lists = open_lists_table(client, tmp_path)
    with pytest.raises(SinkError, match=f"there is no DynamoDB table {TABLE}: create it with aws"):
        write(lists, build_large_table(1))
    create(client, key="id")
    with pytest.raises(SinkError, match="has another key: it needs the partition key user_id"):
        write(lists, build_large_table(1))
    client.delete_table(TableName=TABLE)
    create(client, kind="N")
    with pytest.raises(SinkError, match="of type S"):
        write(lists, build_large_table(1))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_of_users_is_named(table: UserListTable) -> None:
    write(table, build_large_table(1))
    record = table.files.storage.uri(table.files.storage_keys.users_in_dynamodb(TABLE))
    table.files.storage.store.put(record, b"cut")
    with pytest.raises(SinkError, match=rf"{TABLE}.parquet is damaged .*: delete it"):
        write(table, build_large_table(1))


def test_without_a_time_to_live_it_says_so(client: Any, tmp_path: Path) -> None:
    create(client, ttl=False)
    lists = open_lists_table(client, tmp_path)
    assert "update-time-to-live" in (write(lists, build_large_table(1)).warning or "")


def test_another_run_that_writes_is_noticed(
    table: UserListTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = UserListTable._put_lists
    monkeypatch.setattr(
        UserListTable, "_put_lists", lambda self, frame, _: other(self, frame, "another")
    )
    with pytest.raises(
        SinkUnavailableError, match=r"of 4 users written .*, 0 have this run's list"
    ):
        write(table, build_large_table(4))


def test_a_table_of_somebody_elses_lists_is_left_alone(client: Any, table: UserListTable) -> None:
    write(table, build_large_table(3))
    before = read_stored_items(client)
    with pytest.raises(SinkError) as error:
        write(replace(table, owner="shop in s3://other/it's"), build_large_table(2))
    assert str(error.value).startswith(
        f"the DynamoDB table {TABLE} has the lists of shop: give sinks.dynamodb.table another name"
    )
    assert read_stored_items(client) == before
    # The command in the message puts these lists in the place of the others.
    words = str(error.value).split()
    arn = words[words.index("--resource-arn") + 1]
    key = words[words.index("--tag-keys") + 1]
    client.untag_resource(ResourceArn=arn, TagKeys=[key])
    write(replace(table, owner="shop in s3://other/it's"), build_large_table(2))
    assert client.list_tags_of_resource(ResourceArn=arn)["Tags"] == [
        {"Key": key, "Value": "shop in s3://other/it_s"}
    ]
    write(replace(table, owner="shop in s3://other/it's"), build_large_table(2))


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
    with pytest.raises(SinkError, match=f"cannot write the DynamoDB table {TABLE}: the") as error:
        write(table, build_large_table(1))
    assert isinstance(error.value, SinkUnavailableError) is passing


def test_nobody_there_may_pass(tmp_path: Path) -> None:
    session: Any = boto3.Session("key", "secret", region_name="eu-central-1")
    client = session.client(
        "dynamodb",
        endpoint_url="http://127.0.0.1:1",
        config=Config(retries={"total_max_attempts": 1}),
    )
    lists = open_lists_table(client, tmp_path)
    with pytest.raises(SinkUnavailableError, match="Could not connect"):
        write(lists, build_large_table(1))


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


def test_similar_items_have_an_item_for_each_item(client: Any, tmp_path: Path) -> None:
    create(client, "item_id")
    table = replace(open_lists_table(client, tmp_path), key="item_id")
    similar = build_similar_items_table()
    assert write(table, similar).counts[:2] == (3, 2)
    (stored,) = (item for item in client.scan(TableName=TABLE)["Items"]
                 if item["item_id"]["S"] == "a")  # fmt: skip
    entries = [entry["M"]["similar_item_id"]["S"] for entry in stored["items"]["L"]]
    assert entries == ["b", "c"]
    assert write(table, similar.filter(item_id="b")).facts["users_removed"] == 1
