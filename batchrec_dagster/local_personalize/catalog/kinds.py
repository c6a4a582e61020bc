"""What a kind of resource is: the few things in which solutions, datasets, jobs … differ.

The operations that all kinds share (Create, Describe, List, Delete) are written once, in
`operations/resources.py`, over a table of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batchrec_dagster.local_personalize.api.validation import (
    input_shape,
    output_members,
    service_model,
)
from batchrec_dagster.local_personalize.catalog.catalog import ACTIVE, DELETING, Records, Resource
from batchrec_dagster.local_personalize.errors import InUseError, NotFoundError

if TYPE_CHECKING:
    from batchrec_dagster.local_personalize.jobs.job import Job


@dataclass(frozen=True)
class Quotas:
    """How many there may be; lower them to test how a pipeline bears it."""

    running_dataset_import_jobs: int = 5
    running_solution_versions: int = 20
    running_batch_inference_jobs: int = 5
    running_batch_segment_jobs: int = 5
    schemas: int = 500
    dataset_groups: int = 5
    solutions_per_group: int = 10
    filters_per_group: int = 30


ACCOUNT_ID = "000000000000"


class Lane(StrEnum):
    """Work waits in line only for work of its own lane: a filter does not wait for a training."""

    QUICK = "quick"
    IMPORT = "import"
    TRAINING = "training"
    INFERENCE = "inference"


@dataclass(frozen=True)
class Call:
    """One request: its parameters, checked against the model, and the catalog to answer from."""

    params: Mapping[str, Any]
    records: Records
    region: str
    quotas: Quotas

    def arn(self, resource: str) -> str:
        """The ARN of this account's `resource`, such as `schema/films`."""
        return f"arn:aws:personalize:{self.region}:{ACCOUNT_ID}:{resource}"

    def existing(self, kind: str, arn: str) -> Resource:
        """The resource of that kind. Raises NotFoundError."""
        found = self.records.find(arn)
        if found is None or found.kind != kind:
            raise NotFoundError(arn)
        return found

    def active(self, kind: str, arn: str) -> Resource:
        """The same, when it is ready to be used. Raises NotFoundError, InUseError."""
        found = self.existing(kind, arn)
        if found.status not in (ACTIVE, None):
            raise InUseError(f"{arn} is not ACTIVE: its status is {found.status}.")
        parent = self.records.find(found.parent) if found.parent else None
        if parent and parent.status in DELETING:
            raise InUseError(f"{arn} goes with {parent.arn}: its status is {parent.status}.")
        return found


@dataclass(frozen=True)
class Draft:
    """What a Create makes: the ARN's last part, the parent's ARN, and the members to describe."""

    resource: str
    parent: str | None
    body: dict[str, Any]
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """What a job leaves: new members for Describe, new state, and what else changes with them.

    `along` runs in the transaction that makes the resource ACTIVE, `after` when it is done.
    """

    body: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    along: Callable[[Records], None] = lambda records: None
    after: Callable[[], None] = lambda: None


def nothing_to_do(job: Job) -> Finished:
    """The work of a kind that is ready as soon as it is looked at."""
    return Finished()


def always_deletable(call: Call, resource: Resource) -> None:
    """For kinds that nothing depends on."""


def nothing_beside(records: Records, resource: Resource) -> None:
    """For kinds that take no other resource with them when they go."""


def no_files(records: Records, resource: Resource) -> list[str]:
    """For kinds that keep no files."""
    return []


def as_stored(records: Records, resource: Resource) -> dict[str, Any]:
    """For kinds whose description is what they were created with."""
    return {}


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    `running` and `total` name the quotas (fields of Quotas) that a Create counts against. `files`
    are relative to the home; they go with the resource.
    """

    name: str
    create: Callable[[Call], Draft]
    parent: str | None = None
    perform: Callable[[Job], Finished] | None = nothing_to_do
    lane: Lane = Lane.QUICK
    running: str | None = None
    total: str | None = None
    check_delete: Callable[[Call, Resource], None] = always_deletable
    files: Callable[[Records, Resource], list[str]] = no_files
    delete_children: Callable[[Records, Resource], None] = nothing_beside
    describe_extra: Callable[[Records, Resource], dict[str, Any]] = as_stored

    @cached_property
    def operations(self) -> dict[str, str]:
        """Which operations the model has for this kind: verb -> operation name."""
        verbs = {
            "Create": f"Create{self.name}",
            "Describe": f"Describe{self.name}",
            "List": f"List{self.name}s",
            "Delete": f"Delete{self.name}",
        }
        known = set(service_model().operation_names)
        return {verb: name for verb, name in verbs.items() if name in known}

    @cached_property
    def arn_member(self) -> str:
        """Such as `datasetGroupArn`: the only member of the Describe request."""
        return next(iter(input_shape(f"Describe{self.name}").members))

    @cached_property
    def described_as(self) -> str:
        """Such as `datasetGroup`: the only member of the Describe answer."""
        return next(iter(output_members(f"Describe{self.name}")))

    @cached_property
    def listed_as(self) -> str:
        """Such as `datasetGroups`: the member of the List answer that is a list."""
        members = output_members(self.operations["List"])
        return next(name for name, shape in members.items() if shape.type_name == "list")
