"""What a run may cost."""

from __future__ import annotations

import re
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


LEAST = 5


class OnNewFiles(dg.Model):
    """Whether the pipeline runs by itself when there are new ratings."""

    enabled: bool = Field(
        default=False,
        description="Whether the sensor is on from the start. It can be switched in the UI too.",
    )
    every_seconds: int = Field(
        default=60,
        description="How often ratings.source is looked at. A refresh is asked for when it has not"
        " changed from one look to the next, and none is under way.",
    )

    @field_validator("every_seconds")
    @classmethod
    def _a_look_takes_some_seconds(cls, every_seconds: int) -> int:
        if every_seconds < LEAST:
            raise ValueError(f"write {LEAST} seconds or more: a look takes some itself")
        return every_seconds


TOPIC = re.compile(r"arn:[a-z\d-]+:sns:([a-z\d-]+):\d{12}:[\w-]+")


class Alerts(dg.Model):
    """Whom the pipeline tells when a run fails, a check stops one, or the schedule is late."""

    sns_topic: str | None = Field(
        default=None,
        description="The ARN of an Amazon SNS topic.",
        examples=["arn:aws:sns:eu-west-1:123456789012:recommendations"],
    )
    slack_webhook_env: str | None = Field(
        default=None,
        description="The name of the environment variable that has the URL of a Slack webhook.",
        examples=["SLACK_WEBHOOK"],
    )
    late_after_hours: float = Field(
        default=6,
        description="So many hours after the schedule's time there must be new recommendations.",
    )
    dagster_url: str = Field(
        default="http://127.0.0.1:3000",
        description="Where people open Dagster's UI, for the links in the messages.",
    )

    @field_validator("sns_topic")
    @classmethod
    def _topic_is_an_arn(cls, topic: str | None) -> str | None:
        if topic is not None and "{{" not in topic and not TOPIC.fullmatch(topic):
            raise ValueError("write the topic's ARN: arn:aws:sns:REGION:ACCOUNT:NAME")
        return topic

    @field_validator("slack_webhook_env")
    @classmethod
    def _webhook_stays_secret(cls, name: str | None) -> str | None:
        # Whoever has the URL may post. It is not repeated here.
        if name is not None and not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(
                "write the name of an environment variable, and put the webhook's URL into that"
            )
        return name

    @field_validator("late_after_hours")
    @classmethod
    def _hours_are_some(cls, hours: float) -> float:
        if not 0 < hours < float("inf"):
            raise ValueError("write a number of hours above 0")
        return hours

    @field_validator("dagster_url")
    @classmethod
    def _url_is_one(cls, url: str) -> str:
        if "{{" not in url and not re.match(r"https?://[^/]", url):
            raise ValueError("write a URL such as https://dagster.example.com")
        return url.rstrip("/")

    @property
    def enabled(self) -> bool:
        """Whether anybody is told."""
        return self.sns_topic is not None or self.slack_webhook_env is not None


class Budget(dg.Model):
    """What a run may cost in Amazon Personalize."""

    max_usd_per_run: float | None = Field(
        default=None,
        description="A run that is estimated to cost more imports and trains nothing, and says what"
        " it would cost. The estimate goes by personalize/prices.yaml.",
        examples=[20],
    )

    @field_validator("max_usd_per_run")
    @classmethod
    def _is_an_amount(cls, most: float | None) -> float | None:
        if most is not None and not 0 < most < float("inf"):
            raise ValueError("write an amount of USD above 0, or leave it out")
        return most
