"""Erasure of users from the datasets and models of dataset groups, by data deletion jobs.

`erase_users_from_groups` runs a job in each dataset group. It writes the input files, starts the
jobs or adopts the jobs that an earlier call started for the same request, waits for them, and
deletes the files. If a caller was killed, call the function again with the same arguments.

Sources: developer guide, "Deleting users and their data with a data deletion job", and the API
reference of CreateDataDeletionJob and DescribeDataDeletionJob.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from typing import Protocol

from botocore.exceptions import ClientError

from batchrec_dagster.personalize.api import (
    BATCH_INFERENCE_JOB,
    BATCH_SEGMENT_JOB,
    DATA_DELETION_JOB,
    DATASET,
    FAILED,
    IMPORT_JOB,
    SOLUTION,
    SOLUTION_VERSION,
    Description,
    PersonalizeError,
    ResourceKind,
)
from batchrec_dagster.personalize.cleanup import is_busy, is_ours, list_groups
from batchrec_dagster.personalize.resources import Resources, StartedResource
from batchrec_dagster.personalize.schemas import USER_ID

MAX_USER_BYTES = 50_000_000
"""The largest input of a job. Some pages of the guide say 50 MB, others 100 MB."""

MAX_NAME_LENGTH = 63


class InputStorage(Protocol):
    """An object store that holds the input file for as long as the job needs it."""

    def put(self, uri: str, data: bytes) -> str:
        """Write an object atomically."""

    def delete(self, uri: str) -> None:
        """Delete the object, if it exists."""


def find_dataset_groups(resources: Resources, pipeline: str) -> list[str]:
    """Return the ARNs of the pipeline's dataset groups, including groups of earlier settings."""
    return [
        group.arn
        for group in list_groups(resources, pipeline)
        if not group.status.startswith("DELETE") and is_ours(resources, group, pipeline)
    ]


def erase_users_from_groups(
    resources: Resources,
    storage: InputStorage,
    folder: str,
    dataset_group_arns: Collection[str],
    users: Collection[str],
    *,
    request: str,
) -> list[str]:
    """Erase users from several dataset groups at once, with a job in each group.

    In each group, the function first waits until no import, training or batch job is under way. A
    job takes up to a day on AWS.

    folder: the URI of a folder under the pipeline's prefix, with its final slash. Personalize's
        role reads the input files there. The files are deleted when the jobs have ended.
    users: the ids of the users, at least one. A dataset group ignores ids that it does not have.
    request: an identifier of the erasure request, equal in each attempt. It becomes a part of the
        jobs' names, which Personalize keeps forever. Use letters and digits that say nothing about
        the users, such as a random number in hexadecimal digits.
    Returns the imports, trainings and batch jobs that started in the groups while the jobs ran. If
    there are any, Amazon does not guarantee that the users are gone from the models, and recommends
    another job: call again with another `request`.
    Raises PersonalizeError if a job failed or if `resources.deadline_seconds` passed, and any error
    of the storage. After a failure, another call starts another job.
    """
    # A job may take a day, so start all jobs before waiting for any of them.
    stems = {arn: _make_stem(arn, request) for arn in dataset_group_arns}
    jobs = {
        arn: _start(resources, storage, f"{folder}{stem}.csv", arn, users, stem)
        for arn, stem in stems.items()
    }
    return [
        work
        for arn, job in jobs.items()
        for work in _finish(resources, storage, f"{folder}{stems[arn]}.csv", arn, job)
    ]


def _start(
    resources: Resources,
    storage: InputStorage,
    uri: str,
    dataset_group_arn: str,
    users: Collection[str],
    stem: str,
) -> StartedResource:
    """Return the request's job; write the input file and start the job if there is none yet.

    uri: the URI of the input file.
    stem: the job's name without its number.
    """
    jobs = resources.list(DATA_DELETION_JOB, datasetGroupArn=dataset_group_arn)
    arn = resources.find(DATA_DELETION_JOB, jobs, stem)
    if arn is not None:
        return StartedResource(arn, created=False)
    data = format_input(users)
    _wait_until_idle(resources, dataset_group_arn)
    storage.put(uri, data)
    arguments = {
        "datasetGroupArn": dataset_group_arn,
        "dataSource": {"dataLocation": uri},
        "roleArn": resources.role_arn,
    }
    try:
        return resources.start(
            DATA_DELETION_JOB, stem, lambda _: arguments, datasetGroupArn=dataset_group_arn
        )
    except (PersonalizeError, ClientError):
        # No job reads the file. Another call writes a new one.
        storage.delete(uri)
        raise


