"""Deletion of a pipeline's resources in Personalize: either all of them, or the unused ones.

A dataset group belongs to the pipeline if it has the pipeline's name and tag. A resource inside
such a group belongs to the pipeline if it has the tag. Schemas have no tags, so a schema belongs to
the pipeline by its name, unless a dataset of another pipeline uses the schema. The deletion
waits for trainings and jobs under way. It never stops them, because they are paid for anyway.
Source of the order of deletion: developer guide, "Deleting Amazon Personalize resources".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from batchrec_dagster.personalize.api import (
    BATCH_INFERENCE_JOB,
    BATCH_SEGMENT_JOB,
    CAMPAIGN,
    DATASET,
    DATASET_GROUP,
    EVENT_TRACKER,
    FAILED,
    FILTER,
    IMPORT_JOB,
    IN_USE,
    METRIC_ATTRIBUTION,
    NOT_FOUND,
    PIPELINE_TAG,
    READY,
    RECOMMENDER,
    SCHEMA,
    SOLUTION,
    SOLUTION_VERSION,
    STORAGE_TAG,
    Description,
    PersonalizeError,
    ResourceKind,
)
from batchrec_dagster.personalize.resources import Resources

# Deleting a solution deletes its versions. Jobs cannot be deleted; finished ones cost nothing.
ORDER = (FILTER, SOLUTION, DATASET, SCHEMA, DATASET_GROUP)
# The kinds of resources inside each kind of resource. The inner resources are deleted first.
CONTENT = {DATASET_GROUP: (FILTER, SOLUTION, DATASET)}
# The kinds of work that may be under way in each kind of resource. The deletion waits for the work.
WORK = {SOLUTION: (SOLUTION_VERSION,), DATASET: (IMPORT_JOB,)}
# The kinds of resources that may be inside each kind of resource, but that no pipeline creates.
FOREIGN = {
    DATASET_GROUP: (EVENT_TRACKER, METRIC_ATTRIBUTION, RECOMMENDER),
    SOLUTION: (CAMPAIGN,),
}

# The pattern of the names of a pipeline's dataset groups: the pipeline's name and a hash of its
# schemas.
_GROUP_NAME = "{}-[0-9a-f]{{8}}"

# The number of unused solutions, and of unused filters, to keep in a dataset group, because a
# setting may be changed back.
SPARE_RESOURCES = 2
# The seconds that a run waits for its deletions. The next run continues with the rest.
PRUNE_SECONDS = 600


@dataclass(frozen=True)
class ListedResource:
    """A resource in an answer of List."""

    kind: ResourceKind
    name: str
    arn: str
    status: str
    """The status when the resource was listed; empty for a kind without statuses."""

    def __str__(self) -> str:
        return f"{self.kind.label} {self.name}"


@dataclass(frozen=True)
class TeardownPlan:
    """The plan of a teardown, which waits for `work` and then deletes `pieces`."""

    pieces: list[ListedResource] = field(default_factory=list)
    """The resources to delete, in this order."""
    work: list[ListedResource] = field(default_factory=list)
    """The trainings and jobs under way, which the teardown waits for."""
    in_the_way: list[str] = field(default_factory=list)
    """Sentences about foreign resources inside the pieces. Any such sentence stops the teardown."""
    left_alone: list[str] = field(default_factory=list)
    """Sentences about resources that look like the pipeline's but belong to somebody else."""

    def describe(
        self, file_sizes: Sequence[int], root: str, running: Sequence[str] = ()
    ) -> list[str]:
        """Return the plan in words, in the order of deletion.

        file_sizes: the size in bytes of each file that is to be deleted too.
        root: the folder with the files.
        running: sentences about runs that are in the way.
        """
        megabytes = sum(file_sizes) / 1e6
        return [
            *(f"wait for {work}" for work in self.work),
            *(f"delete {piece}" for piece in self.pieces),
            *(
                [f"delete {len(file_sizes):,} files under {root} ({megabytes:,.1f} MB)"]
                if file_sizes
                else []
            ),
            *(f"in the way: {what}" for what in [*running, *self.in_the_way]),
            *(f"left alone: {what}" for what in self.left_alone),
        ]


