"""Which interactions decide what is popular."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import dagster as dg
from pydantic import Field, field_validator

from batchrec_dagster.personalize.schemas import MAX_EVENT_TYPES

AUTO: Literal["auto"] = "auto"
ALL_TIME: Literal["all"] = "all"


class Popularity(dg.Model):
    """Which items are popular: those that most people had in the last days.

    They are what an experiment's control and newcomers get, and what fills lists that rules leave
    short.
    """

    days: int | Literal["auto", "all"] = Field(
        default=AUTO,
        description="Only interactions of the last days before the newest one count: a number; all,"
        " for those of all time; or auto, which chooses 7, 30, 90, 365 or all by what people chose"
        " later in the data.",
        examples=[30],
    )
    events: dict[str, float] = Field(
        default_factory=dict,
        description="How much a person counts for an item by the type of their interaction with it;"
        " of several, the largest weight counts, and other types do not count. Needs"
        " ratings.columns.event_type. Default: all count alike.",
        examples=[{"purchase": 1, "view": 0.1}],
    )

    @field_validator("days")
    @classmethod
    def _days_are_possible(cls, days: int | str) -> int | str:
        if isinstance(days, int) and (isinstance(days, bool) or days < 1):
            raise ValueError("write a number of 1 or more, all or auto")
        return days

    @field_validator("events")
    @classmethod
    def _weights_are_possible(cls, events: dict[str, float]) -> dict[str, float]:
        if len(events) > MAX_EVENT_TYPES:
            raise ValueError(f"Personalize takes at most {MAX_EVENT_TYPES} event types")
        if not all(0 < weight <= 1_000_000 for weight in events.values()):
            raise ValueError("write weights above 0, or omit a type of event that does not count")
        if len({name.lower() for name in events}) < len(events):
            raise ValueError("an event type is named twice: upper and lower case are the same")
        return events

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each event type, by its name in lower case; empty if all count alike."""
        return {name.lower(): weight for name, weight in self.events.items()}