def _finish(
    resources: Resources,
    storage: InputStorage,
    uri: str,
    dataset_group_arn: str,
    job: StartedResource,
) -> list[str]:
    """Wait until the job has ended, delete its input file, and name the work started meanwhile."""
    try:
        description = resources.wait_until_ready(DATA_DELETION_JOB, job).description
    except PersonalizeError as error:
        if error.details.get("status") in FAILED:
            storage.delete(uri)
        raise
    storage.delete(uri)
    start, end = description["creationDateTime"], description["lastUpdatedDateTime"]
    return [
        _name_work(kind, summary)
        for kind, summary in _list_work(resources, dataset_group_arn)
        if start <= summary["creationDateTime"] <= end
    ]


def format_input(users: Collection[str]) -> bytes:
    """Return the input file of a job: CSV with the single column USER_ID.

    Raises PersonalizeError if the file would exceed Personalize's limit.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([USER_ID])
    writer.writerows([user] for user in sorted(set(users)))
    data = text.getvalue().encode()
    if len(data) > MAX_USER_BYTES:
        raise PersonalizeError(
            f"the ids of {len(set(users)):,} users have {len(data):,} bytes; a data deletion job of"
            f" Personalize reads {MAX_USER_BYTES:,} at most. Erase them in several requests"
        )
    return data


def _make_stem(dataset_group_arn: str, request: str) -> str:
    """Return the job's name without its number: the dataset group and the request.

    A long group name is cut at its start, because a pipeline's groups differ at the end of their
    names.
    """
    group = dataset_group_arn.rpartition("/")[2]
    # The longest number has a hyphen and nine digits.
    room = MAX_NAME_LENGTH - len(f"-{request}") - 10
    if not re.fullmatch(r"[a-zA-Z0-9]+", request) or room < 1:
        raise PersonalizeError(
            f"{request!r} cannot be a part of a job's name: use up to 32 letters and digits"
        )
    # A name starts with a letter or a digit.
    return f"{group[-room:].lstrip('-_')}-{request}"


def _wait_until_idle(resources: Resources, dataset_group_arn: str) -> None:
    """Wait until no work uses the users' data. Raises PersonalizeError at the deadline."""
    while True:
        busy = [
            _name_work(kind, summary)
            for kind, summary in _list_work(resources, dataset_group_arn)
            if is_busy(summary)
        ]
        if not busy:
            return
        waiting_for = f"users are erased when this has ended: {', '.join(busy)}"
        resources.log.info(waiting_for)
        resources.sleep(resources.poll_seconds, waiting_for)


def _name_work(kind: ResourceKind, summary: Description) -> str:
    """Return the name of an import, a training or a job, for messages."""
    return f"{kind.label} {summary[kind.arn].partition('/')[2]}"


def _list_work(
    resources: Resources, dataset_group_arn: str
) -> Iterator[tuple[ResourceKind, Description]]:
    """Yield the summaries of the imports, trainings and batch jobs in the dataset group."""
    for dataset in resources.list(DATASET, datasetGroupArn=dataset_group_arn):
        for job in resources.list(IMPORT_JOB, datasetArn=dataset[DATASET.arn]):
            yield IMPORT_JOB, job
    versions = set()
    for solution in resources.list(SOLUTION, datasetGroupArn=dataset_group_arn):
        for version in resources.list(SOLUTION_VERSION, solutionArn=solution[SOLUTION.arn]):
            versions.add(version[SOLUTION_VERSION.arn])
            yield SOLUTION_VERSION, version
    for kind in (BATCH_INFERENCE_JOB, BATCH_SEGMENT_JOB) if versions else ():
        for job in resources.list(kind):
            if job[SOLUTION_VERSION.arn] in versions:
                yield kind, job
