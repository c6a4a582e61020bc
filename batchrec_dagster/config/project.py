"""How a pipeline fits into a project: what its assets have, where its data and Personalize are."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config.validation import in_range, matching

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


class Retries(dg.Model):
    """How often Dagster runs a failed step again in the same run."""

    max_retries: int = Field(default=2, description="How often at most.")
    delay_seconds: float = Field(
        default=60, description="The pause before the first; it doubles each time."
    )

    _retries_in_range = in_range("max_retries", least=1)
    _delay_in_range = in_range("delay_seconds", least=0)

    @property
    def policy(self) -> dg.RetryPolicy:
        """Dagster's own."""
        return dg.RetryPolicy(self.max_retries, self.delay_seconds, dg.Backoff.EXPONENTIAL)


class AssetSettings(dg.Model):
    """What Dagster's assets of the pipeline have."""

    key_prefix: str | None = Field(
        default=None,
        description="Prefix of the asset keys, its parts separated by /: letters, digits, _ and -."
        " Default: the pipeline's name.",
        examples=["marketing/shop-eu"],
    )
    group: str | None = Field(
        default=None,
        description="Their group: letters, digits and _. Default: the pipeline's name.",
    )
    tags: dict[str, str] = Field(
        default={}, description="Their tags.", examples=[{"domain": "marketing"}]
    )
    op_tags: dict[str, Any] = Field(
        default={},
        description="Tags of the steps, for executors and run launchers.",
        examples=[{"dagster-k8s/config": {"container_config": {"resources": {}}}}],
    )
    pool: str | None = Field(
        default=None, description="The pool that limits how many steps run at once."
    )
    retries: Retries | None = Field(
        default=None,
        description="Whether Dagster runs failed steps again. Default: only a sink that is"
        " unavailable. With the in-process executor, Dagster also retries a canceled step.",
    )

    _prefix_is_possible = matching(
        "key_prefix",
        pattern=r"[\w-]+(/[\w-]+)*",
        or_else="write parts of letters, digits, _ and -, separated by one /",
    )
    _group_is_possible = matching("group", pattern=r"\w+", or_else="write letters, digits and _")
