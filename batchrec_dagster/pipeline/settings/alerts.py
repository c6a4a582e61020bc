"""Whom the pipeline tells when something goes wrong."""

from __future__ import annotations

import re

import dagster as dg
from pydantic import Field, field_validator

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
