"""Experiments: which share of the users is the control, and what the control gets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.validation import Matching

ExperimentName = Annotated[
    str, Matching(r"[A-Za-z0-9_-]{1,64}", "write letters, digits, _ and -, at most 64")
]


class Experiment(Settings):
    """A holdout: by comparing its users with the others one learns what the lists cause."""

    name: ExperimentName = Field(
        description="Letters, digits, _ and -, at most 64. Another name divides the users in"
        " another way.",
        examples=["holdout_2027"],
    )
    control_share: float = Field(
        default=0.1,
        gt=0,
        le=0.5,
        description="The share of users in the control, more than 0 and at most 0.5. With a larger"
        " share users only move into the control, with a smaller one only out of it.",
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