def plan_teardown(resources: Resources, pipeline: str) -> TeardownPlan:
    """Return a plan to delete everything that the pipeline created.

    An earlier teardown may have left the resources in any state.
    """
    plan = TeardownPlan()
    for group in list_groups(resources, pipeline):
        with _ignore_missing():
            if is_ours(resources, group, pipeline):
                _add(resources, pipeline, group, plan)
            else:
                tags = resources.tags_of(group.arn)
                owner = ", ".join(
                    f"{key}={tags.get(key, '')}" for key in (PIPELINE_TAG, STORAGE_TAG)
                )
                plan.left_alone.append(f"{group} belongs to somebody else: {owner}")
    _add_schemas(resources, _GROUP_NAME.format(re.escape(pipeline)), plan)
    _add_jobs(resources, plan)
    plan.pieces.sort(key=lambda piece: ORDER.index(piece.kind))
    return plan


def delete(resources: Resources, plan: TeardownPlan) -> None:
    """Wait for work under way, then delete the resources and wait until they are gone.

    Raises PersonalizeError if the deadline passes. If something is in the way, PersonalizeError is
    raised before anything is deleted.
    """
    if plan.in_the_way:
        raise PersonalizeError(
            f"nothing was deleted: {'; '.join(plan.in_the_way)}. Delete that first, then run the"
            " teardown again"
        )
    for piece in plan.work:
        _wait_until_idle(resources, piece)
    for kind in ORDER:
        pieces = [piece for piece in plan.pieces if piece.kind is kind]
        for piece in pieces:
            _delete(resources, piece)
        for piece in pieces:
            resources.wait_until_gone(piece.kind, piece.arn)


def prune(
    resources: Resources,
    pipeline: str,
    group: str,
    in_use: Collection[str],
    other_groups: Collection[str],
) -> list[ListedResource]:
    """Delete the resources that the pipeline's earlier settings left, and return them.

    The function waits until the resources are gone. A resource with work under way stays for a
    later run.

    group: the name of the dataset group in use.
    in_use: the names of the solutions and filters in use inside this group.
    other_groups: the names of other dataset groups to keep.
    Raises PersonalizeError, and botocore's ClientError.
    """
    plan = TeardownPlan()
    for dataset_group in list_groups(resources, pipeline):
        if dataset_group.name == group:
            for kind in (FILTER, SOLUTION):
                summaries = resources.list(kind, datasetGroupArn=dataset_group.arn)
                unused = [summary for summary in summaries if summary[kind.name] not in in_use]
                unused.sort(key=lambda summary: summary["creationDateTime"], reverse=True)
                for piece in _to_resources(kind, unused[SPARE_RESOURCES:]):
                    _add_idle(resources, pipeline, piece, plan)
        elif dataset_group.name not in other_groups:
            _add_idle(resources, pipeline, dataset_group, plan)
    delete(resources.with_deadline(PRUNE_SECONDS), plan)
    return plan.pieces


def _add_idle(
    resources: Resources, pipeline: str, piece: ListedResource, plan: TeardownPlan
) -> None:
    """Add a resource and its contents to the plan, if the resource is the pipeline's and idle.

    A resource is left out if work is under way in it, or if it holds resources of somebody else.
    """
    own_plan = TeardownPlan()
    with _ignore_missing():
        if not is_ours(resources, piece, pipeline):
            return
        _add(resources, pipeline, piece, own_plan)
        if piece.kind is DATASET_GROUP:
            _add_schemas(resources, re.escape(piece.name), own_plan)
        _add_jobs(resources, own_plan)
    if not own_plan.work and not own_plan.in_the_way:
        plan.pieces.extend(own_plan.pieces)


def _add(resources: Resources, pipeline: str, piece: ListedResource, plan: TeardownPlan) -> None:
    """Add a resource, its contents, the work under way in it, and foreign resources inside it."""
    plan.pieces.append(piece)
    parent = {piece.kind.arn: piece.arn}
    for kind in CONTENT.get(piece.kind, ()):
        for child in list_resources(resources, kind, **parent):
            with _ignore_missing():
                if is_ours(resources, child, pipeline):
                    _add(resources, pipeline, child, plan)
                else:
                    plan.in_the_way.append(
                        f"{child} in {piece.name} was not created by the pipeline {pipeline}"
                    )
    for kind in WORK.get(piece.kind, ()):
        plan.work.extend(_to_resources(kind, filter(is_busy, resources.list(kind, **parent))))
    for kind in FOREIGN.get(piece.kind, ()):
        foreign = list_resources(resources, kind, **parent)
        plan.in_the_way.extend(f"{resource} belongs to {piece}" for resource in foreign)


