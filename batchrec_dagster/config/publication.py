"""The settings of publication: the gate, experiments, retention and the report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from batchrec_dagster.config.settings import Matching, Settings


class Gate(Settings):
    """The conditions that a solution version and its data must meet before lists are published.

    The solution version must also be no worse than popular items.
    """

    min_ndcg_at_25: float = Field(
        default=0.0, ge=0, le=1, description="The least NDCG@25.", examples=[0.05]
    )
    max_drop: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="By which share its NDCG@25 may be lower than that of the published lists; 1:"
        " any. Personalize measures a tenth of the users, so with few users it varies by chance.",
        examples=[0.1],
    )
    min_coverage: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The least coverage: the share of all items that is recommended to anyone.",
        examples=[0.02],
    )

    max_emptied_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="The largest share of users, 0 to 1, whose list recommendations.rules may leave"
        " empty. Above it, or if all lists are empty, nothing is published.",
    )

    max_shrink: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="By which share the interactions, those of each event type, their users and"
        " items, the items file and the filled columns may be smaller than those of the published"
        " lists, before anything is imported; 1: any. Compared only while the settings of the"
        " source stay as they are.",
        examples=[0.1],
    )

    max_age_days: float | None = Field(
        default=None,
        gt=0,
        description="How many days ago the newest interaction may be. Above it, nothing is"
        " published. Unset: any.",
        examples=[7],
    )


ExperimentName = Annotated[
    str, Matching(r"[A-Za-z0-9_-]{1,64}", "write letters, digits, _ and -, at most 64")
]


class Experiment(Settings):
    """A holdout group of users: comparing it with all other users shows the effect of the lists."""

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


class Retention(Settings):
    """The earlier editions and models to keep. Older ones are deleted after each publication."""

    editions: int = Field(
        default=7,
        ge=1,
        description="The number of older editions to keep, to roll back to, with the outputs of"
        " their batch jobs; at least 1.",
        examples=[14],
    )
    models: int = Field(
        default=2,
        ge=1,
        description="The number of trained models to keep of each solution, the one in use among"
        " them, where Personalize runs on this machine; at least 1. On AWS all remain: they cost"
        " nothing, and Amazon Personalize cannot delete one by itself.",
        examples=[3],
    )


class ReportSettings(Settings):
    """Additions to the content that every report has."""

    people: list[str] = Field(
        default_factory=list,
        description="The ids of users whom the report always shows with their history and list,"
        " next to its sample of 200.",
        examples=[["C-0001"]],
    )
