"""The deployment that environment variables describe, and its Dagster resources."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from types import MappingProxyType
from typing import Any, Self

import dagster as dg
from pydantic import PrivateAttr, ValidationError, model_validator

from batchrec_dagster.config.environment import Environment, describe_problems
from batchrec_dagster.config.tags import parse_tags
from batchrec_dagster.pipeline import io_managers
from batchrec_dagster.pipeline.asset_keys import resource_key
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.pipeline.s3_resource import read_s3_resource
from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.connection import Storage


class DeploymentError(ValueError):
    """Invalid environment variables. The message names them and their allowed values."""


class Deployment(Environment):
    """The values of the environment variables, and the resources built from these values."""

    # The fields of S3Connection that a resource of the project sets. Access keys that are
    # environment variables stay `dg.EnvVar`. Without such a resource, this mapping is empty, and
    # AWS's own variables and files set the connection.
    _own_s3: Mapping[str, str] = PrivateAttr(default={})

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = MappingProxyType({})) -> Self:
        """Return the deployment that the environment describes. Raises DeploymentError.

        variables: values that override the environment's variables. Empty values are ignored.
        """
        values: dict[str, Any] = {name: value for name, value in variables.items() if value}
        try:
            return cls(**values)
        except ValidationError as error:
            raise DeploymentError(describe_problems(error)) from error

    @model_validator(mode="after")
    def _has_its_s3_resource(self) -> Self:
        if self.s3_resource:
            try:
                self._own_s3 = read_s3_resource(self.s3_resource)
            except ValueError as error:
                name = self.s3_resource
                raise ValueError(f"BATCHREC_S3_RESOURCE is {name!r}: {error}") from error
        return self

    @property
    def region(self) -> str | None:
        """The AWS region."""
        return self._get_own("region_name") or self.aws_region

    def _get_own(self, field: str) -> str | None:
        """Return a field of the project's own S3 resource; None if it does not set the field."""
        value = self._own_s3.get(field)
        return value.get_value() if isinstance(value, dg.EnvVar) else value

    def _make_s3_resource(self) -> S3ConnectionResource:
        keys = {name: key for name, key in self._own_s3.items() if name.startswith("aws_")}
        return S3ConnectionResource(
            region_name=self.region,
            profile_name=self._get_own("profile_name") or self.aws_profile,
            endpoint_url=self._get_own("endpoint_url") or self.aws_endpoint_url,
            **keys,
        )

    def make_home(self) -> None:
        """Create BATCHREC_HOME if it is missing, with permissions for this user only.

        Errors are ignored here: the step that needs the folder reports them, and so does `batchrec
        check`.
        """
        with suppress(OSError):
            durable.make_folders(self.home, 0o700)

    def resources(self) -> dict[str, Any]:
        """Return Dagster's resources and IO managers by key. Each call returns the same objects."""
        return {resource_key(name): resource for name, resource in _build_resources(self).items()}

    def open_storage(self) -> Storage:
        """Return the storage of the deployment."""
        resource: StorageResource = _build_resources(self)["storage"]
        return resource.opened

    @property
    def personalize_resource(self) -> PersonalizeResource:
        personalize: PersonalizeResource = _build_resources(self)["personalize"]
        return personalize

    def executor(self) -> dg.ExecutorDefinition:
        """Return the executor for runs.

        With the embedded Personalize, all steps of a run share one process, because many steps take
        less time than starting a process. Otherwise each step has its own process.
        """
        return dg.in_process_executor if self.embedded else dg.multiprocess_executor


# The function is cached, because Dagster merges the definitions of several pipelines only if they
# share these objects.
@cache
def _build_resources(deployment: Deployment) -> dict[str, Any]:
    home = deployment.home
    storage = StorageResource(
        root=deployment.storage,
        cache=str(home / "cache"),
        tags=parse_tags(deployment.tags),
        s3=deployment._make_s3_resource(),
    )
    personalize = PersonalizeResource(
        endpoint=deployment.personalize,
        home=str(home / "personalize"),
        role_arn=deployment.role_arn,
        prices=str(deployment.prices or ""),
        poll_seconds=deployment.poll_seconds,
        busy_seconds=deployment.busy_seconds,
        deadline_hours=deployment.deadline_hours,
        storage=storage,
    )
    return {
        "storage": storage,
        "personalize": personalize,
        "parquet_io": io_managers.ParquetIOManager(storage=storage),
        "published_io": io_managers.PublishedTableIOManager(storage=storage),
        "interactions_io": io_managers.InteractionsIOManager(storage=storage),
        "attributes_io": io_managers.AttributesIOManager(storage=storage),
        "batch_users_io": io_managers.UsersIOManager(storage=storage),
        "record_io": io_managers.RecordIOManager(storage=storage),
    }
