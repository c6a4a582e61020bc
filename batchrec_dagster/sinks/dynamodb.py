"""The sink that writes the lists to a DynamoDB table, with an item for each user.

    {"user_id": "7", "items": [{"item_id": "260", "title": "…", "score": 0.04}, …],
     "run_id": "…", "expires_at": 1767225600}

Items are replaced one after another. A reader sees a user's old list or the user's new list, never
a part of a list.

Reading the whole table to find the users who are gone would cost more the larger the table is. So
the ids of the users written last are kept in the storage. Before a write, the ids that are about to
be written are added to the kept ids, so that a write that is killed forgets nobody.

`expires_at` is for the table's time to live. If the time to live is on, DynamoDB itself removes, at
no cost, every list that no write has renewed for the declared number of days.

A tag of the table names the owner of the lists, so that no other pipeline replaces the lists.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from boto3.dynamodb.table import BatchWriter
from botocore import exceptions
from pydantic import Field, field_validator

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.layout import ListKeys

EXPIRES = "expires_at"
OWNER = "batchrec:lists-of"
# The number of connections that write at the same time, and the number of users whom a connection
# gets at once.
CONNECTIONS = 8
USERS_AT_ONCE = 500

TRANSIENT = {
    "InternalServerError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
}


class DynamoDbSink(sink.Sink):
    """A DynamoDB table with an item for each user."""

    asset: ClassVar[str] = "recommendations_in_dynamodb"

    table: str = Field(
        description="The table: its partition key is user_id (of similar items, item_id) of type S,"
        " and it has no sort key.",
        examples=["shop-recommendations"],
    )
    ttl_days: int = Field(
        default=30,
        description="Days until a list that no refresh renews expires, by expires_at and the"
        " table's time to live.",
    )

    @field_validator("table")
    @classmethod
    def _table_is_possible(cls, table: str) -> str:
        if "{{" not in table and not re.fullmatch(r"[\w.-]{3,255}", table, re.ASCII):
            raise ValueError("write 3 to 255 letters, digits, _, - and .")
        return table

    @field_validator("ttl_days")
    @classmethod
    def _ttl_is_possible(cls, ttl_days: int) -> int:
        if not 1 <= ttl_days <= 3650:
            raise ValueError("write a whole number from 1 to 3650")
        return ttl_days

    def describe(self, project: Path) -> sink.SinkDescription:
        return sink.SinkDescription(
            text=f"The lists in the DynamoDB table {self.table}, one item for each user; users who"
            " are gone are removed.",
            kind="dynamodb",
            place=f"sinks.dynamodb.table: {self.table}",
            removal=f"the DynamoDB table {self.table}:"
            f" aws dynamodb delete-table --table-name {self.table}",
        )

    def check(self, context: sink.SinkContext) -> sink.SinkCheck:
        with _aws_errors(self.table):
            client = context.storage.client("dynamodb")
            self._require_own_table(client, context)
            if not self._removes_expired(client):
                return sink.SinkCheck(f"the time to live of {self.table} is off", self._ttl_command)
        return sink.SinkCheck(f"the table {self.table} is there")

    def has_lists(self, context: sink.SinkContext) -> bool:
        with _aws_errors(self.table):
            client = context.storage.client("dynamodb")
            try:
                table = client.describe_table(TableName=self.table)["Table"]
            except client.exceptions.ResourceNotFoundException:
                return False
            return _read_owner(client, table["TableArn"]) == _name_owner(context)

    def write(self, lists: pl.LazyFrame, context: sink.SinkContext) -> sink.SinkResult:
        expected = sink.count_lists(lists)
        key = context.subject.column
        with _aws_errors(self.table):
            client = context.storage.client("dynamodb")
            table_arn, owner = self._require_own_table(client, context)
            if owner is None:
                mark = {"Key": OWNER, "Value": _name_owner(context)}
                client.tag_resource(ResourceArn=table_arn, Tags=[mark])
            user_ids = lists.filter(rank=1).select(key).collect(engine="streaming")
            removed_ids = self._remember_users(user_ids, context)
            written = self._put_lists(client, lists, context)
            sink.require_written(
                expected.users, written, "users", f"the DynamoDB table {self.table}"
            )
            keys = [{key: {"S": user}} for user in removed_ids.get_column(key)]
            self._send(client, "delete_item", keys)
            self._keep_users(user_ids, context)
            warning = (
                None
                if self._removes_expired(client)
                else f"the time to live of {self.table} is off: {self._ttl_command}"
            )
        facts = {"table": self.table, "users_removed": removed_ids.height}
        return sink.SinkResult(expected, facts, warning)

    @property
    def _ttl_command(self) -> str:
        """The command that switches the table's time to live on."""
        return (
            f"aws dynamodb update-time-to-live --table-name {self.table}"
            f" --time-to-live-specification Enabled=true,AttributeName={EXPIRES}"
        )

    def _require_own_table(self, client: Any, context: sink.SinkContext) -> tuple[str, str | None]:
        """Return the table's ARN and its owner, which is None if the table has no owner yet.

        Raises UserError if there is no such table, if the table has another key, or if the table
        has another owner's lists. Raises Retry while the table is not active.
        """
        key = context.subject.column
        try:
            table = client.describe_table(TableName=self.table)["Table"]
        except client.exceptions.ResourceNotFoundException:
            raise UserError(
                f"there is no DynamoDB table {self.table}: create it with aws dynamodb create-table"
                f" --table-name {self.table} --billing-mode PAY_PER_REQUEST"
                f" --attribute-definitions AttributeName={key},AttributeType=S"
                f" --key-schema AttributeName={key},KeyType=HASH"
            ) from None
        keys = [(part["AttributeName"], part["KeyType"]) for part in table["KeySchema"]]
        types = {
            part["AttributeName"]: part["AttributeType"] for part in table["AttributeDefinitions"]
        }
        if keys != [(key, "HASH")] or types[key] != "S":
            raise UserError(
                f"the DynamoDB table {self.table} has another key: it needs the partition key"
                f" {key} of type S, and no sort key"
            )
        if table["TableStatus"] not in ("ACTIVE", "UPDATING"):
            raise Retry(
                f"the DynamoDB table {self.table} is {table['TableStatus']}: it has to be ACTIVE"
            )
        table_arn: str = table["TableArn"]
        owner = _read_owner(client, table_arn)
        if owner not in (None, _name_owner(context)):
            raise UserError(
                f"the DynamoDB table {self.table} has the lists of {owner}: give"
                " sinks.dynamodb.table another name; or, if these are to take their place, take"
                f" the mark away: aws dynamodb untag-resource --resource-arn {table_arn}"
                f" --tag-keys {OWNER}"
            )
        return table_arn, owner

    def _removes_expired(self, client: Any) -> bool:
        """Return whether the table's time to live is on."""
        answer = client.describe_time_to_live(TableName=self.table)["TimeToLiveDescription"]
        is_enabled = answer.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
        return is_enabled and answer.get("AttributeName") == EXPIRES

    def _remember_users(self, user_ids: pl.DataFrame, context: sink.SinkContext) -> pl.DataFrame:
        """Add the users to the recorded users, and return the recorded users who are gone."""
        files, record = self._locate_users(context)
        fix = "delete it; who is gone since stays until it expires"
        previous_ids = files.read_parquet(record, fix)
        removed_ids = user_ids.clear()
        if previous_ids is not None:
            removed_ids = previous_ids.join(user_ids, on=context.subject.column, how="anti")
        files.write_parquet(record, pl.concat([user_ids, removed_ids]))
        return removed_ids

    def _keep_users(self, user_ids: pl.DataFrame, context: sink.SinkContext) -> None:
        """Replace the recorded users by these users."""
        files, record = self._locate_users(context)
        files.write_parquet(record, user_ids)

    def _locate_users(self, context: sink.SinkContext) -> tuple[ListFiles, str]:
        """Return the storage of the recorded users' ids, and the record's key there."""
        files = ListFiles(context.storage, ListKeys(context.address))
        return files, files.keys.users_in_dynamodb(self.table)

    def _put_lists(self, client: Any, lists: pl.LazyFrame, context: sink.SinkContext) -> int:
        """Write the lists, and return the number of users written."""
        expires_at = int(time.time()) + self.ttl_days * SECONDS_A_DAY
        common = {"run_id": {"S": context.run_id}, EXPIRES: {"N": f"{expires_at}"}}
        users_written = 0
        for users in sink.group_by_user(lists):
            rows = users.iter_rows(named=True)
            items = [{**_make_item(row, context.subject.column), **common} for row in rows]
            self._send(client, "put_item", items)
            users_written += len(items)
        return users_written

    def _send(self, client: Any, operation: str, values: list[dict[str, Any]]) -> None:
        """Put these items, or delete the items with these keys.

        Items that DynamoDB does not process are sent again.

        operation: `put_item` or `delete_item`.
        values: items to put, or keys to delete.
        """
        parts = [
            values[start : start + USERS_AT_ONCE] for start in range(0, len(values), USERS_AT_ONCE)
        ]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            # Making a list raises the errors of the threads.
            list(threads.map(partial(self._send_part, client, operation), parts))

    def _send_part(self, client: Any, operation: str, values: Iterable[dict[str, Any]]) -> None:
        """Send these items or keys over one connection."""
        with BatchWriter(self.table, client) as writer:
            send = getattr(writer, operation)
            for value in values:
                send(value)


