"""A DynamoDB table with an item for each user, which holds the whole list.

    {"user_id": "7", "items": [{"item_id": "260", "title": "…", "score": 0.04}, …],
     "run_id": "…", "expires_at": 1767225600}

Items are replaced one by one: a reader sees a user's old list or the new one, never a part. To find
who is gone without reading the table, which would cost as much as it is large, the users written
last are kept in the storage; before a write, those to be written are added to them, so that one
that is killed forgets nobody. `expires_at` is for the table's time to live: where that is on,
DynamoDB itself removes, for nothing, what no write has renewed for so many days.

DynamoDB has no count of a table that is both exact and cheap. So what it accepted is counted, and a
sample of it is read again.

A tag of the table says whose lists it has, so that nobody else's replace them.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import polars as pl
from botocore import exceptions
from pydantic import Field, field_validator

from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys

KEY, EXPIRES = "user_id", "expires_at"
OWNER = "batchrec:lists-of"
DAY = 24 * 3600

# "Quotas in Amazon DynamoDB": requests in a BatchWriteItem, keys in a BatchGetItem.
WRITES_AT_ONCE, SAMPLE = 25, 100
CONNECTIONS = 8

# What a table that scales up does not process, waits: half a minute at most between attempts.
ATTEMPTS, LONGEST_WAIT = 12, 30.0
TRANSIENT = {
    "InternalServerError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
}


class DynamoDbSink(dg.Model):
    """A DynamoDB table with an item for each user."""

    asset: ClassVar[str] = "recommendations_in_dynamodb"

    table: str = Field(
        description="The table: its partition key is user_id of type S, and it has no sort key.",
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

    def describe(self, project: Path) -> sink.Description:
        return sink.Description(
            text=f"The lists in the DynamoDB table {self.table}, one item for each user; users who"
            " are gone are removed.",
            kind="dynamodb",
            place=f"sinks.dynamodb.table: {self.table}",
            removal=f"the DynamoDB table {self.table}:"
            f" aws dynamodb delete-table --table-name {self.table}",
        )

    def check(self, context: sink.SinkContext) -> sink.SinkCheck:
        with explained(self.table):
            table = self._lists(context)
            arn, expires = table.check()
            table.owned_by(arn)
        if not expires:
            return sink.SinkCheck(f"the time to live of {self.table} is off", switch_on(self.table))
        return sink.SinkCheck(f"the table {self.table} is there")

    def write(self, lists: pl.LazyFrame, context: sink.SinkContext) -> sink.SinkResult:
        with explained(self.table):
            return self._lists(context).write(lists, context.run_id)

    def _lists(self, context: sink.SinkContext) -> UserLists:
        storage, files = (
            context.storage,
            PipelineFiles(context.storage, StorageKeys(context.pipeline)),
        )
        owner = f"{context.pipeline} in {storage.uri('')}"
        return UserLists(storage.client("dynamodb"), self.table, self.ttl_days, files, owner)


@dataclass(frozen=True)
class UserLists:
    """The lists in a table. client: boto3's; files: where the users written last are kept; owner:
    whose lists they are."""

    client: Any
    table: str
    ttl_days: int
    files: PipelineFiles
    owner: str

    def write(self, frame: pl.LazyFrame, run_id: str) -> sink.SinkResult:
        """Make the table hold these lists and, of those written before, nothing else.

        Facts: table, users_removed. Warns if the time to live is off. Raises as `check` does.
        """
        wanted = sink.counts(frame)
        users = frame.filter(rank=1).select(KEY).collect(engine="streaming")
        arn, expires = self.check()
        if self.owned_by(arn) is None:
            mark = {"Key": OWNER, "Value": self._mark}
            self.client.tag_resource(ResourceArn=arn, Tags=[mark])
        record = self.files.places.users_in_dynamodb(self.table)
        before = self.files.parquet(record, "delete it; who is gone since stays until it expires")
        gone = users.clear() if before is None else before.join(users, on=KEY, how="anti")
        self.files.write_parquet(record, pl.concat([users, gone]))
        written = self._put(frame, run_id)
        sink.compare(wanted, users=written, where=f"the DynamoDB table {self.table}")
        self._read_again(users, run_id)
        self._delete(gone)
        self.files.write_parquet(record, users)
        off = f"the time to live of {self.table} is off: {switch_on(self.table)}"
        facts = {"table": self.table, "users_removed": gone.height}
        return sink.SinkResult(wanted, facts, None if expires else off)

    def check(self) -> tuple[str, bool]:
        """That the table is one for users; its ARN, and whether its time to live is on. Raises
        SinkError and, outside of `explained`, boto3's errors."""
        try:
            table = self.client.describe_table(TableName=self.table)["Table"]
        except self.client.exceptions.ResourceNotFoundException:
            raise sink.SinkError(
                f"there is no DynamoDB table {self.table}: create it with aws dynamodb create-table"
                f" --table-name {self.table} --billing-mode PAY_PER_REQUEST"
                f" --attribute-definitions AttributeName={KEY},AttributeType=S"
                f" --key-schema AttributeName={KEY},KeyType=HASH"
            ) from None
        keys = [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
        types = {
            each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]
        }
        if keys != [(KEY, "HASH")] or types[KEY] != "S":
            raise sink.SinkError(
                f"the DynamoDB table {self.table} has another key: it needs the partition key"
                f" {KEY} of type S, and no sort key"
            )
        if table["TableStatus"] not in ("ACTIVE", "UPDATING"):
            raise sink.SinkUnavailableError(
                f"the DynamoDB table {self.table} is {table['TableStatus']}: it has to be ACTIVE"
            )
        found = self.client.describe_time_to_live(TableName=self.table)["TimeToLiveDescription"]
        on = found.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
        return table["TableArn"], on and found.get("AttributeName") == EXPIRES

    def owned_by(self, arn: str) -> str | None:
        """Whose lists the table has; None where nobody has put any there. Raises as `check` does,
        and SinkError where they are another's."""
        pages = self.client.get_paginator("list_tags_of_resource").paginate(ResourceArn=arn)
        tags = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
        owner: str | None = tags.get(OWNER)
        if owner not in (None, self._mark):
            raise sink.SinkError(
                f"the DynamoDB table {self.table} has the lists of {owner}: give"
                " sinks.dynamodb.table another name; or, if these are to take their place, take"
                f" the mark away: aws dynamodb untag-resource --resource-arn {arn}"
                f" --tag-keys {OWNER}"
            )
        return owner

    @property
    def _mark(self) -> str:
        """The owner, of what a tag may have."""
        return re.sub(r"[^\w .:/=+@-]", "_", self.owner)[:256]

    def _put(self, frame: pl.LazyFrame, run_id: str) -> int:
        common = {
            "run_id": {"S": run_id},
            EXPIRES: {"N": str(int(time.time()) + self.ttl_days * DAY)},
        }
        written = 0
        for users in sink.lists(frame):
            written += self._write(
                [
                    {"PutRequest": {"Item": {**_item(**user), **common}}}
                    for user in users.iter_rows(named=True)
                ]
            )
        return written

    def _delete(self, gone: pl.DataFrame) -> None:
        for users in gone.iter_slices(10_000):
            keys = users.get_column(KEY)
            self._write([{"DeleteRequest": {"Key": {KEY: {"S": user}}}} for user in keys])

    def _write(self, requests: Sequence[dict[str, Any]]) -> int:
        pieces = [
            requests[start : start + WRITES_AT_ONCE]
            for start in range(0, len(requests), WRITES_AT_ONCE)
        ]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return sum(threads.map(self._write_piece, pieces))

    def _write_piece(self, requests: Sequence[dict[str, Any]]) -> int:
        waiting = list(requests)
        for attempt in range(ATTEMPTS):
            answer = self.client.batch_write_item(RequestItems={self.table: waiting})
            waiting = answer.get("UnprocessedItems", {}).get(self.table, [])
            if not waiting:
                return len(requests)
            _wait(attempt)
        raise sink.SinkUnavailableError(
            f"the DynamoDB table {self.table} is written faster than it takes: {len(waiting)} of"
            f" {len(requests)} items were refused {ATTEMPTS} times; give it more write capacity"
        )

    def _read_again(self, users: pl.DataFrame, run_id: str) -> None:
        sample = users.sample(min(SAMPLE, users.height)).get_column(KEY).to_list()
        wanted = {
            "Keys": [{KEY: {"S": user}} for user in sample],
            "ConsistentRead": True,
            "ProjectionExpression": "run_id",
        }
        waiting: dict[str, Any] = {self.table: wanted} if sample else {}
        found = attempts = 0
        while waiting and attempts < ATTEMPTS:
            answer = self.client.batch_get_item(RequestItems=waiting)
            items = answer["Responses"].get(self.table, [])
            found += sum(item["run_id"]["S"] == run_id for item in items)
            if waiting := answer.get("UnprocessedKeys", {}):
                _wait(attempts)
            attempts += 1
        if found != len(sample):
            raise sink.SinkUnavailableError(
                f"of {len(sample):,} users written to the DynamoDB table {self.table}, {found:,}"
                " have this run's list: does another run write there?"
            )


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0, min(LONGEST_WAIT, 0.1 * 2**attempt)))  # noqa: S311


