"""Whether new ratings are refreshed on by themselves."""

from __future__ import annotations

import dagster as dg
from pydantic import Field, field_validator

LEAST = 5


class FreshData(dg.Model):
    """Whether the pipeline runs by itself when there are new ratings."""

    enabled: bool = Field(
        default=False,
        description="Whether the sensor is on from the start. It can be switched in the UI too.",
    )
    every_seconds: int = Field(
        default=60,
        description="How often ratings.source is looked at. A refresh is asked for when it has not"
        " changed from one look to the next, and none is under way.",
    )

    @field_validator("every_seconds")
    @classmethod
    def _a_look_takes_some_seconds(cls, every_seconds: int) -> int:
        if every_seconds < LEAST:
            raise ValueError(f"write {LEAST} seconds or more: a look takes some itself")
        return every_seconds
