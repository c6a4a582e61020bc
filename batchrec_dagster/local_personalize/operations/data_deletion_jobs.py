"""Data deletion jobs, which erase users from a dataset group.

Such a job erases the users from the imported data, and rewrites the catalogue's file. After that,
no id of the users is left in the home, because models have no user ids. Amazon does not document
exactly which data it erases. Models keep what they learned from all users together until they are
trained again, on AWS too.

Source of the rules: developer guide, "Deleting users and their data with a data deletion job".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH, USER_ID

from ..catalogue import Resource, Status
from ..errors import JobFailedError
from ..home import remove_path
from ..import_files import remove_quoted_cell
from ..imported_rows import ROWS, describe_import, is_intact, scan_import
from ..jobs import INVALID_LOCATION, Job, check_data_source, remove_unnamed_files
from ..resources import ApiRequest, JobResult, Kind, NewResource


def _create(request: ApiRequest) -> NewResource:
    request.get_active("DatasetGroup", request.params["datasetGroupArn"])
    check_data_source(request)
    return NewResource()


def _perform(job: Job) -> JobResult:
    """Erase the users.

    If the process dies, the rows erased so far stay erased, and the next job erases the rest.
    """
    users = _read_input(job)
    job.report_progress(f"{len(users):,} users to erase")
    group_arn = job.resource.body["datasetGroupArn"]
    with job.catalogue.open_for_reading() as transaction:
        datasets = transaction.list_resources("Dataset", parent=group_arn)
    count = 0
    for dataset in datasets:
        count += _erase_from_dataset(job, dataset, users)
        _forget_quoted_cells(job, dataset)
    # A process that died after it had replaced a file may not have removed the old file.
    remove_unnamed_files(job.catalogue, job.home)
    job.catalogue.rewrite()
    if not job.catalogue.empty_log():
        raise JobFailedError(
            "The users were erased from the data, but older pages of the catalogue"
            f" {job.home.catalogue} could not be removed, because another process keeps it open:"
            " end what has it open, such as a shell of sqlite3 or a copy that is being made, and"
            " create another job."
        )
    return JobResult(body={"numDeleted": count})


def _read_input(job: Job) -> set[str]:
    """Return the users to erase. Their ids are never written to a local file.

    Raises JobFailedError if there are no users, or a file is not valid.
    """
    location = job.resource.body["dataSource"]["dataLocation"]
    users: set[str] = set()
    for info in job.list_objects(location):
        users |= _read_users(job.store.get(info.uri), info.uri)
    if not users:
        raise JobFailedError(f"{INVALID_LOCATION} There are no users at {location}")
    return users


def _erase_from_dataset(job: Job, dataset: Resource, users: Collection[str]) -> int:
    """Replace the imports by copies without the users, and return the number of erased rows."""
    erased, home = 0, job.home
    for file in dataset.state["files"]:
        with home.open_workspace(home.datasets, job.resource.arn) as work:
            try:
                count = _copy_without_users(scan_import(home, file), work, users)
            except (FileNotFoundError, pl.exceptions.ComputeError) as error:
                if is_intact(home, file):
                    raise
                raise JobFailedError(
                    f"The data of {dataset.arn} cannot be read: {error}. Import it again, without"
                    " the users, and create another job."
                ) from error
            if not count:
                continue
            job.checkpoint()
            copy = describe_import(
                home, home.publish(work, home.datasets, job.resource.arn), file["mode"]
            )
        with job.catalogue.open_for_writing() as transaction:
            current = transaction.require(dataset.arn)
            files = [copy if entry == file else entry for entry in current.state["files"]]
            transaction.save(replace(current, state={**current.state, "files": files}))
        remove_path(home.root / file["path"])
        job.report_progress(f"{count:,} rows of {dataset.arn} erased")
        erased += count
    return erased


def _forget_quoted_cells(job: Job, dataset: Resource) -> None:
    """Remove quoted cells, which may be data of the users, from the failure reasons of imports."""
    with job.catalogue.open_for_writing() as transaction:
        for imported in transaction.list_resources("DatasetImportJob", parent=dataset.arn):
            reason = imported.body.get("failureReason", "")
            shorter = remove_quoted_cell(reason)
            if shorter != reason:
                body = imported.body | {"failureReason": shorter}
                transaction.save(replace(imported, body=body))


def _read_users(data: bytes, name: str) -> set[str]:
    """Return the ids in a CSV file with the single column USER_ID.

    name: the file's name in messages. Messages quote no ids, because the catalogue would keep them.

    Raises JobFailedError if the file is not of this form.
    """
    try:
        rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        if next(rows, None) != [USER_ID]:
            raise JobFailedError(f"{name}, line 1: the file must have the one column {USER_ID}.")
        users = set()
        for row in rows:
            if not row:
                continue
            if len(row) > 1:
                raise JobFailedError(
                    f"{name}, line {rows.line_num}: {len(row)} fields, but the header has 1."
                )
            if not 0 < len(row[0]) <= MAX_ID_LENGTH:
                raise JobFailedError(
                    f"{name}, line {rows.line_num}: an id must have 1 to {MAX_ID_LENGTH}"
                    " characters."
                )
            users.add(row[0])
    except UnicodeDecodeError:
        raise JobFailedError(f"{name} is not encoded in UTF-8.") from None
    except csv.Error as error:
        raise JobFailedError(f"{name} cannot be read as CSV: {error}.") from None
    return users


def _copy_without_users(rows: pl.LazyFrame, target: Path, users: Collection[str]) -> int:
    """Copy an import without the rows of the users, and return the number of their rows.

    If the users have no rows, nothing is copied. The remaining rows keep their order.

    target: an empty folder.
    """
    columns = [name for name in rows.collect_schema().names() if name.upper() == USER_ID]
    if not columns:
        return 0
    is_erased = pl.col(columns[0]).is_in(pl.Series(list(users), dtype=pl.String).implode())
    count = int(rows.select(is_erased.sum()).collect(engine="streaming").item())
    if count:
        rows.filter(~is_erased).sink_parquet(target / ROWS)
    return count


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
