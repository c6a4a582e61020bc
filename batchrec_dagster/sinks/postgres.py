"""The settings of the PostgreSQL table with the lists; `postgres_table` writes the table."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import polars as pl
from pydantic import ConfigDict, Field, field_validator

from batchrec_dagster.errors import UserError
from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.extras import require

if TYPE_CHECKING:
    from batchrec_dagster.sinks.postgres_table import PostgresTarget


class PostgresSink(sink.Sink):
    """A PostgreSQL table, replaced whole with each refresh."""

    asset: ClassVar[str] = "recommendations_in_postgres"
    # Somebody may write the URL itself, with its password, in place of the variable's name. So
    # errors must not repeat the input.
    model_config = ConfigDict(hide_input_in_errors=True, populate_by_name=True)

    url_env: str = Field(
        description="The name of the environment variable that holds the connection's URL,"
        " postgresql://USER:PASSWORD@HOST:PORT/DATABASE; never the URL itself.",
        examples=["SHOP_DATABASE_URL"],
    )
    table: str = Field(
        default="recommendations",
        description="The table, which is made where there is none: user_id, rank, item_id, title or"
        " recommendations.columns, score, and arm with an experiment; letters, digits and _, at"
        " most 40. Default for similar items: similar_items.",
    )
    schema_name: str | None = Field(
        default=None,
        alias="schema",
        description="The schema, which must be there. Default: the connection's own.",
    )

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

    @property
    def _qualified_name(self) -> str:
        return f"{self.schema_name}.{self.table}" if self.schema_name else self.table

    def describe(self, project: Path) -> sink.SinkDescription:
        return sink.SinkDescription(
            text=f"The lists in the PostgreSQL table {self.table}, replaced in one transaction:"
            " readers see either the old lists or the new ones.",
            kind="postgres",
            place=f"sinks.postgres.table: {self._qualified_name} at {self.url_env}",
            removal=f"the PostgreSQL table {self._qualified_name} at {self.url_env}:"
            f" DROP TABLE {self._qualified_name}",
            secret=self.url_env,
        )

    def check(self, context: sink.SinkContext) -> sink.SinkCheck:
        return sink.SinkCheck(f"{self._make_target(context).check_writable()} can be written")

    def has_lists(self, context: sink.SinkContext) -> bool:
        return self._make_target(context).has_lists()

    def write(self, lists: pl.LazyFrame, context: sink.SinkContext) -> sink.SinkResult:
        return self._make_target(context).replace_lists(lists)

    def _make_target(self, context: sink.SinkContext) -> PostgresTarget:
        """Return the table to write, with the URL from the environment.

        Raises UserError.
        """
        url = os.environ.get(self.url_env)
        if not url:
            raise UserError(
                f"the environment variable {self.url_env} is not set: set it to"
                " postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            )
        require("postgres", "sinks.postgres")
        # psycopg2 is installed only with the extra that was just required.
        from batchrec_dagster.sinks.postgres_table import PostgresTarget

        return PostgresTarget(url, self.url_env, self.table, self.schema_name, context.address)