def _add_schemas(resources: Resources, group_name: str, plan: TeardownPlan) -> None:
    """Add the schemas of the groups with matching names, unless somebody else uses them."""
    own_name = re.compile(rf"{group_name}-(interactions|items|users)")
    schemas = [
        schema for schema in list_resources(resources, SCHEMA) if own_name.fullmatch(schema.name)
    ]
    if not schemas:
        return
    datasets = {piece.arn for piece in plan.pieces}
    used = {
        resources.describe(DATASET, other.arn)["schemaArn"]: other
        for other in list_resources(resources, DATASET)
        if other.arn not in datasets
    }
    for schema in schemas:
        if schema.arn in used:
            plan.left_alone.append(f"{schema} is used by {used[schema.arn].arn}")
        else:
            plan.pieces.append(schema)


def _add_jobs(resources: Resources, plan: TeardownPlan) -> None:
    """Add the batch jobs under way that use models of the plan's solutions."""
    solutions = [piece.arn for piece in plan.pieces if piece.kind is SOLUTION]
    for kind in (BATCH_INFERENCE_JOB, BATCH_SEGMENT_JOB) if solutions else ():
        jobs = [
            job
            for job in resources.list(kind)
            if job["solutionVersionArn"].rpartition("/")[0] in solutions and is_busy(job)
        ]
        plan.work.extend(_to_resources(kind, jobs))


def list_groups(resources: Resources, pipeline: str) -> list[ListedResource]:
    """Return the dataset groups with the pipeline's name, including groups of earlier settings.

    A listed group may belong to somebody else: check it with `is_ours`.
    """
    name = re.compile(_GROUP_NAME.format(re.escape(pipeline)))
    return [
        group for group in list_resources(resources, DATASET_GROUP) if name.fullmatch(group.name)
    ]


def is_ours(resources: Resources, piece: ListedResource, pipeline: str) -> bool:
    """Return whether the pipeline created the resource, judging by its tags."""
    if piece.status.startswith("DELETE"):
        # An earlier teardown or somebody else is deleting the resource, which may have no tags any
        # more. Count it as ours, so that the caller waits for its deletion.
        return True
    tags = resources.tags_of(piece.arn)
    our_tags = (pipeline, resources.tags.get(STORAGE_TAG))
    return (tags.get(PIPELINE_TAG), tags.get(STORAGE_TAG)) == our_tags


def is_busy(summary: Mapping[str, Any]) -> bool:
    """Return whether Personalize still works on the resource."""
    return summary["status"] not in (*READY, *FAILED)


def list_resources(resources: Resources, kind: ResourceKind, **within: str) -> list[ListedResource]:
    """Return all resources of a kind, whoever created them.

    within: List's filter, for example a dataset group.
    """
    return _to_resources(kind, resources.list(kind, **within))


def _to_resources(kind: ResourceKind, summaries: Iterable[Description]) -> list[ListedResource]:
    return [
        # The summary of a solution version has no name.
        ListedResource(
            kind,
            summary.get(kind.name) or summary[kind.arn].partition("/")[2],
            summary[kind.arn],
            summary.get("status", ""),
        )
        for summary in summaries
    ]


@contextmanager
def _ignore_missing() -> Iterator[None]:
    """Ignore errors about a missing resource, because an earlier teardown may be deleting it."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != NOT_FOUND:
            raise


def _wait_until_idle(resources: Resources, piece: ListedResource) -> None:
    """Wait until a training or job has ended. Raises PersonalizeError at the deadline."""
    while (
        description := resources.describe_if_shown(piece.kind, piece.arn)
    ) is not None and is_busy(description):
        resources.sleep(resources.poll_seconds, f"{piece} is {description['status']}")


def _delete(resources: Resources, piece: ListedResource) -> None:
    """Request the deletion, and repeat the request while another resource needs this one.

    Raises PersonalizeError if Personalize refuses the deletion, or at the deadline.
    """
    while True:
        try:
            getattr(resources.client, f"delete_{piece.kind.snake}")(**{piece.kind.arn: piece.arn})
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
            if code == NOT_FOUND:
                return
            if code != IN_USE:
                raise PersonalizeError(
                    f"Personalize refused to delete {piece}: {message} ({code})"
                ) from error
            description = resources.describe_if_shown(piece.kind, piece.arn)
            if description and str(description.get("status")).startswith("DELETE"):
                return
            resources.sleep(resources.poll_seconds, f"{piece} cannot be deleted yet: {message}")
        else:
            resources.log.info(f"deleting {piece}")
            return
