"""How the table of recommendations is published, and for how long it can be had back."""

from __future__ import annotations

import dagster as dg
from pydantic import Field, field_validator

GB = 1_000_000_000


class Publication(dg.Model):
    """How the table of recommendations is published, and for how long it can be had back."""

    history: int = Field(
        default=7,
        description="So many of the lists published before are kept, to roll back to; at least 1.",
    )
    max_file_gb: float = Field(
        default=4,
        description="A table larger than this becomes several files of about this size and a"
        " manifest: S3 takes 5 GB at once.",
    )

    @field_validator("history")
    @classmethod
    def _something_is_kept(cls, history: int) -> int:
        # Whoever reads a table in parts as it is replaced goes on reading the one before.
        if history < 1:
            raise ValueError("write 1 or more: the lists before are what a rollback goes back to")
        return history

    @field_validator("max_file_gb")
    @classmethod
    def _a_file_can_be_put(cls, max_file_gb: float) -> float:
        if not 0 < max_file_gb <= 4.5:
            raise ValueError("write a number of GB above 0, at most 4.5: S3 takes 5 GB at once")
        return max_file_gb

    @property
    def max_file_bytes(self) -> int:
        return max(1, int(self.max_file_gb * GB))
