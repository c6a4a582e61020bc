"""Create, Describe, List, Delete and tags: the operations that every kind of resource shares."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from ..api.validation import output_members, prune
from ..catalog.kinds import CatalogKind
from ..catalog.quotas import QUOTAS_VARIABLE
from ..catalog.requests import ApiRequest
from ..catalog.resource import BUSY, Resource, Status
from ..errors import (
    AlreadyExistsError,
    InUseError,
    InvalidInputError,
    LimitExceededError,
    ResourceNotFoundError,
    ServiceError,
)

MAX_TAGS = 50
_TOO_MANY = "TooManyTagsException"


def check_tags(tags: list[dict[str, str]]) -> dict[str, str]:
    """The tags by key. Raises ServiceError for a bad or repeated key, or too many."""
    by_key = {tag["tagKey"]: tag["tagValue"] for tag in tags}
    if len(by_key) < len(tags):
        raise InvalidInputError("A tag key is given more than once.")
    for key in by_key:
        if key.lower().startswith("aws:"):
            raise InvalidInputError("A tag key must not start with aws:, which is reserved.")
    if len(by_key) > MAX_TAGS:
        raise ServiceError(f"A resource can have at most {MAX_TAGS} tags.", _TOO_MANY)
    return by_key


def tag_resource(request: ApiRequest) -> dict[str, Any]:
    """TagResource: add tags, or change the values of existing ones."""
    tags = check_tags(request.params["tags"])
    resource = _find_taggable(request)
    if len(request.transaction.read_tags(resource.arn) | tags) > MAX_TAGS:
        raise ServiceError(f"{resource.arn} would have more than {MAX_TAGS} tags.", _TOO_MANY)
    request.transaction.put_tags(resource.arn, tags)
    return {}


def untag_resource(request: ApiRequest) -> dict[str, Any]:
    """UntagResource: remove tags; unknown keys are ignored."""
    keys = request.params["tagKeys"]
    resource = _find_taggable(request)
    if len(set(keys)) > MAX_TAGS:
        raise ServiceError(
            f"A request can remove at most {MAX_TAGS} tags.", "TooManyTagKeysException"
        )
    request.transaction.remove_tags(resource.arn, keys)
    return {}


def list_tags(request: ApiRequest) -> dict[str, Any]:
    """ListTagsForResource: sorted by key."""
    tags = request.transaction.read_tags(_find_taggable(request).arn)
    return {"tags": [{"tagKey": key, "tagValue": value} for key, value in tags.items()]}


def _find_taggable(request: ApiRequest) -> Resource:
    arn = request.params["resourceArn"]
    resource = request.transaction.find(arn)
    if resource is None:
        raise ResourceNotFoundError(arn)
    if resource.kind == "Schema":
        raise InvalidInputError("Schemas cannot be tagged.")  # CreateSchema takes no tags either
    return resource


DEFAULT_PAGE = 100  # the maximum of maxResults, too


def create(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """Check the request by the kind's rules and add the resource; a worker runs its job.

    Raises ServiceError: of the kind's rules, for a name in use, a used-up quota, bad tags.
    """
    tags = check_tags(request.params.get("tags", []))
    new_resource = kind.create(request)
    described = {**request.params, **new_resource.body, "tags": None}
    body = {member: value for member, value in described.items() if value is not None}
    name = body.get("jobName") or body.get("name")
    arn = request.make_arn(new_resource.arn_suffix or f"{kind.slug}/{name}")
    resource = kind.make_pending(arn, request.scope, body, new_resource.state)
    _check_name_is_free(request, arn)
    _check_quotas(kind, request, resource.parent)
    request.transaction.add(resource)
    request.transaction.put_tags(arn, tags)
    answer = {**body, kind.arn_member: arn}
    return {name: answer[name] for name in output_members(f"Create{kind.name}") if name in answer}


def describe(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """All members of the resource. Raises NotFoundError."""
    resource = request.get(kind.name, request.params[kind.arn_member])
    shape = output_members(f"Describe{kind.name}")[kind.member]
    described = describe_resource(kind, resource) | kind.describe_extra(
        request.transaction, resource
    )
    return {kind.member: prune(described, shape)}


def list_page(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """One page, oldest first, and the next page's token. Raises ServiceError for a bad token."""
    shape = output_members(f"List{kind.name}s")[kind.list_member]
    parent = request.params.get(kind.parent_member) if kind.parent_member else None
    limit = request.params.get("maxResults", DEFAULT_PAGE)
    after = read_token(request.params.get("nextToken"), kind.name, parent)
    page = request.transaction.list_resources(
        kind.name, region=request.scope, parent=parent, after=after, limit=limit + 1
    )
    answer: dict[str, Any] = {
        kind.list_member: prune(
            [describe_resource(kind, resource) for resource in page[:limit]], shape
        )
    }
    if len(page) > limit:
        answer["nextToken"] = write_token(page[limit - 1].seq, kind.name, parent)
    return answer


