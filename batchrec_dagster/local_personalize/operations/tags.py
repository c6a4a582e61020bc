"""Tags of resources."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.local_personalize.catalog.catalog import Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call
from batchrec_dagster.local_personalize.errors import (
    InvalidInputError,
    NotFoundError,
    TooManyTagKeysError,
    TooManyTagsError,
)

MAX_TAGS = 50


def check_tags(tags: list[dict[str, str]]) -> dict[str, str]:
    """Tags by key. Raises TooManyTagsError, InvalidInputError for a key that is named twice."""
    by_key = {tag["tagKey"]: tag["tagValue"] for tag in tags}
    if len(by_key) < len(tags):
        raise InvalidInputError("A tag key is given more than once.")
    for key in by_key:
        if key.lower().startswith("aws:"):
            raise InvalidInputError("A tag key must not start with aws:, which is reserved.")
    if len(by_key) > MAX_TAGS:
        raise TooManyTagsError(f"A resource can have at most {MAX_TAGS} tags.")
    return by_key


def tag_resource(call: Call) -> dict[str, Any]:
    """Adds tags, or changes the values of those that are there."""
    tags = check_tags(call.params["tags"])
    resource = _taggable(call)
    if len(call.records.tags(resource.arn) | tags) > MAX_TAGS:
        raise TooManyTagsError(f"{resource.arn} would have more than {MAX_TAGS} tags.")
    call.records.put_tags(resource.arn, tags)
    return {}


def untag_resource(call: Call) -> dict[str, Any]:
    """Removes tags; a key that is not there is no error."""
    keys = call.params["tagKeys"]
    resource = _taggable(call)
    if len(set(keys)) > MAX_TAGS:
        raise TooManyTagKeysError(f"A request can remove at most {MAX_TAGS} tags.")
    call.records.remove_tags(resource.arn, keys)
    return {}


def list_tags(call: Call) -> dict[str, Any]:
    """The tags of a resource, in order of key."""
    tags = call.records.tags(_taggable(call).arn)
    return {"tags": [{"tagKey": key, "tagValue": value} for key, value in tags.items()]}


def _taggable(call: Call) -> Resource:
    arn = call.params["resourceArn"]
    resource = call.records.find(arn)
    if resource is None:
        raise NotFoundError(arn)
    if resource.kind == "Schema":
        raise InvalidInputError("Schemas cannot be tagged.")  # CreateSchema takes no tags either
    return resource
