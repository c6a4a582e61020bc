"""The sink that writes the lists to a DynamoDB table, with an item for each user."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import dagster as dg
import polars as pl
from pydantic import Field, field_validator

from batchrec_dagster.sinks import sink
from batchrec_dagster.sinks.dynamodb_table import (
    UserListTable,
    build_time_to_live_command,
    raise_as_sink_errors,
)
from batchrec_dagster.storage.layout import SIMILAR_ITEMS, PipelineFiles, StorageKeys
from batchrec_dagster.storage.list_subjects import ITEMS, USERS


class DynamoDbSink(dg.Model):
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
        with raise_as_sink_errors(self.table):
            table = self._open_table(context)
            table_arn, removes_expired = table.check()
            table.check_owner(table_arn)
        if not removes_expired:
            return sink.SinkCheck(
                f"the time to live of {self.table} is off", build_time_to_live_command(self.table)
            )
        return sink.SinkCheck(f"the table {self.table} is there")

    def write(self, lists: pl.LazyFrame, context: sink.SinkContext) -> sink.SinkResult:
        with raise_as_sink_errors(self.table):
            return self._open_table(context).write(lists, context.run_id)

    def count_users(self, users: Collection[str], context: sink.SinkContext) -> int:
        with raise_as_sink_errors(self.table):
            return self._open_table(context).count_users(users)

    def erase_users(self, users: Collection[str], context: sink.SinkContext) -> int:
        with raise_as_sink_errors(self.table):
            return self._open_table(context).erase_users(users)

    def _open_table(self, context: sink.SinkContext) -> UserListTable:
        storage = context.storage
        keys = StorageKeys(context.pipeline)
        return UserListTable(
            client=storage.client("dynamodb"),
            table=self.table,
            ttl_days=self.ttl_days,
            files=PipelineFiles(storage, keys),
            owner=f"{context.pipeline} in {storage.uri('')}",
            key=(ITEMS if keys.table == SIMILAR_ITEMS else USERS).column,
        )
