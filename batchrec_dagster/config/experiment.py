"""Experiments: which share of the users is the control, and what the control gets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.validation import validate_pattern, validate_range


class Experiment(Settings):
    """A holdout: by comparing its users with the others one learns what the lists cause."""

    name: str = Field(
        description="Letters, digits, _ and -, at most 64. Another name divides the users in"
        " another way.",
        examples=["holdout_2027"],
        # Or a template.
        json_schema_extra={"pattern": r"^([A-Za-z0-9_-]{1,64}|.*\{\{.*)$"},
    )
    control_share: float = Field(
        default=0.1,
        description="The share of users in the control, more than 0 and at most 0.5. With a larger"
        " share users only move into the control, with a smaller one only out of it.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 0.5},
    )
    control: Literal["popular", "none"] = Field(
        default="popular",
        description="What the control gets: popular (the items that the block popularity counts as"
        " popular) or none (no rows in the table).",
    )
    salt: str = Field(
        default="",
        description="Any text: another one divides the users in another way under the same name.",
    )

    _name_is_possible = validate_pattern(
        "name", pattern=r"[A-Za-z0-9_-]{1,64}", or_else="write letters, digits, _ and -, at most 64"
    )

    _share_in_range = validate_range("control_share", above=0, most=0.5)
