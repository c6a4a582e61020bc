"""The settings of a pipeline's runs: engine, steps, schedule, sensor, alerts and budget."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from batchrec_dagster.config.settings import Matching, RoleArn, Settings, accepted_by

MemorySize = Annotated[str, Matching(r"\d+[mg]", "write a size such as 4g")]

_SETTINGS_OF_ENGINE = {
    "local": [],
    "spark": ["memory"],
    "glue": ["job_name", "role", "worker_type", "workers", "timeout_minutes"],
}


class PreparationSettings(Settings):
    """The engine that turns ratings into interactions; every engine gives the same rows."""

    engine: Literal["local", "spark", "glue"] = Field(
        default="local",
        description="local: Polars on this machine, the fastest up to some hundred million rows;"
        " spark: Spark on this machine, to try what runs on AWS; glue: an AWS Glue job, which"
        " needs storage in S3.",
    )
    job_name: str | None = Field(
        default=None,
        description="glue: the name of the job. If it does not exist, it is created with role.",
        examples=["batchrec-preparation"],
    )
    role: RoleArn | None = Field(
        default=None,
        description="The ARN of the IAM role with which the job reads and writes the bucket.",
        examples=["arn:aws:iam::123456789012:role/batchrec-spark"],
    )
    worker_type: Literal["G.1X", "G.2X", "G.4X", "G.8X"] | None = Field(
        default=None, description="glue: the worker type. Default: the job's own."
    )
    workers: int | None = Field(
        default=None,
        ge=2,
        description="glue: the number of workers, the driver among them. Default: the job's own.",
    )
    timeout_minutes: int | None = Field(
        default=None, ge=1, description="glue: the time limit. Default: the job's own."
    )
    memory: MemorySize | None = Field(
        default=None, description="spark: the memory of its JVM.", examples=["4g"]
    )

    @property
    def on_aws(self) -> bool:
        """Whether a job on AWS prepares the interactions, from S3 to S3."""
        return self.engine == "glue"

    @model_validator(mode="after")
    def _settings_belong_to_the_engine(self) -> Self:
        for name in type(self).model_fields:
            if name == "engine" or getattr(self, name) is None:
                continue
            if name not in _SETTINGS_OF_ENGINE[self.engine]:
                (owner,) = (
                    engine for engine, names in _SETTINGS_OF_ENGINE.items() if name in names
                )
                raise ValueError(
                    f"{name} is a setting of engine {owner}, not of {self.engine}: omit it"
                )
        if self.engine == "glue" and self.job_name is None:
            raise ValueError("engine glue needs job_name")
        return self


def require_zone(timezone: str) -> None:
    """Raise ValueError unless the text is an IANA time zone."""
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise ValueError('unknown time zone; write one such as "Europe/Berlin"') from None


NOT_CRON = 'not a cron schedule; write five fields such as "0 3 * * *" (every day at 3:00)'
# The pattern checks only the form. Dagster checks the values of the fields.
CronSchedule = Annotated[str, Matching(r"@[a-z]+|\S+( +\S+){4}", NOT_CRON)]


class Schedule(Settings):
    """The times at which the pipeline runs by itself."""

    cron: CronSchedule = Field(
        default="0 3 * * *",
        description="Minute, hour, day of the month, month, day of the week.",
        examples=["0 3 * * *", "@daily"],
    )
    timezone: Annotated[str, accepted_by(require_zone)] = Field(
        default="UTC", description="An IANA time zone.", examples=["Europe/Berlin"]
    )
    enabled: bool = Field(
        default=False,
        description="Whether the schedule is on from the start. The UI can switch it too.",
    )


class OnNewFiles(Settings):
    """Whether new files of ratings start a refresh."""

    enabled: bool = Field(
        default=False,
        description="Whether the sensor is on from the start. The UI can switch it too.",
    )
    every_seconds: int = Field(
        default=60,
        ge=5,
        description="How often ratings.source is checked. A refresh starts once it is unchanged"
        " from one check to the next. While another refresh runs, it waits. At least 5: a check"
        " itself takes some.",
    )


VariableName = Annotated[
    str,
    Matching(
        r"[A-Za-z_]\w*", "write the name of an environment variable, and put the URLs into that"
    ),
]


class Alerts(Settings):
    """The receivers of messages about failed runs and checks, late lists and new lists."""

    urls_env: VariableName | None = Field(
        default=None,
        description="The environment variable with the URLs of Apprise that get the messages,"
        " separated by spaces: Slack, Amazon SNS, e-mail and a hundred other services.",
        examples=["SHOP_ALERTS"],
    )
    late_after_hours: float = Field(
        default=6,
        gt=0,
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

    @field_validator("dagster_url")
    @classmethod
    def _url_is_one(cls, url: str) -> str:
        if not re.match(r"https?://[^/]", url):
            raise ValueError("write a URL such as https://dagster.example.com")
        return url.rstrip("/")

    @property
    def enabled(self) -> bool:
        """Whether anybody gets messages."""
        return self.urls_env is not None


class Budget(Settings):
    """The limit on a run's cost in Amazon Personalize."""

    max_usd_per_run: float | None = Field(
        default=None,
        gt=0,
        description="personalize_dataset estimates the whole run before it imports anything, and"
        " stops if that is more. The prices are those of us-east-1, or those in the file"
        " BATCHREC_PRICES.",
        examples=[20],
    )


class Retries(Settings):
    """The number of times that Dagster repeats a failed step in the same run."""

    max_retries: int = Field(default=2, ge=1, description="How often at most.")
    delay_seconds: float = Field(
        default=60, ge=0, description="The pause before the first; it doubles each time."
    )


class OpSettings(Settings):
    """The settings by which Dagster runs the step of an asset."""

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
        description="Whether Dagster runs a step again after an error that may pass, such as a"
        " broken connection, or after a bug. Default: only a sink that is unavailable.",
    )
