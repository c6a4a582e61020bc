"""Finds what a pipeline created in Personalize, and deletes that and nothing else.

A dataset group is the pipeline's if it has the pipeline's name and tag. What is in such a group is
the pipeline's if it has the tag. Schemas have no tags: the name counts, unless a dataset of another
pipeline uses the schema.
Source of the order of deletion: developer guide, "Deleting Amazon Personalize resources".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.resource_kinds import (
    BATCH_INFERENCE_JOB,
    BATCH_SEGMENT_JOB,
    CAMPAIGN,
    DATASET,
    DATASET_GROUP,
    EVENT_TRACKER,
    FILTER,
    IMPORT_JOB,
    METRIC_ATTRIBUTION,
    RECOMMENDER,
    SCHEMA,
    SOLUTION,
    SOLUTION_VERSION,
    ResourceKind,
)

# Deleting a solution deletes its versions. Jobs cannot be deleted; finished ones cost nothing.
ORDER = (FILTER, SOLUTION, DATASET, SCHEMA, DATASET_GROUP)
# What is under way in a kind that is to be deleted: it ends first.
WORK = {SOLUTION: (SOLUTION_VERSION,), DATASET: (IMPORT_JOB,)}

# How many of a kind stay in a dataset group besides those in use: a setting may be changed back.
SPARE_RESOURCES = 2
# How long a run waits for what it prunes. The next run continues.
PRUNE_SECONDS = 600


@dataclass(frozen=True)
class ResourceToDelete:
    """A resource: its kind, name and ARN, and its status when found."""

    kind: ResourceKind
    name: str
    arn: str
    status: str = ""

    def __str__(self) -> str:
        return f"{self.kind.label} {self.name}"


@dataclass(frozen=True)
class TeardownPlan:
    """What a teardown does: it ends `work`, then deletes `pieces`."""

    pieces: list[ResourceToDelete] = field(default_factory=list)
    """What it deletes, in this order."""
    work: list[ResourceToDelete] = field(default_factory=list)
    """Trainings and jobs under way: it stops them, or waits for them."""
    in_the_way: list[str] = field(default_factory=list)
    """Sentences on what others created inside the pieces. Any of them stops the teardown."""
    left_alone: list[str] = field(default_factory=list)
    """Sentences on what looks like the pipeline's and is not."""

    def describe(
        self, file_sizes: Sequence[int], root: str, running: Sequence[str] = ()
    ) -> list[str]:
        """The plan in words, in the order of deletion.

        file_sizes: the bytes of each file under `root` that is to be deleted too.
        running: sentences on the runs that are in the way.
        """
        megabytes = sum(file_sizes) / 1e6
        return [
            *(f"end {work}" for work in self.work),
            *(f"delete {piece}" for piece in self.pieces),
            *(
                [f"delete {len(file_sizes):,} files under {root} ({megabytes:,.1f} MB)"]
                if file_sizes
                else []
            ),
            *(f"in the way: {what}" for what in [*running, *self.in_the_way]),
            *(f"left alone: {what}" for what in self.left_alone),
        ]


def plan_teardown(ensure: api.Ensure, pipeline: str) -> TeardownPlan:
    """Everything that the pipeline created, in whatever state an earlier teardown left it."""
    plan = TeardownPlan()
    group_name = re.compile(rf"{re.escape(pipeline)}-[0-9a-f]{{8}}")
    for group in list_resources(ensure, DATASET_GROUP):
        if group_name.fullmatch(group.name):
            with _ignore_missing():
                if is_ours(ensure, group, pipeline):
                    _add_group_content(ensure, group, pipeline, plan)
                else:
                    tags = ensure.tags_of(group.arn)
                    owner_tags = [
                        f"{key}={tags.get(key, '')}" for key in (api.PIPELINE_TAG, api.STORAGE_TAG)
                    ]
                    plan.left_alone.append(
                        f"{group} belongs to somebody else: {', '.join(owner_tags)}"
                    )
    _find_schemas(ensure, group_name, plan)
    _find_jobs(ensure, plan)
    plan.pieces.sort(key=lambda piece: ORDER.index(piece.kind))
    return plan


def delete(ensure: api.Ensure, plan: TeardownPlan) -> None:
    """Stop running work or wait for it, then delete, and wait until everything is gone.

    Raises PersonalizeError before deleting anything if something is in the way, and if the deadline
    passes.
    """
    if plan.in_the_way:
        raise PersonalizeError(
            f"nothing was deleted: {'; '.join(plan.in_the_way)}. Delete that first, then run the"
            " teardown again"
        )
    for piece in plan.work:
        _stop_or_wait(ensure, piece)
    for kind in ORDER:
        pieces = [piece for piece in plan.pieces if piece.kind is kind]
        for piece in pieces:
            _delete(ensure, piece)
        for piece in pieces:
            _wait_until_gone(ensure, piece)


