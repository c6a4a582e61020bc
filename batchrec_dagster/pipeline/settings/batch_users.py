"""Whom Personalize recommends to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

import dagster as dg
from pydantic import Field, field_validator, model_validator

from batchrec_dagster.pipeline.settings.sources import known_source


class BatchUsers(dg.Model):
    """Whom Personalize recommends to: every user of the interactions, or these."""

    source: str | None = Field(
        default=None,
        description="A list of users in place of those of the interactions: a file, a folder or a"
        " pattern as in ratings.source; CSV, JSON Lines or Parquet.",
        examples=["s3://shop/subscribers.csv"],
    )
    column: str | int | None = Field(
        default=None,
        description="The column of the list with the user's id, by name or position. Default: the"
        " only one, or one of a name such as user_id.",
    )
    active_since: str | None = Field(
        default=None,
        description="Only users with an interaction on this day or later (UTC).",
        examples=["2026-01-01"],
    )

    @field_validator("source")
    @classmethod
    def _source_is_known(cls, source: str | None) -> str | None:
        return None if source is None else known_source(source, many=True)

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
            raise ValueError("users come from a source or are active_since a day: leave one out")
        if self.column is not None and self.source is None:
            raise ValueError("column is of a source: say where the list is, or leave it out")
        return self

    @property
    def since(self) -> int | None:
        """`active_since` in epoch seconds."""
        if self.active_since is None:
            return None
        day = datetime.strptime(self.active_since, "%Y-%m-%d").replace(tzinfo=UTC)
        return int(day.timestamp())
