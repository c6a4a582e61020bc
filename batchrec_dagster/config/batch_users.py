"""Who gets recommendations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from pydantic import Field, field_validator, model_validator

from batchrec_dagster.config.sources import QueriedSource
from batchrec_dagster.preparation.layout import TableFormat
from batchrec_dagster.preparation.sources.source import RatingsSource
from batchrec_dagster.preparation.sources.tables import TextForm


class BatchUsers(QueriedSource):
    """The users who get recommendations: every user of the interactions, or these."""

    source: str | dict[str, str] | None = Field(
        default=None,
        description="A list of users instead: a file, a folder or a pattern as in ratings.source;"
        " CSV, JSON Lines or Parquet.",
        examples=["s3://shop/subscribers.csv"],
    )
    query: str | None = Field(
        default=None,
        description="SQL whose rows are the users, as in ratings.query.",
        examples=["SELECT DISTINCT customer FROM source WHERE newsletter = 'yes'"],
    )
    format: TableFormat | dict[str, TableFormat] | None = Field(
        default=None,
        description="delta: the source is the folder of a Delta table, as in ratings.",
        examples=["delta"],
    )
    column: str | int | None = Field(
        default=None,
        description="The column with the user's id, by name or position. Default: the only column,"
        " or one with a name such as user_id.",
    )
    active_since: str | None = Field(
        default=None,
        description="Only users with an interaction on this day or later (UTC).",
        examples=["2026-01-01"],
    )
    filter: str | None = Field(
        default=None,
        description="Only users who meet this condition on the columns of `users`, in the grammar"
        " of Personalize's filters. Users whom that file does not have get no list.",
        examples=['USERS.CONSENT = "yes"'],
    )

    @field_validator("active_since", mode="before")
    @classmethod
    def _day_exists(cls, day: object) -> object:
        # YAML makes a date of 2026-01-01 without quotes.
        day = None if day is None else str(day)
        if day is not None and "{{" not in day:
            try:
                datetime.strptime(day, "%Y-%m-%d")
            except ValueError:
                raise ValueError("write a day such as 2026-01-01") from None
        return day

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.source is not None and self.active_since is not None:
            raise ValueError("users come from a source or are active_since a day: omit one")
        for name in ("column", "format", "query", "header"):
            if getattr(self, name) is not None and self.source is None:
                raise ValueError(f"{name} belongs to a source: set source, or omit {name}")
        return self

    @property
    def rows(self) -> RatingsSource | None:
        """Where the list of users is; None without a source."""
        return None if self.source is None else self.rows_of("batch_users.query", TextForm())

    @property
    def since(self) -> int | None:
        """`active_since` in epoch seconds."""
        if self.active_since is None:
            return None
        day = datetime.strptime(self.active_since, "%Y-%m-%d").replace(tzinfo=UTC)
        return int(day.timestamp())
