"""The operations that all kinds of resources share: Create, Describe, List, Delete, and tags.

A `Kind` describes the differences between solutions, datasets, jobs and so on. Deleting a resource
deletes all resources that belong to it, such as the versions of a solution.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec_dagster.storage.permissions import find_partition

from .api.validation import find_output_members, prune
from .catalogue import CatalogueTransaction, Resource, Status
from .errors import (
    AlreadyExistsError,
    InUseError,
    InvalidInputError,
    ResourceNotFoundError,
    ServiceError,
)

if TYPE_CHECKING:
    from .jobs import Job

HEADERS = "$headers"
"""The key, in an operation's response, of the HTTP headers to send with it."""

DEFAULT_PAGE = 100
"""The default number of entries on a page of a list, which is also the maximum of maxResults."""

MAX_TAGS = 50

_MAX_POSITION = 2**62
"""A limit for the numbers of entries in tokens, because SQLite's integers have 64 bits."""


@dataclass(frozen=True)
class ApiRequest:
    """A request to an operation: its parameters, and the catalogue within a transaction."""

    params: Mapping[str, Any]
    """The request's members by their names on the wire, validated by botocore's service model."""
    transaction: CatalogueTransaction
    home: Path
    """The folder of the service. Paths in the catalogue are relative to this folder."""
    region: str
    take_lock: Callable[[], str]
    """A function that takes the lock of a new job, and returns the lock's name."""
    account: str
    filter_interactions: int
    """The number of latest interactions, of each user and event type, that a filter considers."""
    success: Sequence[str]
    """The event types that metrics count. If empty, metrics count all events."""
    started: list[tuple[Kind, Resource]] = field(default_factory=list)
    """The new resources with a job to start once the transaction is committed."""
    files_to_remove: list[str] = field(default_factory=list)
    """The files to remove once the transaction is committed, relative to the home."""

    @property
    def scope(self) -> str:
        """The `Resource.scope` of the request. A list shows the resources of a single scope."""
        return f"{self.region} {self.account}"

    def make_arn(self, resource: str) -> str:
        """Return the ARN of this account's `resource`, such as `schema/films`."""
        partition = find_partition(self.region)
        return f"arn:{partition}:personalize:{self.region}:{self.account}:{resource}"

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

        Raises ResourceNotFoundError as `get` does, or InUseError if the resource is not ACTIVE.
        """
        resource = self.get(kind, arn)
        if resource.status not in (Status.ACTIVE, None):
            raise InUseError(f"{arn} is not ACTIVE: its status is {resource.status}.")
        return resource


@dataclass(frozen=True)
class NewResource:
    """The data of a new resource that are not in its Create request."""

    body: dict[str, Any] = field(default_factory=dict)
    """Members of Describe that are missing in the request, or have another value there."""
    state: dict[str, Any] = field(default_factory=dict)
    """The initial `Resource.state`."""
    arn_suffix: str = ""
    """The last part of the resource's ARN. If empty, the ARN ends with `Kind.slug` and the name."""


@dataclass(frozen=True)
class JobResult:
    """The result of a job that succeeded."""

    body: dict[str, Any] = field(default_factory=dict)
    """New members for Describe."""
    state: dict[str, Any] = field(default_factory=dict)
    """New entries for the resource's state."""
    apply_changes: Callable[[CatalogueTransaction], Sequence[Path]] = lambda transaction: ()
    """A function that changes other resources in the transaction that makes this resource ACTIVE.

    It returns the files to remove once the transaction is committed.
    """


