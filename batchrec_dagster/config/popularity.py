"""Which interactions decide what is popular."""

from __future__ import annotations

from pydantic import Field

from batchrec_dagster.config.settings import Settings


class Popularity(Settings):
    """Which items are popular: those that most people had in the last days.

    They are what an experiment's control and newcomers get, and what fills lists that rules leave
    short. With solution.success, only these events count.
    """

    days: int = Field(
        default=30,
        ge=1,
        description="Only interactions of this many days before the newest one count.",
        examples=[30],
    )
