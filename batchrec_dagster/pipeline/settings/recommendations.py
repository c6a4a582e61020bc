"""What each user gets."""

from __future__ import annotations

import dagster as dg
from pydantic import Field, field_validator

from batchrec_dagster.formats.batch_inference import MAX_RESULTS


class Recommendations(dg.Model):
    """What each user gets."""

    num_results: int = Field(
        default=25,
        description=f"Items in each user's list, 1 to {MAX_RESULTS}.",
        json_schema_extra={"minimum": 1, "maximum": MAX_RESULTS},
    )
    exclude_seen: bool = Field(
        default=True, description="Leave out the items that the user already interacted with."
    )

    @field_validator("num_results")
    @classmethod
    def _num_results_is_possible(cls, num_results: int) -> int:
        if not 1 <= num_results <= MAX_RESULTS:
            raise ValueError(f"write a whole number from 1 to {MAX_RESULTS}")
        return num_results