def delete(kind: CatalogKind, request: ApiRequest) -> dict[str, Any]:
    """Queue the deletion, or delete at once if the kind has no jobs.

    Raises NotFoundError, InUseError.
    """
    resource = request.get(kind.name, request.params[kind.arn_member])
    if resource.status in BUSY:
        raise InUseError(f"{resource.arn} cannot be deleted: its status is {resource.status}.")
    if resource.unfinished:
        raise InUseError(f"{resource.arn} cannot be deleted: it is being updated.")
    kind.check_delete(request, resource)
    if kind.perform is None:
        request.transaction.remove(resource.arn)
    else:
        request.transaction.save(resource.copy_with_status(Status.DELETE_PENDING))
    return {}


def write_token(after: int, *scope: str | None) -> str:
    """A page token, valid only for the same list (scope)."""
    return base64.urlsafe_b64encode(json.dumps([after, *scope]).encode()).decode()


def read_token(token: str | None, *scope: str | None) -> int:
    """The sequence number before the page. Raises ServiceError for a foreign token."""
    if token is None:
        return 0
    try:
        after, *token_scope = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        after, token_scope = None, []
    if type(after) is not int or not 0 < after < 2**62 or token_scope != list(scope):
        raise ServiceError(
            "The next token is not valid: send the previous page's token, unchanged.",
            "InvalidNextTokenException",
        )
    return after


def describe_resource(kind: CatalogKind, resource: Resource) -> dict[str, Any]:
    """What Describe and List give, without `describe_extra`."""
    return {
        **resource.body,
        kind.arn_member: resource.arn,
        "status": resource.status,
        "creationDateTime": resource.created,
        "lastUpdatedDateTime": resource.updated,
    }


def _check_name_is_free(request: ApiRequest, arn: str) -> None:
    """Raise AlreadyExistsError, unless the name is a job's whose solution version is deleted."""
    existing = request.transaction.find(arn)
    if existing and existing.parent and request.transaction.find(existing.parent) is None:
        request.transaction.remove(arn)
    elif existing:
        raise AlreadyExistsError(arn)


def _check_quotas(kind: CatalogKind, request: ApiRequest, parent: str | None) -> None:
    if not (kind.running_quota or kind.total_quota):
        return
    same = request.transaction.list_resources(kind.name, region=request.scope)
    if kind.running_quota:
        most: int = getattr(request.quotas, kind.running_quota)
        if sum(resource.unfinished for resource in same) >= most:
            raise LimitExceededError(
                f"More than {most} resources with PENDING or IN_PROGRESS status. Wait until one"
                f" ends, or allow more: {QUOTAS_VARIABLE}={kind.running_quota}={2 * most or 1}"
            )
    if kind.total_quota:
        most = getattr(request.quotas, kind.total_quota)
        if sum(parent is None or resource.parent == parent for resource in same) >= most:
            where = f"in {parent}" if parent else "in this region"
            raise LimitExceededError(
                f"There are already {most} {kind.list_member} {where}, the quota. Delete one that"
                " you no longer need, or allow more:"
                f" {QUOTAS_VARIABLE}={kind.total_quota}={2 * most or 1}"
            )
