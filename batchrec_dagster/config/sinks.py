"""Where people use the lists, beside the table in the storage."""

from __future__ import annotations

import re
from typing import Literal, Self

import dagster as dg
from pydantic import ConfigDict, Field, field_validator, model_validator

from batchrec_dagster.storage.object_store import StorageError, split_uri


class Postgres(dg.Model):
    """A PostgreSQL table, replaced whole with each refresh."""

    # What is written where the variable's name belongs may be the URL itself, password and all.
    model_config = ConfigDict(hide_input_in_errors=True, populate_by_name=True)

    url_env: str = Field(
        description="The name of the environment variable that holds the connection's URL,"
        " postgresql://USER:PASSWORD@HOST:PORT/DATABASE; never the URL itself.",
        examples=["SHOP_DATABASE_URL"],
    )
    table: str = Field(
        default="recommendations",
        description="The table, which is made where there is none: user_id, rank, item_id, title,"
        " score; letters, digits and _, at most 40.",
    )
    schema_name: str | None = Field(
        default=None,
        alias="schema",
        description="The schema, which must be there. Default: the connection's own.",
    )

    @property
    def place(self) -> str:
        """The setting that says where it writes, and what that is."""
        schema = f"{self.schema_name}." if self.schema_name else ""
        return f"sinks.postgres.table: {schema}{self.table} at {self.url_env}"

    @field_validator("url_env")
    @classmethod
    def _url_env_is_a_name(cls, url_env: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*", url_env, re.ASCII):
            raise ValueError(
                "write the name of an environment variable, such as SHOP_DATABASE_URL: the URL"
                " itself, which holds the password, has no place here"
            )
        return url_env

    @field_validator("table", "schema_name")
    @classmethod
    def _names_are_possible(cls, name: str | None) -> str | None:
        if name is None or "{{" in name:
            return name
        if not re.fullmatch(r"[A-Za-z_]\w{0,39}", name, re.ASCII):
            raise ValueError("write letters, digits and _, at most 40; no dot, no quotes")
        return name


class DynamoDb(dg.Model):
    """A DynamoDB table with an item for each user."""

    table: str = Field(
        description="The table: its partition key is user_id of type S, and it has no sort key.",
        examples=["shop-recommendations"],
    )
    ttl_days: int = Field(
        default=30,
        description="For so many days a list is good that no refresh has renewed: expires_at says"
        " until when, for the table's time to live.",
    )

    @property
    def place(self) -> str:
        """The setting that says where it writes, and what that is."""
        return f"sinks.dynamodb.table: {self.table}"

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


class Export(dg.Model):
    """A file, such as a mailing tool takes in."""

    format: Literal["csv", "jsonl"] = Field(
        default="csv", description="csv, or jsonl (JSON Lines: an object a line)."
    )
    rows: Literal["per_user", "per_item"] = Field(
        default="per_user",
        description="per_user: a row for each user, with item_1, title_1, item_2 … (csv) or a list"
        " of items (jsonl); per_item: a row for each user and item, as in the table.",
    )
    bom: bool = Field(
        default=False,
        description="csv: whether it begins with a byte order mark, by which Excel knows UTF-8.",
    )
    path: str | None = Field(
        default=None,
        description="A path or s3://bucket/key; a relative path starts at the project's folder."
        " Default: NAME/curated/exports/recommendations.csv (or .jsonl) in the storage.",
        examples=["s3://mailing/lists.csv"],
    )

    @field_validator("path")
    @classmethod
    def _path_is_possible(cls, path: str | None) -> str | None:
        if path is None or "{{" in path:
            return path
        if path.startswith("s3://"):
            try:
                _, key = split_uri(path)
            except StorageError as error:
                raise ValueError(str(error)) from error
        elif "://" in path:
            raise ValueError(f"{path}: write a path or s3://bucket/key")
        else:
            key = path
        if not key or key.endswith("/"):
            raise ValueError(f"{path} is a folder: add the file's name")
        return path

    @model_validator(mode="after")
    def _bom_is_of_csv(self) -> Self:
        if self.bom and self.format != "csv":
            raise ValueError("bom is of csv: leave it out")
        return self


class Sinks(dg.Model):
    """Where people use the lists: each that is declared is written after every refresh."""

    postgres: Postgres | None = Field(
        default=None, description="A PostgreSQL table, replaced whole with each refresh."
    )
    dynamodb: DynamoDb | None = Field(
        default=None, description="A DynamoDB table with an item for each user."
    )
    export: Export | None = Field(
        default=None, description="A CSV or JSON Lines file, such as a mailing tool takes in."
    )
