"""Which ratings count as interactions, and where they are prepared."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.validation import Matching, checked_by
from batchrec_dagster.preparation.polars.row_conditions import list_filter_columns
from batchrec_dagster.preparation.rules import Rules


class Window(Settings):
    """How far back interactions go, from the newest one."""

    days: int = Field(
        ge=1,
        description="Drop interactions more than this many days older than the newest one.",
        examples=[365],
    )


class InteractionSettings(Settings):
    """Which ratings count as interactions; the rules apply in this order."""

    min_rating: float | None = Field(
        default=None, description="Drop ratings below this. Default: keep all.", examples=[3.5]
    )
    filter: Annotated[str, checked_by(list_filter_columns)] | None = Field(
        default=None,
        description="A SQL condition on the columns of the file; only rows that match are kept."
        " Columns of a file without a header are column_1, column_2 and so on.",
        examples=["event IN ('cart', 'purchase') AND price > 0"],
    )
    window: Window | None = Field(
        default=None, description="Keep only the interactions of the last days of the data."
    )
    duplicates: Literal["keep", "drop"] = Field(
        default="keep",
        description="Whether rows that are equal in every column Personalize gets count each time"
        " (keep) or once (drop).",
    )
    latest_per_pair: bool = Field(
        default=False, description="Keep only the latest interaction of each user with each item."
    )
    min_interactions_per_user: int | None = Field(
        default=None, ge=1, description="Drop users with fewer interactions.", examples=[5]
    )
    min_interactions_per_item: int | None = Field(
        default=None, ge=1, description="Drop items with fewer interactions.", examples=[5]
    )

    def rules(self, on_bad_rows: Literal["fail", "skip"], *, event_type: bool) -> Rules:
        """The rules as preparation takes them.

        event_type: whether EVENT_TYPE is written.
        """
        return Rules(
            on_bad_rows=on_bad_rows,
            window_days=self.window.days if self.window else None,
            event_type=event_type,
            **self.model_dump(exclude={"window"}),
        )


RoleArn = Annotated[
    str,
    Matching(
        r"arn:[\w-]+:iam::\d+:.*",
        "write an ARN such as arn:aws:iam::123456789012:role/batchrec-spark",
    ),
]
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
