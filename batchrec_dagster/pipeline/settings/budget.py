"""What a run may cost."""

from __future__ import annotations

import dagster as dg
from pydantic import Field, field_validator


class Budget(dg.Model):
    """What a run may cost in Amazon Personalize."""

    max_usd_per_run: float | None = Field(
        default=None,
        description="A run that is estimated to cost more imports and trains nothing, and says what"
        " it would cost. The estimate goes by pipeline/prices.yaml.",
        examples=[20],
    )

    @field_validator("max_usd_per_run")
    @classmethod
    def _is_an_amount(cls, most: float | None) -> float | None:
        if most is not None and not 0 < most < float("inf"):
            raise ValueError("write an amount of USD above 0, or leave it out")
        return most
