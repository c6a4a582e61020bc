"""Tags: their rules, and the operations that add, remove and list them."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.personalize.cleanup import EXPIRED, MODEL_TAG

from ..catalog.requests import ApiRequest
from ..catalog.resource import Resource
from ..errors import InvalidInputError, ResourceNotFoundError, ServiceError
from .expired_versions import give_up_model

MAX_TAGS = 50
_TOO_MANY_TAGS = "TooManyTagsException"
_TOO_MANY_KEYS = "TooManyTagKeysException"


def check_tags(tags: list[dict[str, str]]) -> dict[str, str]:
    """Return the value of each tag by its key.

    tags: the tags as a request has them.

    Raises ServiceError for a reserved or repeated key, and for too many tags.
    """
    values = {tag["tagKey"]: tag["tagValue"] for tag in tags}
    if len(values) < len(tags):
        raise InvalidInputError("A tag key is given more than once.")
    for key in values:
        if key.lower().startswith("aws:"):
            raise InvalidInputError("A tag key must not start with aws:, which is reserved.")
    if len(values) > MAX_TAGS:
        raise ServiceError(f"A resource can have at most {MAX_TAGS} tags.", _TOO_MANY_TAGS)
    return values


def tag_resource(request: ApiRequest) -> dict[str, Any]:
    """Answer TagResource: add tags, or change the values of existing ones.

    A solution version that becomes expired loses its model, see expired_versions.py.

    Raises ServiceError for bad tags or too many, ResourceNotFoundError, and InUseError if the model
    is still needed.
    """
    tags = check_tags(request.params["tags"])
    resource = _find_taggable(request)
    if len(request.transaction.read_tags(resource.arn) | tags) > MAX_TAGS:
        raise ServiceError(f"{resource.arn} would have more than {MAX_TAGS} tags.", _TOO_MANY_TAGS)
    if resource.kind == "SolutionVersion" and tags.get(MODEL_TAG) == EXPIRED:
        give_up_model(request, resource)
    request.transaction.put_tags(resource.arn, tags)
    return {}


def untag_resource(request: ApiRequest) -> dict[str, Any]:
    """Answer UntagResource: remove tags. Keys that the resource does not have are ignored.

    Raises ServiceError for too many keys, and ResourceNotFoundError.
    """
    keys = request.params["tagKeys"]
    resource = _find_taggable(request)
    if len(set(keys)) > MAX_TAGS:
        raise ServiceError(f"A request can remove at most {MAX_TAGS} tags.", _TOO_MANY_KEYS)
    request.transaction.remove_tags(resource.arn, keys)
    return {}


def list_tags(request: ApiRequest) -> dict[str, Any]:
    """Answer ListTagsForResource: the tags, sorted by key. Raises ResourceNotFoundError."""
    resource = _find_taggable(request)
    tags = request.transaction.read_tags(resource.arn)
    return {"tags": [{"tagKey": key, "tagValue": value} for key, value in tags.items()]}


def _find_taggable(request: ApiRequest) -> Resource:
    """Return the resource that the request names.

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
