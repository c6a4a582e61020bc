"""Create, Describe, List and Delete: the operations that every kind of resource shares."""

from __future__ import annotations

from typing import Any

from ..api.validation import find_output_members, prune
from ..catalog.kinds import CatalogKind
from ..catalog.requests import ApiRequest
from ..catalog.resource import BUSY, Resource, Status
from ..errors import AlreadyExistsError, InUseError
from .page_tokens import read_token, write_token
from .tags import check_tags

DEFAULT_PAGE = 100
"""How many entries a page of a list has, which is also the maximum of maxResults."""


def create(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """Answer Create: add the resource to the catalog. A worker then runs its job.

    Raises ServiceError for a request that breaks a rule of the kind, a name in use, and bad tags.
    """
    tags = check_tags(request.params.get("tags", []))
    new_resource = kind.create(request)
    members = {**request.params, **new_resource.body, "tags": None}
    body = {member: value for member, value in members.items() if value is not None}
    name = body.get("jobName") or body.get("name")
    arn = request.make_arn(new_resource.arn_suffix or f"{kind.slug}/{name}")
    resource = kind.make_pending(arn, request.scope, body, new_resource.state)
    _check_name_is_free(request, arn)
    request.transaction.add(resource)
    request.transaction.put_tags(arn, tags)
    response = {**body, kind.arn_member: arn}
    allowed = find_output_members(f"Create{kind.name}")
    return {member: response[member] for member in allowed if member in response}


def describe(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """Answer Describe: all members of the resource. Raises ResourceNotFoundError."""
    resource = request.get(kind.name, request.params[kind.arn_member])
    members = describe_resource(kind, resource)
    members |= kind.describe_extra(request.transaction, resource)
    shape = find_output_members(f"Describe{kind.name}")[kind.member]
    return {kind.member: prune(members, shape)}


def list_page(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """Answer List: one page in the kind's order, and the token of the next page if there is one.

    Raises ServiceError for a bad token.
    """
    parent = request.params.get(kind.parent_member) if kind.parent_member else None
    limit = request.params.get("maxResults", DEFAULT_PAGE)
    after = read_token(request.params.get("nextToken"), kind.name, parent)
    # One more than the page has, to know whether there is a next page.
    resources = request.transaction.list_resources(
        kind.name,
        region=request.scope,
        parent=parent,
        after=after,
        limit=limit + 1,
        newest_first=kind.newest_first,
    )
    page = resources[:limit]
    shape = find_output_members(f"List{kind.name}s")[kind.list_member]
    entries = [describe_resource(kind, resource) for resource in page]
    response: dict[str, Any] = {kind.list_member: prune(entries, shape)}
    if len(resources) > limit:
        response["nextToken"] = write_token(page[-1].seq, kind.name, parent)
    return response


def delete(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """Answer Delete: queue the deletion, or delete at once if the kind has no jobs.

    Raises ResourceNotFoundError, and InUseError if the resource is busy or still needed.
    """
    resource = request.get(kind.name, request.params[kind.arn_member])
    if resource.status in BUSY:
        raise InUseError(f"{resource.arn} cannot be deleted: its status is {resource.status}.")
    kind.check_delete(request, resource)
    if kind.perform is None:
        request.transaction.remove(resource.arn)
    else:
        request.transaction.save(resource.copy_with_status(Status.DELETE_PENDING))
    return {}


def describe_resource(kind: CatalogKind, resource: Resource) -> dict[str, Any]:
    """Return the members that Describe and List show, without `describe_extra`."""
    return {
        **resource.body,
        kind.arn_member: resource.arn,
        "status": kind.status_names.get(resource.status or "", resource.status),
        "creationDateTime": resource.created,
        "lastUpdatedDateTime": resource.updated,
    }


def _check_name_is_free(request: ApiRequest, arn: str) -> None:
    """Raise AlreadyExistsError if a resource has this ARN.

    A job whose solution version or dataset is deleted gives up its name, and is removed here.
    """
    existing = request.transaction.find(arn)
    if existing is None:
        return
    if existing.parent is None or request.transaction.find(existing.parent) is not None:
        raise AlreadyExistsError(arn)
    request.transaction.remove(arn)
