"""Which ratings count as interactions."""

from __future__ import annotations

import math

import dagster as dg
from pydantic import Field, field_validator


class Interactions(dg.Model):
    """Which ratings count as interactions."""

    min_rating: float | None = Field(
        default=None,
        description="Ratings below this are left out. Without it all are kept.",
        examples=[3.5],
    )

    @field_validator("min_rating")
    @classmethod
    def _min_rating_is_finite(cls, min_rating: float | None) -> float | None:
        if min_rating is not None and not math.isfinite(min_rating):
            raise ValueError("write a number such as 3.5")
        return min_rating
