"""When the pipeline runs by itself."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field, field_validator


class Schedule(dg.Model):
    """When the pipeline runs by itself."""

    cron: str = Field(
        default="0 3 * * *",
        description="Minute, hour, day of the month, month, day of the week.",
        examples=["0 3 * * *", "@daily"],
    )
    timezone: str = Field(
        default="UTC", description="An IANA time zone.", examples=["Europe/Berlin"]
    )
    enabled: bool = Field(
        default=False,
        description="Whether the schedule is on from the start. It can be switched in the UI too.",
    )

    @field_validator("cron")
    @classmethod
    def _cron_is_valid(cls, cron: str) -> str:
        try:
            dg.ScheduleDefinition(name="check", cron_schedule=cron, job_name="check")
        except dg.DagsterInvalidDefinitionError:
            raise ValueError(
                'not a cron schedule; write five fields such as "0 3 * * *" (every day at 3:00)'
            ) from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError):
            raise ValueError('unknown time zone; write one such as "Europe/Berlin"') from None
        return timezone
