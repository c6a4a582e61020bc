"""Deletion of the models of old solution versions, which take up disk space on this machine.

On AWS a solution version costs nothing and cannot be deleted alone. The local Personalize deletes
the model file of a version that gets the tag MODEL_TAG, unless a job needs the model. The version
and its metrics stay.
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from batchrec_dagster.personalize.api import (
    ACTIVE,
    IN_USE,
    PIPELINE_TAG,
    SOLUTION,
    SOLUTION_VERSION,
)
from batchrec_dagster.personalize.cleanup import is_ours, list_groups, list_resources
from batchrec_dagster.personalize.resources import Resources

MODEL_TAG, EXPIRED = "batchrec:model", "expired"


def has_model(resources: Resources, solution_version: str) -> bool:
    """Return whether the solution version with this ARN has a model. It always has one on AWS."""
    return resources.on_aws or resources.tags_of(solution_version).get(MODEL_TAG) != EXPIRED


def expire_models(resources: Resources, pipeline: str, keep: int) -> None:
    """Delete all but the newest models of each of the pipeline's solutions.

    Nothing is deleted on AWS.

    keep: the number of versions of a solution that keep their model.
    Raises botocore's ClientError.
    """
    if resources.on_aws:
        return
    for group in list_groups(resources, pipeline):
        if is_ours(resources, group, pipeline):
            for solution in list_resources(resources, SOLUTION, datasetGroupArn=group.arn):
                if is_ours(resources, solution, pipeline):
                    _expire_versions(resources, pipeline, solution.arn, keep)


def _expire_versions(resources: Resources, pipeline: str, solution: str, keep: int) -> None:
    """Tag the older versions as expired, the oldest first, unless they are tagged already."""
    versions = resources.list(SOLUTION_VERSION, solutionArn=solution)
    versions.sort(key=lambda version: version["creationDateTime"], reverse=True)
    with_model: list[str] = []
    for version in versions:
        arn = str(version[SOLUTION_VERSION.arn])
        tags = resources.tags_of(arn) if version["status"] == ACTIVE else {}
        # Somebody else may have trained a version of the solution, such as in a notebook.
        if tags.get(PIPELINE_TAG) != pipeline:
            continue
        if tags.get(MODEL_TAG) != EXPIRED:
            with_model.append(arn)
        elif len(with_model) >= keep:
            # All older versions are tagged, too.
            break
    for arn in reversed(with_model[keep:]):
        try:
            resources.client.tag_resource(
                resourceArn=arn, tags=[{"tagKey": MODEL_TAG, "tagValue": EXPIRED}]
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != IN_USE:
                raise
            resources.log.info(f"retention: the model of {arn} stays until no job uses it")
            # The newer versions are not tagged either. If one were, the loop above would stop there
            # in later runs, and would never reach this older version again.
            return
        resources.log_resource(f"retention: deleted the model of {arn}; its metrics stay")