def _item(user_id: str, items: list[dict[str, Any]], arm: str | None = None) -> dict[str, Any]:
    item = {KEY: {"S": user_id}, "items": {"L": [{"M": _entry(**item)} for item in items]}}
    return item if arm is None else {**item, "arm": {"S": arm}}


def _entry(
    item_id: str, title: str | None = None, score: float | None = None, **_: Any
) -> dict[str, Any]:
    entry = {"item_id": {"S": item_id}}
    if title is not None:
        entry["title"] = {"S": title}
    if score is not None:
        entry["score"] = {"N": repr(score)}
    return entry


def switch_on(table: str) -> str:
    """The command that switches the table's time to live on."""
    return (
        f"aws dynamodb update-time-to-live --table-name {table}"
        f" --time-to-live-specification Enabled=true,AttributeName={EXPIRES}"
    )


@contextmanager
def explained(table: str) -> Iterator[None]:
    """Raises SinkError for what boto3 and the storage raise."""
    try:
        yield
    except exceptions.ClientError as error:
        answer = error.response["Error"]
        message = f"cannot write the DynamoDB table {table}: {answer['Message'] or answer['Code']}"
        if answer["Code"] in TRANSIENT or answer["Code"].startswith("ExpiredToken"):
            raise sink.SinkUnavailableError(message) from error
        raise sink.SinkError(message) from error
    except exceptions.BotoCoreError as error:
        message = f"cannot write the DynamoDB table {table}: {error}"
        transient = isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError))
        raise (sink.SinkUnavailableError if transient else sink.SinkError)(message) from error
    except StorageError as error:
        raise sink.SinkError(str(error)) from error
