"""The environment's deployment: the Dagster resources that its variables make."""

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
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.pipeline.s3_resource import read_s3_resource
from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.connection import Storage


def resource_key(name: str) -> str:
    """The key that the resource or IO manager of this name has in a code location."""
    return f"batchrec_{name}"


class DeploymentError(ValueError):
    """Variables are invalid. The message names them and the values that they may have."""


class Deployment(Environment):
    """The values of the environment's variables, and the resources that they make."""

    # The fields of S3Connection that a resource of the project sets, keys as the variables that
    # hold them. Without them, AWS's own variables and files decide.
    _own_s3: Mapping[str, str] = PrivateAttr(default={})

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = MappingProxyType({})) -> Self:
        """The deployment that the environment describes. Raises DeploymentError.

        variables: in place of those of the environment.
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
        """What a resource of the project says of S3."""
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

        An error is ignored here: the step that needs the folder reports it, and `batchrec check`.
        """
        with suppress(OSError):
            durable.make_folders(self.home, 0o700)

    def resources(self) -> dict[str, Any]:
        """Dagster's resources and IO managers by key. Every call returns the same objects."""
        return {resource_key(name): resource for name, resource in _build_resources(self).items()}

    def open_storage(self) -> Storage:
        """The storage of the deployment."""
        resource: StorageResource = _build_resources(self)["storage"]
        return resource.opened

    @property
    def personalize_resource(self) -> PersonalizeResource:
        personalize: PersonalizeResource = _build_resources(self)["personalize"]
        return personalize

    def executor(self) -> dg.ExecutorDefinition:
        """The executor for runs.

        With the embedded Personalize it runs steps in one process, because many take less time than
        to start a process.
        """
        return dg.in_process_executor if self.embedded else dg.multiprocess_executor


# Cached, because Dagster merges the definitions of several pipelines only if they share these
# objects.
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