@dataclass(frozen=True)
class Kind:
    """A kind of resource: its names on the wire, its rules and its job."""

    name: str
    """The kind's name in operations: `DatasetGroup` in CreateDatasetGroup."""
    create: Callable[[ApiRequest], NewResource]
    """A function that checks a Create request by the kind's own rules. Raises ServiceError."""
    parent_member: str | None = None
    """The member of Create with the ARN of the parent; None if this kind has no parent."""
    perform: Callable[[Job], JobResult] | None = None
    """A function that does the work of a new resource, in the background.

    It raises JobFailedError with the reason that Describe shows. None if a new resource is ready at
    once.
    """
    turn: str = ""
    """The name of a queue. In a process, the jobs of one queue run one after the other."""
    has_status: bool = True
    check_delete: Callable[[ApiRequest, Resource], None] = lambda request, resource: None
    """A function that raises InUseError if another resource needs the resource to delete."""
    describe_extra: Callable[[CatalogueTransaction, Resource], dict[str, Any]] = (
        lambda transaction, resource: {}
    )
    """A function that returns the members of Describe that depend on other resources."""
    status_names: Mapping[str, str] = field(default_factory=dict)
    """The names of statuses in Describe and List of this kind, where they differ from `Status`."""
    newest_first: bool = False
    """Whether List begins with the newest resource. By default, it begins with the oldest."""

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
        """The member with the resource's ARN, such as `datasetGroupArn`."""
        return f"{self.member}Arn"


def create(kind: Kind, request: ApiRequest) -> dict[str, Any]:
    """Answer Create: add the resource to the catalogue. Its job starts after the transaction.

    Raises ServiceError if the request breaks a rule of the kind, the name is in use, or the tags
    are bad.
    """
    tags = _check_tags(request.params.get("tags", []))
    new_resource = kind.create(request)
    members = {**request.params, **new_resource.body, "tags": None}
    body = {member: value for member, value in members.items() if value is not None}
    name = body.get("jobName") or body.get("name")
    arn = request.make_arn(new_resource.arn_suffix or f"{kind.slug}/{name}")
    if request.transaction.find(arn) is not None:
        raise AlreadyExistsError(arn)
    status = Status.CREATE_PENDING if kind.perform else Status.ACTIVE
    resource = Resource(
        arn=arn,
        scope=request.scope,
        kind=kind.name,
        parent=body[kind.parent_member] if kind.parent_member else None,
        status=status if kind.has_status else None,
        job=request.take_lock() if kind.perform else None,
        body=body,
        state=new_resource.state,
        tags=tags,
    )
    request.transaction.add(resource)
    if kind.perform:
        request.started.append((kind, resource))
    response = {**body, kind.arn_member: arn}
    allowed = find_output_members(f"Create{kind.name}")
    return {member: response[member] for member in allowed if member in response}


def describe(kind: Kind, request: ApiRequest) -> dict[str, Any]:
    """Answer Describe: all members of the resource. Raises ResourceNotFoundError."""
    resource = request.get(kind.name, request.params[kind.arn_member])
    members = describe_resource(kind, resource)
    members |= kind.describe_extra(request.transaction, resource)
    shape = find_output_members(f"Describe{kind.name}")[kind.member]
    return {kind.member: prune(members, shape)}


