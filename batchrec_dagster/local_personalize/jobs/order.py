"""Which jobs wait for jobs of earlier requests, besides those that wait for their queue."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog.catalog import CatalogTransaction
from ..catalog.resource import Resource

_IMPORT, _DELETION = "DatasetImportJob", "DataDeletionJob"

# The members of a job's request that name what it works on, in place of the dataset group.
_MEMBERS = ("datasetArn", "solutionVersionArn")


def must_wait(
    transaction: CatalogTransaction, resource: Resource, unfinished: Sequence[Resource]
) -> bool:
    """Tell whether the job must wait for one that was requested before it.

    Imports into one dataset take effect in the order of their requests. A data deletion job runs
    alone in its dataset group: no import, training or batch job reads the users whom it erases, and
    none writes them again. Amazon only asks for that.

    unfinished: all resources with a queued or running job.
    """
    for other in unfinished:
        if other.seq >= resource.seq:
            continue
        if resource.kind == _IMPORT and other.kind == _IMPORT and other.parent == resource.parent:
            return True
        if _DELETION in (resource.kind, other.kind):
            group = _find_group(transaction, resource)
            if group is not None and group == _find_group(transaction, other):
                return True
    return False


def _find_group(transaction: CatalogTransaction, resource: Resource) -> str | None:
    """Return the ARN of the dataset group that the resource belongs to; None if it is gone."""
    parent: Resource | None = resource
    for member in _MEMBERS:
        if member in resource.body:
            parent = transaction.find(resource.body[member])
    group: str | None = parent.body.get("datasetGroupArn") if parent else None
    return group