def _read_owner(client: Any, table_arn: str) -> str | None:
    """Return the owner that the table's tag names; None without the tag, as in a new table."""
    pages = client.get_paginator("list_tags_of_resource").paginate(ResourceArn=table_arn)
    tags = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
    return tags.get(OWNER)


def _name_owner(context: sink.SinkContext) -> str:
    """Return the owner of the sink's lists, in the characters and the length that a tag allows."""
    owner = f"{context.address} in {context.storage.uri('')}"
    return re.sub(r"[^\w .:/=+@-]", "_", owner)[:256]


def _make_item(row: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the DynamoDB item with the list of a row.

    key: the column with the id of the user or item that has the list. The DynamoDB item has the id
        under this name.
    """
    item = {key: {"S": row[key]}, "items": {"L": [{"M": _make_entry(**i)} for i in row["items"]]}}
    return {**item, "arm": {"S": row["arm"]}} if "arm" in row else item


def _make_entry(rank: int, **values: str | float | None) -> dict[str, Any]:
    """Return an entry of a list, without its rank and its empty columns.

    The order of the entries is their rank.
    """
    return {name: _make_value(value) for name, value in values.items() if value is not None}


def _make_value(value: str | float) -> dict[str, str]:
    """Return a value with its type, in DynamoDB's form."""
    return {"S": value} if isinstance(value, str) else {"N": repr(value)}


@contextmanager
def _aws_errors(table: str) -> Iterator[None]:
    """Turn errors of boto3 into UserError, or into Retry if a retry may work."""
    try:
        yield
    except exceptions.ClientError as error:
        answer = error.response["Error"]
        message = f"cannot write the DynamoDB table {table}: {answer['Message'] or answer['Code']}"
        if answer["Code"] in TRANSIENT or answer["Code"].startswith("ExpiredToken"):
            raise Retry(message) from error
        raise UserError(message) from error
    except exceptions.BotoCoreError as error:
        message = f"cannot write the DynamoDB table {table}: {error}"
        if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
            raise Retry(message) from error
        raise UserError(message) from error
