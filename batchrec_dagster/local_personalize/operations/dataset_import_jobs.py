"""Dataset import jobs, which read CSV files from storage into a dataset.

Source of the rules: developer guide, "Preparing training data" and "Bulk import".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.schemas import Schema

from ..catalogue import CatalogueTransaction, Resource
from ..errors import InvalidInputError, JobFailedError
from ..import_files import ImportFile, import_files, unique_event_types
from ..imported_rows import FULL, INCREMENTAL, ROWS, describe_import
from ..jobs import INVALID_LOCATION, Job, check_data_source
from ..resources import ApiRequest, JobResult, Kind, NewResource
from .dataset_groups import read_schema


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    dataset = request.get_active("Dataset", params["datasetArn"])
    check_data_source(request)
    if params.get("importMode") == INCREMENTAL and not _has_full_import(request, dataset):
        raise InvalidInputError(
            f"{dataset.arn} has no data yet: the first import must have importMode {FULL}."
        )
    return NewResource({"importMode": params.get("importMode", FULL)})


def _has_full_import(request: ApiRequest, dataset: Resource) -> bool:
    """Return whether the dataset has data, or a running FULL import that may bring data."""
    jobs = request.transaction.list_jobs_of(dataset.arn)
    return bool(dataset.state["files"]) or any(job.body["importMode"] == FULL for job in jobs)


def _perform(job: Job) -> JobResult:
    body, home = job.resource.body, job.home
    mode = body["importMode"]
    dataset_arn = body["datasetArn"]
    with job.catalogue.open_for_reading() as transaction:
        schema = read_schema(transaction, transaction.require(dataset_arn))
    with home.open_workspace(home.datasets, job.resource.arn) as work:
        sources = _download(job, body["dataSource"]["dataLocation"], work)
        imported = work / "imported"
        imported.mkdir()
        types = _read_existing_event_types(job, dataset_arn, schema) if mode == INCREMENTAL else ()
        rows = import_files(sources, schema, imported / ROWS, types)
        path = home.publish(imported, home.datasets, job.resource.arn)
    job.report_progress(f"{rows} rows")
    file = describe_import(home, path, mode)

    def add_file(transaction: CatalogueTransaction) -> list[Path]:
        dataset = transaction.require(dataset_arn)
        files_to_keep, files_to_remove = dataset.state["files"], []
        if mode == FULL:
            files_to_keep, files_to_remove = [], dataset.state["files"]
        state = {**dataset.state, "files": [*files_to_keep, file]}
        transaction.save(replace(dataset, state=state))
        return [home.root / entry["path"] for entry in files_to_remove]

    return JobResult(apply_changes=add_file)


def _read_existing_event_types(job: Job, dataset_arn: str, schema: Schema) -> Collection[str]:
    if schema.field(schemas.EVENT_TYPE) is None:
        return ()
    return job.make_reader().read_rows(dataset_arn, [schemas.EVENT_TYPE], unique_event_types)


def _download(job: Job, location: str, folder: Path) -> list[ImportFile]:
    # Spark writes an empty _SUCCESS next to its files when they are complete.
    objects = [
        info
        for info in job.list_objects(location)
        if info.size or not info.uri.endswith("/_SUCCESS")
    ]
    if not objects:
        raise JobFailedError(f"{INVALID_LOCATION} There is no data at {location}")
    sources = []
    for number, info in enumerate(objects):
        job.report_progress(f"reading {info.uri} ({info.size} bytes)")
        path = folder / f"{number}.csv"
        job.store.download(info.uri, path)
        sources.append(ImportFile(path, info.uri))
    return sources


DATASET_IMPORT_JOB = Kind(
    "DatasetImportJob",
    _create,
    parent_member="datasetArn",
    perform=_perform,
    turn="data",
)
