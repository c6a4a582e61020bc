"""Gives up the models that a pipeline no longer needs, where Personalize runs on this machine.

Amazon Personalize can delete a solution, but none of its versions by itself, and a version that is
not deployed costs nothing. The local Personalize has a model's file for each version. It deletes
the file of a version that gets the tag `batchrec:model` with the value `expired`; it refuses the
tag while a job needs the model. The version and its metrics stay.
"""

from __future__ import annotations

import re

from botocore.exceptions import ClientError

from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.resource_kinds import DATASET_GROUP, SOLUTION, SOLUTION_VERSION
from batchrec_dagster.personalize.teardown import is_ours, list_resources

MODEL_TAG, EXPIRED = "batchrec:model", "expired"
IN_USE = "ResourceInUseException"


def has_model(ensure: api.Ensure, solution_version: str) -> bool:
    """Whether the version of this ARN has a model. On AWS each one has."""
    return ensure.on_aws or ensure.tags_of(solution_version).get(MODEL_TAG) != EXPIRED


def expire_models(ensure: api.Ensure, pipeline: str, keep: int) -> None:
    """Give up the models of all but the newest versions of each of the pipeline's solutions.

    It does nothing on AWS.

    keep: how many versions of a solution keep their model.
    Raises botocore's ClientError.
    """
    if ensure.on_aws:
        return
    group_name = re.compile(rf"{re.escape(pipeline)}-[0-9a-f]{{8}}")
    for group in list_resources(ensure, DATASET_GROUP):
        if group_name.fullmatch(group.name) and is_ours(ensure, group, pipeline):
            for solution in list_resources(ensure, SOLUTION, datasetGroupArn=group.arn):
                if is_ours(ensure, solution, pipeline):
                    _expire_versions(ensure, pipeline, solution.arn, keep)


def _expire_versions(ensure: api.Ensure, pipeline: str, solution: str, keep: int) -> None:
    """Tag the older versions, the oldest first, unless they are tagged already."""
    for arn in reversed(_list_unneeded(ensure, pipeline, solution, keep)):
        try:
            ensure.client.tag_resource(
                resourceArn=arn, tags=[{"tagKey": MODEL_TAG, "tagValue": EXPIRED}]
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != IN_USE:
                raise
            ensure.log.info(f"retention: the model of {arn} stays until no job uses it")
            # A tagged version has none without a tag before it, which `_list_unneeded` relies on.
            return
        ensure.log_resource(f"retention: deleted the model of {arn}; its metrics stay")


def _list_unneeded(ensure: api.Ensure, pipeline: str, solution: str, keep: int) -> list[str]:
    """The ARNs of the older versions that still have a model, the newest first."""
    versions = sorted(
        ensure.list(SOLUTION_VERSION, solutionArn=solution),
        key=lambda version: version["creationDateTime"],
        reverse=True,
    )
    models = 0
    unneeded = []
    for version in versions:
        arn = str(version[SOLUTION_VERSION.arn])
        tags = ensure.tags_of(arn) if version["status"] == api.ACTIVE else {}
        # Somebody else may have trained a version of the solution, such as in a notebook.
        if tags.get(api.PIPELINE_TAG) != pipeline:
            continue
        is_expired = tags.get(MODEL_TAG) == EXPIRED
        if is_expired and models >= keep:
            # All older ones are tagged, too.
            break
        models += not is_expired
        if models > keep:
            unneeded.append(arn)
    return unneeded
