"""How much of what earlier editions left is kept."""

from __future__ import annotations

from pydantic import Field

from batchrec_dagster.config.settings import Settings


class Retention(Settings):
    """What is kept of earlier editions. The rest is deleted after each publication."""

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
