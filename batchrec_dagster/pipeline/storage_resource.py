"""The Dagster resource for the storage: a folder or an S3 bucket."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.storage.connection import S3Connection, Storage


class S3ConnectionResource(dg.ConfigurableResource[Any]):
    """A connection to S3, with the fields of dagster-aws's S3Resource that batchrec reads.

    dagster-aws's class itself is not used, because its import takes longer than all other imports
    together. Keys may be `dg.EnvVar`, so that Dagster does not show their values.
    """

    region_name: str | None = Field(default=None, description="The AWS region.")
    profile_name: str | None = Field(default=None, description="The AWS profile.")
    endpoint_url: str | None = Field(default=None, description="The URL of another S3.")
    aws_access_key_id: str | None = Field(default=None, description="The access key's id.")
    aws_secret_access_key: str | None = Field(default=None, description="The access key.")
    aws_session_token: str | None = Field(default=None, description="A session's token.")

    def connection(self) -> S3Connection:
        """Return the connection, with the values of environment variables filled in."""
        # Dagster reads variables only in runs, but commands open the storage outside of runs.
        values = {
            name: value.get_value() if isinstance(value, dg.EnvVar) else value
            for name, value in self.model_dump().items()
        }
        return S3Connection(**values)


class StorageResource(dg.ConfigurableResource[Any]):
    """The storage of every pipeline's data."""

    root: str = Field(description="The folder or s3://bucket/prefix of every pipeline's data.")
    cache: str = Field(default=".batchrec/cache", description="The folder that caches downloads.")
    tags: dict[str, str] = Field(
        default={}, description="Tags of one's own for what the clients of AWS create."
    )
    s3: S3ConnectionResource

    @cached_property
    def opened(self) -> Storage:
        """The opened storage, which does not depend on Dagster."""
        return Storage(self.root, self.s3.connection(), self.cache, self.tags)
