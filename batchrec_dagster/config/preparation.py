"""`preparation`: where ratings become interactions, on this machine or on Spark."""

from __future__ import annotations

import re
from typing import Literal, Self

import dagster as dg
from pydantic import Field, ValidationInfo, field_validator, model_validator

# Which settings belong to which engine; the first ones are needed.
_NEEDED = {"glue": ["job_name"], "emr_serverless": ["application_id", "role"]}
_ALLOWED = {
    "local": [],
    "spark": ["memory"],
    "glue": ["job_name", "role", "worker_type", "workers", "timeout_minutes"],
    "emr_serverless": ["application_id", "role", "timeout_minutes", "spark_submit_parameters"],
}


class Preparation(dg.Model):
    """Where ratings become interactions. The rows are the same on every engine."""

    engine: Literal["local", "spark", "glue", "emr_serverless"] = Field(
        default="local",
        description="local: on this machine, the fastest up to some hundred million rows; spark: a"
        " Spark on this machine, to try what runs on AWS; glue: an AWS Glue job; emr_serverless: an"
        " EMR Serverless application. The last two need the storage in S3.",
    )
    job_name: str | None = Field(
        default=None,
        description="glue: the name of the job. It is created when there is none, with role.",
        examples=["batchrec-preparation"],
    )
    application_id: str | None = Field(
        default=None,
        description="emr_serverless: the id of the application, of type Spark and release 7.",
        examples=["00fkht2eodujab09"],
    )
    role: str | None = Field(
        default=None,
        description="The ARN of the IAM role by which the job reads and writes the bucket.",
        examples=["arn:aws:iam::123456789012:role/batchrec-spark"],
    )
    worker_type: Literal["G.1X", "G.2X", "G.4X", "G.8X"] | None = Field(
        default=None, description="glue: the size of a worker. Default: the job's own."
    )
    workers: int | None = Field(
        default=None, description="glue: how many workers. Default: the job's own."
    )
    timeout_minutes: int | None = Field(
        default=None,
        description="glue, emr_serverless: how long it may take. Default: the job's own.",
    )
    spark_submit_parameters: str | None = Field(
        default=None,
        description="emr_serverless: more for spark-submit, such as the Python 3.11 to use.",
        examples=["--conf spark.emr-serverless.driverEnv.PYSPARK_PYTHON=/usr/bin/python3.11"],
    )
    memory: str | None = Field(
        default=None, description="spark: the memory of its JVM.", examples=["4g"]
    )

    @field_validator("role")
    @classmethod
    def _role_is_an_arn(cls, role: str | None) -> str | None:
        if role is not None and "{{" not in role and not re.match(r"arn:[\w-]+:iam::\d+:", role):
            raise ValueError("write an ARN such as arn:aws:iam::123456789012:role/batchrec-spark")
        return role

    @field_validator("workers", "timeout_minutes")
    @classmethod
    def _numbers_are_possible(cls, number: int | None, info: ValidationInfo) -> int | None:
        # Glue counts the driver among the workers.
        least = 2 if info.field_name == "workers" else 1
        if number is not None and number < least:
            raise ValueError(f"write a whole number from {least} on")
        return number

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, memory: str | None) -> str | None:
        if memory is not None and not re.fullmatch(r"\d+[mg]", memory):
            raise ValueError("write a size such as 4g")
        return memory

    @model_validator(mode="after")
    def _settings_belong_to_the_engine(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        for name in given:
            if name != "engine" and name not in _ALLOWED[self.engine]:
                owners = [engine for engine, allowed in _ALLOWED.items() if name in allowed]
                raise ValueError(
                    f"{name} is a setting of engine {' and '.join(owners)}, not of {self.engine}:"
                    " leave it out"
                )
        if missing := [name for name in _NEEDED.get(self.engine, []) if name not in given]:
            raise ValueError(f"engine {self.engine} needs {' and '.join(missing)}")
        return self
