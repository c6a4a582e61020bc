"""Who gets recommendations."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Self

from pydantic import Field, model_validator

from batchrec_dagster.config.settings import Day
from batchrec_dagster.config.sources import IdSource
from batchrec_dagster.preparation.sources.source import RatingsSource


class BatchUsers(IdSource):
    """The users who get recommendations: every user of the interactions, or these."""

    block = "batch_users"

    source: str | dict[str, str] | None = Field(
        default=None,
        description="A list of users instead: a file, a folder or a pattern as in ratings.source;"
        " CSV, JSON Lines or Parquet.",
        examples=["s3://shop/subscribers.csv"],
    )
    active_since: Day | None = Field(
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

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.source is not None and self.active_since is not None:
            raise ValueError("users come from a source or are active_since a day: omit one")
        for name in ("column", "format", "query", "header"):
            if getattr(self, name) is not None and self.source is None:
                raise ValueError(f"{name} belongs to a source: set source, or omit {name}")
        return self

    @property
    def declared_rows(self) -> RatingsSource | None:
        """Where the list of users is; None without a source."""
        return None if self.source is None else self.rows

    @property
    def since(self) -> int | None:
        """`active_since` in epoch seconds."""
        if self.active_since is None:
            return None
        return int(datetime.combine(self.active_since, time(), UTC).timestamp())
