"""A DynamoDB table with an item for each user, which holds the whole list.

    {"user_id": "7", "items": [{"item_id": "260", "title": "…", "score": 0.04}, …],
     "run_id": "…", "expires_at": 1767225600}

Items are replaced one by one: a reader sees a user's old list or the new one, never a part of one.

Reading the whole table to find the users who are gone would cost more the larger it is. So the ids
of the users written last are kept in the storage. Before a write, the ids that are about to be
written are added to them, so that a write that is killed forgets nobody.

`expires_at` is for the table's time to live. If that is on, DynamoDB itself removes, at no cost,
every list that no write has renewed for the declared number of days.

DynamoDB has no count of a table that is both exact and cheap. So the sink counts what DynamoDB
accepted, and reads a sample of it again.

A tag of the table says whose lists it has, so that nobody else's replace them.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl
from botocore import exceptions

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.list_subjects import USERS

EXPIRES = "expires_at"
OWNER = "batchrec:lists-of"
DAY = 24 * 3600

# "Quotas in Amazon DynamoDB": requests in a BatchWriteItem, keys in a BatchGetItem.
WRITES_AT_ONCE, READS_AT_ONCE = 25, 100
SAMPLE = READS_AT_ONCE
# The longest value of a partition key.
MAX_KEY_BYTES = 2048
CONNECTIONS = 8

# While a table scales up it leaves requests unprocessed. They are sent again, after a pause that
# grows up to this many seconds.
ATTEMPTS, LONGEST_WAIT = 12, 30.0
TRANSIENT = {
    "InternalServerError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
}


@dataclass(frozen=True)
class UserListTable:
    """The DynamoDB table that has an item for each user."""

    client: Any
    """boto3's client of `dynamodb`."""
    table: str
    """The table's name."""
    ttl_days: int
    """Days until a list expires that no write renews."""
    files: PipelineFiles
    """Where the ids of the users written last are kept."""
    owner: str
    """Whose lists they are."""
    key: str = USERS.column
    """The partition key: the id of the user, or of the item whose list it is."""

    def write(self, frame: pl.LazyFrame, run_id: str) -> sink.SinkResult:
        """Write these lists, and remove those of users who are gone.

        The result's facts are `table` and `users_removed`. It has a warning if the time to live is
        off. Raises as `check` does.
        """
        expected = sink.count_lists(frame)
        user_ids = frame.filter(rank=1).select(self.key).collect(engine="streaming")
        table_arn, removes_expired = self.check()
        if self.check_owner(table_arn) is None:
            mark = {"Key": OWNER, "Value": self._owner_tag}
            self.client.tag_resource(ResourceArn=table_arn, Tags=[mark])
        record = self.files.storage_keys.users_in_dynamodb(self.table)
        previous_user_ids = self.files.parquet(
            record, "delete it; who is gone since stays until it expires"
        )
        if previous_user_ids is None:
            removed_user_ids = user_ids.clear()
        else:
            removed_user_ids = previous_user_ids.join(user_ids, on=self.key, how="anti")
        self.files.write_parquet(record, pl.concat([user_ids, removed_user_ids]))
        users_written = self._put_lists(frame, run_id)
        sink.require_equal_counts(
            expected, users=users_written, where=f"the DynamoDB table {self.table}"
        )
        self._verify_sample(user_ids, run_id)
        self._delete_users(removed_user_ids)
        self.files.write_parquet(record, user_ids)
        warning = (
            f"the time to live of {self.table} is off: {build_time_to_live_command(self.table)}"
        )
        facts = {"table": self.table, "users_removed": removed_user_ids.height}
        return sink.SinkResult(expected, facts, None if removes_expired else warning)

    def count_users(self, users: Collection[str]) -> int:
        """How many of these users have an item; 0 if there is no table.

        Raises as `check` does.
        """
        return len(self._find_users(users))

    def erase_users(self, users: Collection[str]) -> int:
        """Delete the items of these users, and return how many had one. Raises as `check` does."""
        stored_users = self._find_users(users)
        if stored_users:
            table_arn, _ = self.check()
            self.check_owner(table_arn)
            self._delete_users(pl.DataFrame({self.key: stored_users}))
        return len(stored_users)

    def _find_users(self, users: Collection[str]) -> list[str]:
        """Those of these users who have an item."""
        keys = [user for user in users if 0 < len(user.encode()) <= MAX_KEY_BYTES]
        stored_users: list[str] = []
        for start in range(0, len(keys), READS_AT_ONCE):
            part = keys[start : start + READS_AT_ONCE]
            unprocessed: dict[str, Any] = {
                self.table: {
                    "Keys": [{self.key: {"S": user}} for user in part],
                    "ConsistentRead": True,
                    "ProjectionExpression": self.key,
                }
            }
            for attempt in range(ATTEMPTS):
                try:
                    answer = self.client.batch_get_item(RequestItems=unprocessed)
                except self.client.exceptions.ResourceNotFoundException:
                    return []
                stored_users += [
                    item[self.key]["S"] for item in answer["Responses"].get(self.table, [])
                ]
                unprocessed = answer.get("UnprocessedKeys", {})
                if not unprocessed:
                    break
                _wait(attempt)
            else:
                raise Retry(
                    f"the DynamoDB table {self.table} is read faster than its capacity allows: give"
                    " it more read capacity"
                )
        return stored_users

    def check(self) -> tuple[str, bool]:
        """The table's ARN, and whether its time to live is on.

        Raises UserError if there is no such table or it has another key, Retry while
        it is not active, and boto3's errors, which `raise_as_sink_errors` converts.
        """
        try:
            table = self.client.describe_table(TableName=self.table)["Table"]
        except self.client.exceptions.ResourceNotFoundException:
            raise UserError(
                f"there is no DynamoDB table {self.table}: create it with aws dynamodb create-table"
                f" --table-name {self.table} --billing-mode PAY_PER_REQUEST"
                f" --attribute-definitions AttributeName={self.key},AttributeType=S"
                f" --key-schema AttributeName={self.key},KeyType=HASH"
            ) from None
        keys = [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
        types = {
            attribute["AttributeName"]: attribute["AttributeType"]
            for attribute in table["AttributeDefinitions"]
        }
        if keys != [(self.key, "HASH")] or types[self.key] != "S":
            raise UserError(
                f"the DynamoDB table {self.table} has another key: it needs the partition key"
                f" {self.key} of type S, and no sort key"
            )
        if table["TableStatus"] not in ("ACTIVE", "UPDATING"):
            raise Retry(
                f"the DynamoDB table {self.table} is {table['TableStatus']}: it has to be ACTIVE"
            )
        time_to_live = self.client.describe_time_to_live(TableName=self.table)[
            "TimeToLiveDescription"
        ]
        is_enabled = time_to_live.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
        return table["TableArn"], is_enabled and time_to_live.get("AttributeName") == EXPIRES

    def check_owner(self, table_arn: str) -> str | None:
        """Whose lists the table has; None if nobody has written any.

        Raises UserError if they are another's, and boto3's errors.
        """
        pages = self.client.get_paginator("list_tags_of_resource").paginate(ResourceArn=table_arn)
        tags = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
        owner: str | None = tags.get(OWNER)
        if owner not in (None, self._owner_tag):
            raise UserError(
                f"the DynamoDB table {self.table} has the lists of {owner}: give"
                " sinks.dynamodb.table another name; or, if these are to take their place, take"
                f" the mark away: aws dynamodb untag-resource --resource-arn {table_arn}"
                f" --tag-keys {OWNER}"
            )
        return owner

    @property
    def _owner_tag(self) -> str:
        """The owner, in the characters and the length that a tag allows."""
        return re.sub(r"[^\w .:/=+@-]", "_", self.owner)[:256]

    def _put_lists(self, frame: pl.LazyFrame, run_id: str) -> int:
        """How many users were written."""
        common = {
            "run_id": {"S": run_id},
            EXPIRES: {"N": str(int(time.time()) + self.ttl_days * DAY)},
        }
        users_written = 0
        for users in sink.group_by_user(frame):
            users_written += self._send(
                [
                    {"PutRequest": {"Item": {**_make_item(self.key, **user), **common}}}
                    for user in users.iter_rows(named=True)
                ]
            )
        return users_written

    def _delete_users(self, user_ids: pl.DataFrame) -> None:
        for users in user_ids.iter_slices(10_000):
            keys = users.get_column(self.key)
            self._send([{"DeleteRequest": {"Key": {self.key: {"S": user}}}} for user in keys])

    def _send(self, requests: Sequence[dict[str, Any]]) -> int:
        """How many requests DynamoDB has processed, which is all of them."""
        batches = [
            requests[start : start + WRITES_AT_ONCE]
            for start in range(0, len(requests), WRITES_AT_ONCE)
        ]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return sum(threads.map(self._send_batch, batches))

    def _send_batch(self, requests: Sequence[dict[str, Any]]) -> int:
        unprocessed = list(requests)
        for attempt in range(ATTEMPTS):
            answer = self.client.batch_write_item(RequestItems={self.table: unprocessed})
            unprocessed = answer.get("UnprocessedItems", {}).get(self.table, [])
            if not unprocessed:
                return len(requests)
            _wait(attempt)
        raise Retry(
            f"the DynamoDB table {self.table} is written faster than its capacity allows:"
            f" {len(unprocessed)} of {len(requests)} items were refused {ATTEMPTS} times; give it"
            " more write capacity"
        )

    def _verify_sample(self, user_ids: pl.DataFrame, run_id: str) -> None:
        """Raise Retry unless a sample of the users has the lists of this run."""
        sample = user_ids.sample(min(SAMPLE, user_ids.height)).get_column(self.key).to_list()
        request = {
            "Keys": [{self.key: {"S": user}} for user in sample],
            "ConsistentRead": True,
            "ProjectionExpression": "run_id",
        }
        unprocessed: dict[str, Any] = {self.table: request} if sample else {}
        users_confirmed = attempts = 0
        while unprocessed and attempts < ATTEMPTS:
            answer = self.client.batch_get_item(RequestItems=unprocessed)
            items = answer["Responses"].get(self.table, [])
            users_confirmed += sum(item["run_id"]["S"] == run_id for item in items)
            unprocessed = answer.get("UnprocessedKeys", {})
            if unprocessed:
                _wait(attempts)
            attempts += 1
        if users_confirmed != len(sample):
            raise Retry(
                f"of {len(sample):,} users written to the DynamoDB table {self.table},"
                f" {users_confirmed:,} have this run's list: check whether another run writes there"
            )


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0, min(LONGEST_WAIT, 0.1 * 2**attempt)))  # noqa: S311


def _make_item(
    key: str, items: list[dict[str, Any]], arm: str | None = None, **subject: str
) -> dict[str, Any]:
    """The item of a user, or of the item whose list it is, whose id stands under the key."""
    listed = {"L": [{"M": _make_entry(**item)} for item in items]}
    item = {key: {"S": subject[key]}, "items": listed}
    return item if arm is None else {**item, "arm": {"S": arm}}


def _make_entry(rank: int, **values: str | float | None) -> dict[str, Any]:
    """An item of a list; its rank is its place there. Columns without a value are left out."""
    return {name: _make_value(value) for name, value in values.items() if value is not None}


def _make_value(value: str | float) -> dict[str, str]:
    return {"S": value} if isinstance(value, str) else {"N": repr(value)}


def build_time_to_live_command(table: str) -> str:
    """The command with which a user switches the table's time to live on."""
    return (
        f"aws dynamodb update-time-to-live --table-name {table}"
        f" --time-to-live-specification Enabled=true,AttributeName={EXPIRES}"
    )


@contextmanager
def raise_as_sink_errors(table: str) -> Iterator[None]:
    """A block in which errors of boto3 become UserError.

    They become Retry if a retry may work.
    """
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
