"""Data deletion jobs: users are erased from a dataset group.

Such a job erases them from the imported data, and it rewrites the catalog's file, so that no id of
them stays in the home: models have none. Amazon says less of what it erases. What models learned
from all users together stays, on AWS too, until they are trained again.

Source of the rules: developer guide, "Deleting users and their data with a data deletion job".
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from batchrec_dagster.personalize.schemas import INTERACTIONS

from ..catalogue import CatalogueTransaction, Resource, Status
from ..data.erasure import copy_without_users, read_users
from ..data.import_files import remove_quoted_cell
from ..errors import InvalidInputError, JobFailedError
from ..home import remove_path
from ..jobs import Job, check_location, remove_unnamed_files
from ..resources import ApiRequest, JobResult, Kind, NewResource

_DELETED = "deleted"
"""The key, in the job's state, of how many records it has deleted so far."""

_BUSY_SECONDS = 0.1
"""How long the job waits for other processes that read the catalog."""


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    request.get_active("DatasetGroup", params["datasetGroupArn"])
    location = params["dataSource"].get("dataLocation")
    if location is None:
        raise InvalidInputError("dataSource.dataLocation is required.")
    check_location(location)
    return NewResource(state={_DELETED: 0})


def _perform(job: Job) -> JobResult:
    """Erase the users. What is erased stays erased if the process dies: the next one goes on."""
    users = _read_input(job)
    job.report_progress(f"{len(users):,} users to erase")
    group_arn = job.resource.body["datasetGroupArn"]
    with job.catalogue.open_for_reading() as transaction:
        datasets = transaction.list_resources("Dataset", parent=group_arn)
    for dataset in datasets:
        _erase_from_dataset(job, dataset, users)
        _forget_quoted_cells(job, dataset)
    # What a process left that died after it had replaced a file, and before it removed it.
    remove_unnamed_files(job.catalogue, job.home)
    job.catalogue.rewrite()
    while not job.catalogue.empty_log():
        job.checkpoint()
        time.sleep(_BUSY_SECONDS)
    with job.catalogue.open_for_reading() as transaction:
        count = transaction.require(job.resource.arn).state[_DELETED]
    return JobResult(body={"numDeleted": count})


def _read_input(job: Job) -> set[str]:
    """Return the users to erase, which are never written to a file here.

    Raises JobFailedError.
    """
    location = job.resource.body["dataSource"]["dataLocation"]
    users: set[str] = set()
    for info in job.list_objects(location):
        users |= read_users(job.store.get(info.uri), info.uri)
    if not users:
        raise JobFailedError(f"Invalid Data location. There are no users at {location}")
    return users


def _erase_from_dataset(job: Job, dataset: Resource, users: Collection[str]) -> None:
    is_interactions = dataset.body["datasetType"] == INTERACTIONS
    for file in dataset.state["files"]:
        path = file["path"]
        with job.home.open_workspace(job.home.datasets, job.resource.arn) as work:
            try:
                count = copy_without_users(
                    job.home.root / path, work, users, is_interactions=is_interactions
                )
            except (FileNotFoundError, pl.exceptions.ComputeError) as error:
                raise JobFailedError(
                    f"The data of {dataset.arn} cannot be read: {error}. Import it again, without"
                    " the users, and create another job."
                ) from error
            if not count:
                continue
            job.checkpoint()
            new_path = job.home.publish(work, job.home.datasets, job.resource.arn)
            copy = {**file, "path": new_path, "rows": file["rows"] - count}
            with job.catalogue.open_for_writing() as transaction:
                _use_copy(transaction, dataset.arn, path, copy)
                current = transaction.require(job.resource.arn)
                state = current.state | {_DELETED: current.state[_DELETED] + count}
                transaction.save(replace(current, state=state))
            remove_path(job.home.root / path)
        job.report_progress(f"{count:,} rows of {dataset.arn} erased")


def _use_copy(
    transaction: CatalogueTransaction, dataset_arn: str, path: str, copy: Mapping[str, Any]
) -> None:
    """Have the dataset name the copy in place of the import at `path`.

    copy: the dataset's entry of the copy.
    """
    dataset = transaction.require(dataset_arn)
    files = [copy if file["path"] == path else file for file in dataset.state["files"]]
    transaction.save(replace(dataset, state={**dataset.state, "files": files}))


def _forget_quoted_cells(job: Job, dataset: Resource) -> None:
    """Remove the cells of rejected files, which may be of the users, from the reasons given."""
    with job.catalogue.open_for_writing() as transaction:
        for imported in transaction.list_resources("DatasetImportJob", parent=dataset.arn):
            reason = imported.body.get("failureReason", "")
            shorter = remove_quoted_cell(reason)
            if shorter != reason:
                body = imported.body | {"failureReason": shorter}
                transaction.save(replace(imported, body=body))


DATA_DELETION_JOB = Kind(
    "DataDeletionJob",
    _create,
    parent_member="datasetGroupArn",
    perform=_perform,
    turn="data",
    status_names={
        Status.CREATE_PENDING: "PENDING",
        Status.CREATE_IN_PROGRESS: "IN_PROGRESS",
        Status.ACTIVE: "COMPLETED",
        Status.CREATE_FAILED: "FAILED",
    },
    newest_first=True,
)