def list_page(kind: Kind, request: ApiRequest) -> dict[str, Any]:
    """Answer List: one page in the kind's order. Raises ServiceError for a bad token."""
    parent = request.params.get(kind.parent_member) if kind.parent_member else None

    def list_entries(after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        resources = request.transaction.list_resources(
            kind.name,
            scope=request.scope,
            parent=parent,
            after=after,
            limit=limit,
            newest_first=kind.newest_first,
        )
        return [(resource.seq, describe_resource(kind, resource)) for resource in resources]

    return answer_page(request, f"List{kind.name}s", list_entries, parent)


def answer_page(
    request: ApiRequest,
    operation: str,
    list_entries: Callable[[int, int], Sequence[tuple[int, dict[str, Any]]]],
    *scope: str | None,
) -> dict[str, Any]:
    """Answer a List operation: one page, and the token of the next page if there is one.

    list_entries: takes the number of an entry (0 to start) and a limit. It returns the entries
        after that entry, with their numbers.
    scope: values that identify this list among the operation's lists, such as the parent of the
        resources. A token is valid only for the list that it was made for.

    Raises ServiceError for a bad token.
    """
    limit = request.params.get("maxResults", DEFAULT_PAGE)
    after = _read_token(request.params.get("nextToken"), [operation, *scope])
    # One more entry than the page has shows whether there is a next page.
    entries = list_entries(after, limit + 1)
    page = entries[:limit]
    members = find_output_members(operation)
    member = next(name for name, shape in members.items() if shape.type_name == "list")
    response: dict[str, Any] = {member: prune([entry for _, entry in page], members[member])}
    if len(entries) > limit:
        token = json.dumps([page[-1][0], operation, *scope])
        response["nextToken"] = base64.urlsafe_b64encode(token.encode()).decode()
    return response


def _read_token(token: str | None, scope: list[str | None]) -> int:
    """Return the number of the last entry before the page, or 0 for the first page.

    scope: the operation and the scope of the list. The token must have been made for them.

    Raises ServiceError for a bad token, or a token of another list.
    """
    if token is None:
        return 0
    try:
        last, *token_scope = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        last, token_scope = None, []
    if type(last) is not int or not 0 < last < _MAX_POSITION or token_scope != scope:
        raise ServiceError(
            "The next token is not valid: send the previous page's token, unchanged.",
            "InvalidNextTokenException",
        )
    return last


def delete(kind: Kind, request: ApiRequest) -> dict[str, Any]:
    """Answer Delete: remove the resource and all resources that belong to it.

    Raises ResourceNotFoundError. Raises InUseError if a job is working on any of these resources,
    or if another resource needs the resource to delete.
    """
    resource = request.get(kind.name, request.params[kind.arn_member])
    for job in request.transaction.list_jobs_of(resource.arn):
        raise InUseError(f"{resource.arn} cannot be deleted: {job.arn} is not finished.")
    kind.check_delete(request, resource)
    request.files_to_remove.extend(request.transaction.remove(resource))
    return {}


def describe_resource(kind: Kind, resource: Resource) -> dict[str, Any]:
    """Return the members that Describe and List show, without those of `Kind.describe_extra`."""
    return {
        **resource.body,
        kind.arn_member: resource.arn,
        "status": kind.status_names.get(resource.status or "", resource.status),
        "creationDateTime": resource.created,
        "lastUpdatedDateTime": resource.updated,
    }


def tag(request: ApiRequest) -> dict[str, Any]:
    """Answer TagResource: add tags, or change the values of existing ones.

    Raises ServiceError for bad tags or too many tags, and ResourceNotFoundError.
    """
    resource = find_taggable(request)
    tags = _check_tags(request.params["tags"], resource.tags)
    request.transaction.save(replace(resource, tags=tags))
    return {}


def untag(request: ApiRequest) -> dict[str, Any]:
    """Answer UntagResource: remove tags. Keys that the resource does not have are ignored.

    Raises ResourceNotFoundError.
    """
    resource, keys = find_taggable(request), request.params["tagKeys"]
    tags = {key: value for key, value in resource.tags.items() if key not in keys}
    request.transaction.save(replace(resource, tags=tags))
    return {}


def list_tags(request: ApiRequest) -> dict[str, Any]:
    """Answer ListTagsForResource: the tags, sorted by key. Raises ResourceNotFoundError."""
    tags = sorted(find_taggable(request).tags.items())
    return {"tags": [{"tagKey": key, "tagValue": value} for key, value in tags]}


def find_taggable(request: ApiRequest) -> Resource:
    """Return the resource that a request about tags names.

    Raises ResourceNotFoundError, and InvalidInputError for a schema.
    """
    arn = request.params["resourceArn"]
    resource = request.transaction.find(arn)
    if resource is None:
        raise ResourceNotFoundError(arn)
    if resource.kind == "Schema":
        # CreateSchema does not take tags either.
        raise InvalidInputError("Schemas cannot be tagged.")
    return resource


def _check_tags(
    tags: Sequence[Mapping[str, str]], existing: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the values of the existing and the new tags, by key.

    tags: the new tags, in the form of a request.
    existing: the resource's tags before the request.

    Raises ServiceError for a reserved or repeated key, and for too many tags.
    """
    new_tags = {entry["tagKey"]: entry["tagValue"] for entry in tags}
    if len(new_tags) < len(tags):
        raise InvalidInputError("A tag key is given more than once.")
    if any(key.lower().startswith("aws:") for key in new_tags):
        raise InvalidInputError("A tag key must not start with aws:, which is reserved.")
    values = {**(existing or {}), **new_tags}
    if len(values) > MAX_TAGS:
        raise ServiceError(f"A resource can have at most {MAX_TAGS} tags.", "TooManyTagsException")
    return values
