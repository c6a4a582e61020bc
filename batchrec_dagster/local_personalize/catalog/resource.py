"""A resource, such as a dataset or a solution, and the statuses that it can have."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The statuses that Amazon Personalize shows in Describe and List."""

    ACTIVE = "ACTIVE"
    CREATE_PENDING = "CREATE PENDING"
    CREATE_IN_PROGRESS = "CREATE IN_PROGRESS"
    CREATE_FAILED = "CREATE FAILED"
    CREATE_STOPPING = "CREATE STOPPING"
    CREATE_STOPPED = "CREATE STOPPED"
    DELETE_PENDING = "DELETE PENDING"
    DELETE_IN_PROGRESS = "DELETE IN_PROGRESS"


CREATING = (Status.CREATE_PENDING, Status.CREATE_IN_PROGRESS)
DELETING = (Status.DELETE_PENDING, Status.DELETE_IN_PROGRESS)
BUSY = (*CREATING, Status.CREATE_STOPPING, *DELETING)
"""The statuses of a resource that a job is queued for or works on."""


@dataclass(frozen=True)
class Resource:
    """One resource, as the catalog stores it."""

    arn: str
    region: str
    """The region, followed by the account if that is not the default one (`ApiRequest.scope`)."""
    kind: str
    """The name of its `CatalogKind`, such as `DatasetGroup`."""
    parent: str | None
    """The ARN of the resource that it belongs to, such as the dataset group of a dataset."""
    status: str | None
    """One of `Status`, or None for a schema, which has none."""
    body: dict[str, Any]
    """The members that Describe shows, by their name on the wire."""
    state: dict[str, Any] = field(default_factory=dict)
    """What only this service knows, such as the paths of files and the metrics of a model."""
    owner: str | None = None
    """The name of the worker that runs its job, or None."""
    unfinished: bool = False
    """Whether a job is queued or running."""
    created: float = 0.0
    """When it was created, in epoch seconds."""
    updated: float = 0.0
    """When its status changed last, in epoch seconds."""
    seq: int = 0
    """Its number in the order of creation."""

    @property
    def files(self) -> list[str]:
        """The paths of its model and of its data, relative to the home."""
        paths = [self.state["model"]] if "model" in self.state else []
        paths += [file["path"] for file in self.state.get("files", [])]
        return paths

    def copy_with_status(self, status: str | None, **body: Any) -> Resource:
        """Return a copy that has this status, and these members in its body."""
        return replace(
            self,
            status=status,
            unfinished=status in BUSY,
            body={**self.body, **body},
            updated=time.time(),
        )