def prune(
    ensure: api.Ensure,
    pipeline: str,
    group: str,
    in_use: Collection[str],
    other_groups: Collection[str],
) -> list[ResourceToDelete]:
    """Delete what earlier settings of the pipeline left, wait until it is gone, and return it.

    What has work under way stays for a later run.

    group: the name of the dataset group in use.
    in_use: the names of the solutions and filters in it that are in use.
    other_groups: the names of other dataset groups to keep.
    Raises PersonalizeError, and botocore's ClientError.
    """
    plan = TeardownPlan()
    group_name = re.compile(rf"{re.escape(pipeline)}-[0-9a-f]{{8}}")
    for dataset_group in list_resources(ensure, DATASET_GROUP):
        if dataset_group.name == group:
            for kind in (FILTER, SOLUTION):
                summaries = ensure.list(kind, datasetGroupArn=dataset_group.arn)
                unused = [summary for summary in summaries if summary[kind.name] not in in_use]
                unused.sort(key=lambda summary: summary["creationDateTime"], reverse=True)
                for piece in _to_resources(kind, unused[SPARE_RESOURCES:]):
                    _add_idle(plan, ensure, pipeline, piece)
        elif group_name.fullmatch(dataset_group.name) and dataset_group.name not in other_groups:
            _add_idle(plan, ensure, pipeline, dataset_group)
    delete(ensure.with_deadline(PRUNE_SECONDS), plan)
    return plan.pieces


def _add_idle(
    plan: TeardownPlan, ensure: api.Ensure, pipeline: str, piece: ResourceToDelete
) -> None:
    """Add the piece with what is in it, if it is the pipeline's and nothing is under way in it."""
    own_plan = TeardownPlan()
    with _ignore_missing():
        if not is_ours(ensure, piece, pipeline):
            return
        if piece.kind is DATASET_GROUP:
            _add_group_content(ensure, piece, pipeline, own_plan)
            schemas = list_resources(ensure, SCHEMA)
            own_plan.pieces.extend(
                schema for schema in schemas if schema.name.startswith(f"{piece.name}-")
            )
        else:
            _add_with_work(ensure, piece, own_plan)
        _find_jobs(ensure, own_plan)
    if not own_plan.work and not own_plan.in_the_way:
        plan.pieces.extend(own_plan.pieces)


def _add_group_content(
    ensure: api.Ensure, group: ResourceToDelete, pipeline: str, plan: TeardownPlan
) -> None:
    plan.pieces.append(group)
    for kind in (FILTER, SOLUTION, DATASET):
        for piece in list_resources(ensure, kind, datasetGroupArn=group.arn):
            with _ignore_missing():
                if not is_ours(ensure, piece, pipeline):
                    plan.in_the_way.append(
                        f"{piece} in {group.name} was not created by the pipeline {pipeline}"
                    )
                    continue
                _add_with_work(ensure, piece, plan)
    for kind in (EVENT_TRACKER, METRIC_ATTRIBUTION, RECOMMENDER):
        _report_foreign(ensure, kind, group, plan)


def _add_with_work(ensure: api.Ensure, piece: ResourceToDelete, plan: TeardownPlan) -> None:
    plan.pieces.append(piece)
    for work in WORK.get(piece.kind, ()):
        summaries = ensure.list(work, **{piece.kind.arn: piece.arn})
        plan.work.extend(_to_resources(work, filter(is_busy, summaries)))
    if piece.kind is SOLUTION:
        _report_foreign(ensure, CAMPAIGN, piece, plan)


def _report_foreign(
    ensure: api.Ensure,
    kind: ResourceKind,
    parent: ResourceToDelete,
    plan: TeardownPlan,
) -> None:
    """Report resources of this kind in the parent: no pipeline creates them."""
    summaries = ensure.list(kind, **{parent.kind.arn: parent.arn})
    plan.in_the_way.extend(
        f"{piece} belongs to {parent}" for piece in _to_resources(kind, summaries)
    )


