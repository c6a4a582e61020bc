"""What an operation gets: the request's parameters, and the catalog in an open transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchrec_dagster.personalize.schemas import FILTER_HISTORY
from batchrec_dagster.storage.permissions import find_partition

from ..errors import InUseError, ResourceNotFoundError
from .catalog import CatalogTransaction
from .resource import DELETING, Resource, Status

ACCOUNT_ID = "000000000000"
"""The account in ARNs, if no other is set."""

HEADERS = "$headers"
"""The key, in an operation's response, of the HTTP headers to send with it."""


@dataclass(frozen=True)
class ApiRequest:
    """One request to the API, whose parameters are already validated."""

    params: Mapping[str, Any]
    """The request's members, by their name on the wire."""
    transaction: CatalogTransaction
    region: str
    home: Path
    """The folder of the service, which the paths in the catalog are relative to."""
    account: str = ACCOUNT_ID
    filter_interactions: int = FILTER_HISTORY
    """How many of the latest interactions, of each user and event type, a filter considers."""
    v2_lines: bool = False
    """Whether batch inference jobs add reasons and placeholders (`LocalPersonalize.__init__`)."""
    success: Sequence[str] = ()
    """The types of events that metrics are to count; all if empty."""
    files_to_remove: list[str] = field(default_factory=list)
    """The files to remove once the transaction is committed, relative to the home."""

    @property
    def scope(self) -> str:
        """The value of `Resource.region`: lists are those of an account in a region."""
        return self.region if self.account == ACCOUNT_ID else f"{self.region} {self.account}"

    def make_arn(self, resource: str) -> str:
        """Return the ARN of this account's `resource`, such as `schema/films`."""
        return (
            f"arn:{find_partition(self.region)}:personalize:{self.region}:{self.account}:{resource}"
        )

    def get(self, kind: str, arn: str) -> Resource:
        """Return the resource with this ARN.

        Raises ResourceNotFoundError if there is none, or if it is of another kind.
        """
        resource = self.transaction.find(arn)
        if resource is None or resource.kind != kind:
            raise ResourceNotFoundError(arn)
        return resource

    def get_active(self, kind: str, arn: str) -> Resource:
        """Return the resource with this ARN, which must be ready for use.

        Raises ResourceNotFoundError, or InUseError if it is not ACTIVE or is about to be deleted.
        """
        resource = self.get(kind, arn)
        if resource.status not in (Status.ACTIVE, None):
            raise InUseError(f"{arn} is not ACTIVE: its status is {resource.status}.")
        parent = self.transaction.find(resource.parent) if resource.parent else None
        if parent and parent.status in DELETING:
            raise InUseError(
                f"{arn} is deleted together with {parent.arn}, whose status is {parent.status}."
            )
        return resource
