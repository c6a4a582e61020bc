"""Which lists are published."""

from __future__ import annotations

from pydantic import Field

from batchrec_dagster.config.settings import Settings


class Gate(Settings):
    """How good a new solution version, and how complete its data, must be for its lists to be
    published.

    It must also be no worse than popular items.
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