def _find_schemas(ensure: api.Ensure, group_name: re.Pattern[str], plan: TeardownPlan) -> None:
    mine = re.compile(rf"{group_name.pattern}-(interactions|items|users)")
    schemas = [s for s in list_resources(ensure, SCHEMA) if mine.fullmatch(s.name)]
    if not schemas:
        return
    datasets = {piece.arn for piece in plan.pieces}
    used = {
        ensure.describe(DATASET, other.arn)["schemaArn"]: other
        for other in list_resources(ensure, DATASET)
        if other.arn not in datasets
    }
    for schema in schemas:
        if schema.arn in used:
            plan.left_alone.append(f"{schema} is used by {used[schema.arn].arn}")
        else:
            plan.pieces.append(schema)


def _find_jobs(ensure: api.Ensure, plan: TeardownPlan) -> None:
    solutions = [piece.arn for piece in plan.pieces if piece.kind is SOLUTION]
    for kind in (BATCH_INFERENCE_JOB, BATCH_SEGMENT_JOB) if solutions else ():
        jobs = [
            job
            for job in ensure.list(kind)
            if job["solutionVersionArn"].rpartition("/")[0] in solutions and is_busy(job)
        ]
        plan.work.extend(_to_resources(kind, jobs))


def is_ours(ensure: api.Ensure, piece: ResourceToDelete, pipeline: str) -> bool:
    """Whether the pipeline created the resource, by its tags."""
    if piece.status.startswith("DELETE"):
        # An earlier teardown or somebody else deletes it: wait for it. It may have no tags.
        return True
    tags = ensure.tags_of(piece.arn)
    own = (pipeline, ensure.tags.get(api.STORAGE_TAG))
    return (tags.get(api.PIPELINE_TAG), tags.get(api.STORAGE_TAG)) == own


def is_busy(summary: Mapping[str, Any]) -> bool:
    """Whether Personalize still works on the resource."""
    return summary["status"] not in (*api.READY, *api.FAILED)


def list_resources(ensure: api.Ensure, kind: ResourceKind, **within: str) -> list[ResourceToDelete]:
    """All resources of this kind, whoever created them.

    within: List's filter, for example a dataset group.
    """
    return _to_resources(kind, ensure.list(kind, **within))


def _to_resources(
    kind: ResourceKind, summaries: Iterable[api.Description]
) -> list[ResourceToDelete]:
    return [
        # The summary of a solution version has no name.
        ResourceToDelete(
            kind,
            s.get(kind.name) or s[kind.arn].partition("/")[2],
            s[kind.arn],
            s.get("status", ""),
        )
        for s in summaries
    ]


@contextmanager
def _ignore_missing() -> Iterator[None]:
    """Ignore that a resource is gone: an earlier teardown may be deleting it."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise


def _stop_or_wait(ensure: api.Ensure, piece: ResourceToDelete) -> None:
    """Stop a training, or wait for other work, which Personalize cannot stop."""
    if piece.kind is SOLUTION_VERSION:
        try:
            ensure.client.stop_solution_version_creation(solutionVersionArn=piece.arn)
            ensure.log.info(f"stopping {piece}")
        except ClientError as error:
            ensure.log.info(f"{piece} was not stopped: {error}")
    while True:
        description = _describe(ensure, piece)
        if description is None or not is_busy(description):
            return
        ensure.sleep(ensure.poll_seconds, f"{piece} is {description['status']}")


def _delete(ensure: api.Ensure, piece: ResourceToDelete) -> None:
    while True:
        try:
            getattr(ensure.client, f"delete_{piece.kind.snake}")(**{piece.kind.arn: piece.arn})
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
            if code == "ResourceNotFoundException":
                return
            if code != "ResourceInUseException":
                raise PersonalizeError(
                    f"Personalize refused to delete {piece}: {message} ({code})"
                ) from error
            description = _describe(ensure, piece)
            if description and str(description.get("status")).startswith("DELETE"):
                return
            ensure.sleep(ensure.poll_seconds, f"{piece} cannot be deleted yet: {message}")
        else:
            ensure.log.info(f"deleting {piece}")
            return


def _wait_until_gone(ensure: api.Ensure, piece: ResourceToDelete) -> None:
    while True:
        description = _describe(ensure, piece)
        if description is None:
            return
        status = description.get("status", api.ACTIVE)
        if status == "DELETE FAILED":
            raise PersonalizeError(f"{piece} was not deleted: {description.get('failureReason')}")
        ensure.sleep(ensure.poll_seconds, f"{piece} is {status}")


def _describe(ensure: api.Ensure, piece: ResourceToDelete) -> api.Description | None:
    with _ignore_missing():
        return ensure.describe(piece.kind, piece.arn)
    return None
