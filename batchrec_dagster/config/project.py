"""How a pipeline fits into a project: its steps, schedule, sensor, alerts and budget."""

from __future__ import annotations

import re
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field, field_validator

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.validation import validate_pattern, validate_range, validate_with


def check_cron(cron: str) -> None:
    """Raise ValueError unless it is a cron schedule."""
    try:
        dg.ScheduleDefinition(name="check", cron_schedule=cron, job_name="check")
    except dg.DagsterInvalidDefinitionError:
        raise ValueError(
            'not a cron schedule; write five fields such as "0 3 * * *" (every day at 3:00)'
        ) from None


def check_zone(timezone: str) -> None:
    """Raise ValueError unless it is an IANA time zone."""
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise ValueError('unknown time zone; write one such as "Europe/Berlin"') from None


class Schedule(Settings):
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
        description="Whether the schedule is on from the start. The UI can switch it too.",
    )

    _cron_is_valid = validate_with(check_cron, "cron")
    _timezone_exists = validate_with(check_zone, "timezone")


class OnNewFiles(Settings):
    """Whether new files of ratings start a refresh."""

    enabled: bool = Field(
        default=False,
        description="Whether the sensor is on from the start. The UI can switch it too.",
    )
    every_seconds: int = Field(
        default=60,
        description="How often ratings.source is checked. A refresh starts once it is unchanged"
        " from one check to the next and no other refresh is running. At least 5:"
        " a check itself takes some.",
    )

    _seconds_in_range = validate_range("every_seconds", least=5)


class Alerts(Settings):
    """Who gets a message when a run or check fails, the schedule is late, or lists are new."""

    urls_env: str | None = Field(
        default=None,
        description="The environment variable with the URLs of Apprise that get the messages,"
        " separated by spaces: Slack, Amazon SNS, e-mail and a hundred other services.",
        examples=["SHOP_ALERTS"],
    )
    late_after_hours: float = Field(
        default=6,
        description="Alert if no new lists are published this many hours after the scheduled time.",
    )
    published: bool = Field(
        default=False,
        description="Whether new lists are announced too, with the report's verdict and what has"
        " changed.",
    )
    dagster_url: str = Field(
        default="http://127.0.0.1:3000", description="The URL of Dagster's UI, for links in alerts."
    )

    # Anyone with the URLs may post, so the error does not repeat them.
    _urls_stay_secret = validate_pattern(
        "urls_env",
        pattern=r"[A-Za-z_]\w*",
        or_else="write the name of an environment variable, and put the URLs into that",
    )

    _hours_in_range = validate_range("late_after_hours", above=0)

    @field_validator("dagster_url")
    @classmethod
    def _url_is_one(cls, url: str) -> str:
        if "{{" not in url and not re.match(r"https?://[^/]", url):
            raise ValueError("write a URL such as https://dagster.example.com")
        return url.rstrip("/")

    @property
    def enabled(self) -> bool:
        """Whether anybody gets messages."""
        return self.urls_env is not None


class Budget(Settings):
    """What a run may cost in Amazon Personalize."""

    max_usd_per_run: float | None = Field(
        default=None,
        description="personalize_dataset estimates the whole run before it imports anything, and"
        " stops if that is more. The prices are those of us-east-1, or those in the file"
        " BATCHREC_PRICES.",
        examples=[20],
    )

    _amount_in_range = validate_range("max_usd_per_run", above=0)


class Retries(Settings):
    """How often Dagster runs a failed step again in the same run."""

    max_retries: int = Field(default=2, description="How often at most.")
    delay_seconds: float = Field(
        default=60, description="The pause before the first; it doubles each time."
    )

    _retries_in_range = validate_range("max_retries", least=1)
    _delay_in_range = validate_range("delay_seconds", least=0)


class OpSettings(Settings):
    """How Dagster runs the step of an asset."""

    pool: str | None = Field(
        default=None, description="The pool that limits how many steps run at once."
    )
    tags: dict[str, Any] = Field(
        default={},
        description="Tags of the step, for executors and run launchers.",
        examples=[{"ecs/cpu": "1024"}],
    )
    retries: Retries | None = Field(
        default=None,
        description="Whether Dagster runs a failed step again. Default: only a sink that is"
        " unavailable. With the in-process executor, Dagster also retries a canceled step.",
    )
