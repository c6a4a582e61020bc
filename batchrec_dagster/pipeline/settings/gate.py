"""What a new solution version has to be like before its lists are published."""

from __future__ import annotations

import dagster as dg
from pydantic import Field, field_validator


class Gate(dg.Model):
    """What a new solution version has to be like before its lists are published. It also has to be
    no worse than popularity, where solution.compare_with_popularity is on."""

    min_ndcg_at_25: float = Field(
        default=0.0, description="Its NDCG@25 must not be less.", examples=[0.05]
    )
    max_drop: float = Field(
        default=0.3,
        description="Its NDCG@25 may be less than that of the published lists by this share; 1"
        " compares with nothing. Personalize measures a tenth of the users, so that of few users it"
        " changes by chance too.",
        examples=[0.1],
    )
    min_coverage: float = Field(
        default=0.0,
        description="Its coverage, the share of all items that anyone is recommended, must not be"
        " less.",
        examples=[0.02],
    )

    @field_validator("min_ndcg_at_25", "max_drop", "min_coverage")
    @classmethod
    def _is_a_share(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError("write a number from 0 to 1, such as 0.1")
        return value
