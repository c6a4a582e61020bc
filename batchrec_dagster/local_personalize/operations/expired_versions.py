"""Solution versions without a model: what Amazon does not have, as its versions cost nothing.

A version gives up its model when it gets the tag `batchrec:model` with the value `expired`. The
version itself and its metrics stay. Nothing brings the model back, not even UntagResource.
"""

from __future__ import annotations

from dataclasses import replace

from ..catalog.requests import ApiRequest
from ..catalog.resource import Resource, Status
from ..errors import InUseError, InvalidInputError
from .datasets import BATCH_JOB_KINDS


def has_model(version: Resource) -> bool:
    """Whether an ACTIVE version still has its model."""
    return "model" in version.state


def give_up_model(request: ApiRequest, version: Resource) -> None:
    """Remove the model of the version, if it has one.

    Raises InUseError if the version is not ACTIVE, or if a job needs its model.
    """
    if version.status != Status.ACTIVE:
        raise InUseError(f"{version.arn} cannot expire: its status is {version.status}.")
    if not has_model(version):
        return
    for job in request.transaction.list_unfinished():
        if job.kind in BATCH_JOB_KINDS and job.body["solutionVersionArn"] == version.arn:
            raise InUseError(f"{version.arn} cannot expire: {job.arn} needs its model.")
    state = {name: value for name, value in version.state.items() if name != "model"}
    request.transaction.save(replace(version, state=state))
    request.files_to_remove.append(version.state["model"])


def require_model(version: Resource) -> None:
    """Raise InvalidInputError if the model of an ACTIVE version was given up."""
    if not has_model(version):
        raise InvalidInputError(
            f"The model of {version.arn} was deleted, as its tag says: create another solution"
            " version (in a pipeline: batchrec run NAME --train)."
        )
