"""The kinds of resources: in what solutions, datasets and jobs differ.

`operations/resources.py` implements Create, Describe, List and Delete once, for every CatalogKind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api.validation import find_output_members
from .catalog import CatalogTransaction
from .requests import ApiRequest
from .resource import Resource, Status

if TYPE_CHECKING:
    from ..jobs.job import Job


class JobQueue(StrEnum):
    """Jobs wait only for jobs of the same queue, so that a filter does not wait for a training."""

    QUICK = "quick"
    IMPORT = "import"
    TRAINING = "training"
    INFERENCE = "inference"
    DELETION = "deletion"


@dataclass(frozen=True)
class NewResource:
    """What a resource to create has beyond the members of its request."""

    body: dict[str, Any] = field(default_factory=dict)
    """Members of Describe that the request lacks or has with another value."""
    state: dict[str, Any] = field(default_factory=dict)
    """The first `Resource.state`."""
    arn_suffix: str = ""
    """The last part of its ARN, if that is not its kind and name."""


def _change_nothing(transaction: CatalogTransaction) -> Sequence[Path]:
    return ()


@dataclass(frozen=True)
class JobResult:
    """The result of a job that succeeded."""

    body: dict[str, Any] = field(default_factory=dict)
    """New members for Describe."""
    state: dict[str, Any] = field(default_factory=dict)
    """New entries for the resource's state."""
    apply_changes: Callable[[CatalogTransaction], Sequence[Path]] = _change_nothing
    """Changes other resources in the transaction that makes this resource ACTIVE.

    Returns the files to remove when the transaction is committed.
    """


def _allow_delete(request: ApiRequest, resource: Resource) -> None:
    pass


def _add_no_members(transaction: CatalogTransaction, resource: Resource) -> dict[str, Any]:
    return {}


def _do_nothing(job: Job) -> JobResult:
    return JobResult()


@dataclass(frozen=True)
class CatalogKind:
    """One kind of resource: its names on the wire, its rules and its job."""

    name: str
    """The kind as operations name it: `DatasetGroup` in CreateDatasetGroup."""
    create: Callable[[ApiRequest], NewResource]
    """Checks a Create request by the kind's own rules. Raises ServiceError."""
    parent_member: str | None = None
    """The member of Create with the ARN of the parent, if resources of this kind have one."""
    perform: Callable[[Job], JobResult] | None = _do_nothing
    """Does the work of a new resource, in the background. None if it is ready at once.

    Raises JobFailedError, with the reason that Describe shows.
    """
    queue: JobQueue = JobQueue.QUICK
    """The queue of that work."""
    check_delete: Callable[[ApiRequest, Resource], None] = _allow_delete
    """Raises InUseError if another resource still needs the one to delete."""
    owned_kind: str | None = None
    """The kind of the children that are deleted together with a resource of this kind."""
    describe_extra: Callable[[CatalogTransaction, Resource], dict[str, Any]] = _add_no_members
    """Returns members of Describe that depend on other resources."""
    status_names: Mapping[str, str] = field(default_factory=dict)
    """How Describe and List name the statuses of this kind, where that is not as in `Status`."""
    newest_first: bool = False
    """Whether List starts with the newest, not with the oldest."""

    def make_pending(
        self, arn: str, region: str, body: dict[str, Any], state: dict[str, Any]
    ) -> Resource:
        """Return a new resource of this kind, whose job is queued if it has one."""
        return Resource(
            arn=arn,
            region=region,
            kind=self.name,
            parent=body[self.parent_member] if self.parent_member else None,
            status=Status.CREATE_PENDING if self.perform else None,
            unfinished=self.perform is not None,
            body=body,
            state=state,
        )

    @property
    def slug(self) -> str:
        """The kind in ARNs, such as `dataset-group`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", self.name).lower()

    @property
    def member(self) -> str:
        """The kind in requests and responses, such as `datasetGroup`."""
        return self.name[0].lower() + self.name[1:]

    @property
    def arn_member(self) -> str:
        """The member with its ARN, such as `datasetGroupArn`."""
        return f"{self.member}Arn"

    @cached_property
    def list_member(self) -> str:
        """The member of the List response that is a list, such as `datasetGroups`."""
        members = find_output_members(f"List{self.name}s")
        return next(name for name, shape in members.items() if shape.type_name == "list")
