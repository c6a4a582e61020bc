"""Which interactions decide what is popular."""

from __future__ import annotations

from pydantic import Field

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.validation import validate_range


class Popularity(Settings):
    """Which items are popular: those that most people had in the last days.

    They are what an experiment's control and newcomers get, and what fills lists that rules leave
    short. With solution.success, only these events count.
    """

    days: int = Field(
        default=30,
        description="Only interactions of this many days before the newest one count.",
        examples=[30],
    )

    _at_least_a_day = validate_range("days", least=1)
