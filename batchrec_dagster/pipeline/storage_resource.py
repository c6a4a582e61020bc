"""The Dagster resource for the storage: a folder or an S3 bucket."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.storage.connection import S3Connection, Storage


class S3ConnectionResource(dg.ConfigurableResource[Any]):
    """The fields of S3Connection, those of dagster-aws's S3Resource that are read here.

    That class itself is not used, because its import takes longer than all the others together.
    Keys may be `dg.EnvVar`, whose values Dagster does not show.
    """

    region_name: str | None = Field(default=None, description="The AWS region.")
    profile_name: str | None = Field(default=None, description="The AWS profile.")
    endpoint_url: str | None = Field(default=None, description="The URL of another S3.")
    aws_access_key_id: str | None = Field(default=None, description="The access key's id.")
    aws_secret_access_key: str | None = Field(default=None, description="The access key.")
    aws_session_token: str | None = Field(default=None, description="A session's token.")

    def connection(self) -> S3Connection:
        """The fields with the values of variables."""
        # Dagster reads variables in runs alone, and commands open the storage outside of runs.
        values = {
            name: value.get_value() if isinstance(value, dg.EnvVar) else value
            for name, value in self.model_dump().items()
        }
        return S3Connection(**values)


class StorageResource(dg.ConfigurableResource[Any]):
    """The storage root."""

    root: str = Field(description="The folder or s3://bucket/prefix of every pipeline's data.")
    cache: str = Field(default=".batchrec/cache", description="The folder that caches downloads.")
    tags: dict[str, str] = Field(
        default={}, description="Tags of one's own for what the clients of AWS create."
    )
    s3: S3ConnectionResource

    @cached_property
    def opened(self) -> Storage:
        """The storage itself, which knows no Dagster."""
        return Storage(self.root, self.s3.connection(), self.cache, self.tags)
