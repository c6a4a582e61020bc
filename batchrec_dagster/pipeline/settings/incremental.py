"""Whether only new interactions are imported and learnt from."""

from __future__ import annotations

import dagster as dg
from pydantic import Field, field_validator


class Incremental(dg.Model):
    """Whether only new interactions are imported and learnt from."""

    enabled: bool = Field(
        default=False,
        description="Import rows that are new (importMode INCREMENTAL) and train with trainingMode"
        " UPDATE; when rows are gone or changed, or when fewer than 1,000 rows or more than 1 GB"
        " are new, everything as before."
        " Needs solution.recipe: aws-user-personalization.",
    )
    full_every_days: int = Field(
        default=7,
        description="After so many days everything is imported and trained on anew.",
    )

    @field_validator("full_every_days")
    @classmethod
    def _days_are_some(cls, full_every_days: int) -> int:
        if full_every_days < 1:
            raise ValueError("write 1 day or more")
        return full_every_days
