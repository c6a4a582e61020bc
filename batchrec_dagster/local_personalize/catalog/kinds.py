"""The kinds of resources: in what solutions, datasets, jobs … differ.

`operations/resources.py` implements Create, Describe, List and Delete once, for every Kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec_dagster.personalize.schemas import FILTER_HISTORY
from batchrec_dagster.storage.permissions import partition

from ..api.validation import output_members
from ..errors import InUseError, ResourceNotFoundError
from .catalog import DELETING, CatalogTransaction, Resource, Status

if TYPE_CHECKING:
    from ..jobs.job import Job


# In an operation's answer: headers to send with it.
HEADERS = "$headers"
QUOTAS_VARIABLE = "BATCHREC_LOCAL_PERSONALIZE_QUOTAS"


@dataclass(frozen=True)
class Quotas:
    """How many resources and running jobs are allowed: AWS's defaults, but ten times the groups.

    Each pipeline has a dataset group. Lower them to test a pipeline. filter_interactions: the
    latest interactions, of a user and event type, that a filter considers.
    """

    running_dataset_import_jobs: int = 5
    running_solution_versions: int = 20
    running_batch_inference_jobs: int = 5
    running_batch_segment_jobs: int = 5
    schemas: int = 500
    dataset_groups: int = 50
    solutions_per_group: int = 10
    filters_per_group: int = 30
    filter_interactions: int = FILTER_HISTORY

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Quotas:
        """The defaults, changed by texts such as `schemas=20`. Raises ValueError."""
        known = {field.name for field in fields(cls)}
        changes = {}
        for text in texts:
            name, _, number = text.partition("=")
            if name not in known or not (number.isascii() and number.isdigit()):
                raise ValueError(
                    f"{text!r} is not NAME=NUMBER, where NAME is one of {', '.join(sorted(known))}"
                )
            changes[name] = int(number)
        return cls(**changes)


ACCOUNT_ID = "000000000000"


class JobQueue(StrEnum):
    """Jobs queue only within their lane, so that a filter does not wait for a training."""

    QUICK = "quick"
    IMPORT = "import"
    TRAINING = "training"
    INFERENCE = "inference"


@dataclass(frozen=True)
class ApiRequest:
    """One request: its parameters, already validated, and the catalog."""

    params: Mapping[str, Any]
    transaction: CatalogTransaction
    region: str
    quotas: Quotas
    account: str = ACCOUNT_ID
    v2_lines: bool = False

    @property
    def scope(self) -> str:
        """What the catalogue has as `region`: lists and quotas are an account's in a region."""
        return self.region if self.account == ACCOUNT_ID else f"{self.region} {self.account}"

    def arn(self, resource: str) -> str:
        """The ARN of this account's `resource`, such as `schema/films`."""
        return f"arn:{partition(self.region)}:personalize:{self.region}:{self.account}:{resource}"

    def get(self, kind: str, arn: str) -> Resource:
        """The resource of that kind. Raises NotFoundError."""
        resource = self.transaction.find(arn)
        if resource is None or resource.kind != kind:
            raise ResourceNotFoundError(arn)
        return resource

    def get_active(self, kind: str, arn: str) -> Resource:
        """The same, but only if ACTIVE. Raises NotFoundError, InUseError."""
        resource = self.get(kind, arn)
        if resource.status not in (Status.ACTIVE, None):
            raise InUseError(f"{arn} is not ACTIVE: its status is {resource.status}.")
        parent = self.transaction.find(resource.parent) if resource.parent else None
        if parent and parent.status in DELETING:
            raise InUseError(
                f"{arn} is deleted together with {parent.arn}, whose status is {parent.status}."
            )
        return resource


@dataclass(frozen=True)
class NewResource:
    """A resource to create, where it is more than its request.

    `body`: members of Describe that the request lacks or has otherwise. `resource`: the last part
    of its ARN, if that is not its kind and name.
    """

    body: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    arn_suffix: str = ""


@dataclass(frozen=True)
class JobResult:
    """The result of a job: new members for Describe, new state and further changes.

    `apply_changes` runs in the transaction that makes the resource ACTIVE, and gives the files to
    remove after it.
    """

    body: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    apply_changes: Callable[[CatalogTransaction], Sequence[Path]] = lambda transaction: ()


@dataclass(frozen=True)
class CatalogKind:
    """One kind of resource.

    `parent` is the member of Create with the parent's ARN. `running` and `total` name the quotas
    (fields of Quotas) that Create checks. Children of the kind `owns` are deleted with the
    resource. `describe_extra` are members that Create does not know.
    """

    name: str
    create: Callable[[ApiRequest], NewResource]
    parent_member: str | None = None
    perform: Callable[[Job], JobResult] | None = lambda job: JobResult()
    queue: JobQueue = JobQueue.QUICK
    running_quota: str | None = None
    total_quota: str | None = None
    check_delete: Callable[[ApiRequest, Resource], None] = lambda request, resource: None
    owned_kind: str | None = None
    describe_extra: Callable[[CatalogTransaction, Resource], dict[str, Any]] = (
        lambda transaction, resource: {}
    )

    def make_pending(
        self, arn: str, region: str, body: dict[str, Any], state: dict[str, Any]
    ) -> Resource:
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
        members = output_members(f"List{self.name}s")
        return next(name for name, shape in members.items() if shape.type_name == "list")
