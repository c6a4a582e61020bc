"""Where a pipeline's data and its Personalize are, where the environment does not decide it."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import Field

_VARIABLES = {
    "storage": "BATCHREC_STORAGE",
    "personalize": "BATCHREC_PERSONALIZE",
    "role_arn": "BATCHREC_ROLE_ARN",
    "region": "AWS_REGION",
    "profile": "AWS_PROFILE",
}


class DeploymentSettings(dg.Model):
    """Where data and Personalize are. What is omitted, the environment decides."""

    storage: str | None = Field(
        default=None,
        description="A folder, or s3://bucket/prefix. Default: BATCHREC_STORAGE.",
        examples=["s3://lists-eu/batchrec"],
    )
    personalize: str | None = Field(
        default=None,
        description="embedded, aws, or the URL of a Personalize. Default: BATCHREC_PERSONALIZE.",
    )
    role_arn: str | None = Field(
        default=None,
        description="The role with which Personalize reads and writes the bucket. Default:"
        " BATCHREC_ROLE_ARN.",
        examples=["arn:aws:iam::123456789012:role/personalize-eu"],
    )
    region: str | None = Field(
        default=None, description="The AWS region. Default: AWS_REGION.", examples=["eu-west-1"]
    )
    profile: str | None = Field(default=None, description="The AWS profile. Default: AWS_PROFILE.")

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that these settings replace."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _VARIABLES}
        return {_VARIABLES[name]: value for name, value in own.items() if value is not None}
