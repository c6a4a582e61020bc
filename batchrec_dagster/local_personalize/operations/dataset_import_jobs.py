"""Dataset import jobs: CSV files from storage into a dataset."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from batchrec_dagster.local_personalize.catalog.catalog import Records, Resource
from batchrec_dagster.local_personalize.catalog.home import remove
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, JobResult, Kind, Lane
from batchrec_dagster.local_personalize.data.datasets import (
    FULL,
    INCREMENTAL,
    ROWS,
    read_rows,
    save_interactions,
)
from batchrec_dagster.local_personalize.data.importing import (
    Source,
    import_files,
    unique_event_types,
)
from batchrec_dagster.local_personalize.errors import InvalidInputError, JobFailedError
from batchrec_dagster.local_personalize.jobs.job import Job, check_location, objects_at
from batchrec_dagster.local_personalize.operations.datasets import schema_of
from batchrec_dagster.personalize.schemas import EVENT_TYPE, INTERACTIONS, Schema
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.object_store import ObjectInfo

_GIB = 1 << 30
MAX_BYTES = {FULL: 100 * _GIB, INCREMENTAL: _GIB}


def _create(call: Call) -> Draft:
    params = call.params
    dataset = call.get_active("Dataset", params["datasetArn"])
    location = params["dataSource"].get("dataLocation")
    if location is None:
        raise InvalidInputError("dataSource.dataLocation is required.")
    check_location(location)
    if params.get("importMode") == INCREMENTAL and not _has_full_import(call, dataset):
        raise InvalidInputError(
            f"{dataset.arn} has no data yet: the first import must have importMode {FULL}."
        )
    body = {
        "jobName": params["jobName"],
        "datasetArn": dataset.arn,
        "dataSource": params["dataSource"],
        "roleArn": params.get("roleArn"),
        "importMode": params.get("importMode", FULL),
        "publishAttributionMetricsToS3": params.get("publishAttributionMetricsToS3"),
    }
    return Draft(f"dataset-import-job/{params['jobName']}", dataset.arn, body)


def _has_full_import(call: Call, dataset: Resource) -> bool:
    """Whether the dataset has data, or a FULL import that may bring some."""
    jobs = call.records.children("DatasetImportJob", dataset.arn)
    return bool(dataset.state["files"]) or any(
        job.unfinished and job.body["importMode"] == FULL for job in jobs
    )


def _perform(job: Job) -> JobResult:
    body, home = job.resource.body, job.home
    mode = body["importMode"]
    dataset_arn = body["datasetArn"]
    with job.catalog.reading() as records:
        dataset = records.find(dataset_arn)
        if dataset is None:
            raise JobFailedError(f"{dataset_arn} no longer exists.")
        schema = schema_of(records, dataset)
    home.discard_attempts(home.datasets, job.resource.arn)
    published = home.new_path(home.datasets, job.resource.arn)
    work = home.new_path(home.datasets, job.resource.arn)
    work.mkdir(mode=0o700)
    try:
        sources = _download(job, body["dataSource"]["dataLocation"], mode, work)
        imported = work / "imported"
        imported.mkdir()
        types = _earlier_event_types(job, dataset_arn, schema) if mode == INCREMENTAL else ()
        rows = import_files(sources, schema, imported / ROWS, types)
        if schema.dataset_type == INTERACTIONS:
            save_interactions(imported)
        durable.publish(imported, published)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    job.progress(f"{rows} rows")
    file = {"path": home.relative(published), "rows": rows, "mode": mode}
    replaced: list[Path] = []

    def add_file(records: Records) -> None:
        current = records.find(dataset_arn)
        if current is None:
            raise LookupError(dataset_arn)
        old = current.state["files"]
        if mode == FULL:
            replaced.extend(home.root / entry["path"] for entry in old)
            old = []
        records.save(replace(current, state={**current.state, "files": [*old, file]}))

    def remove_replaced() -> None:
        for path in replaced:
            remove(path)

    return JobResult(in_transaction=add_file, after=remove_replaced)


def _earlier_event_types(job: Job, dataset_arn: str, schema: Schema) -> Collection[str]:
    if schema.field(EVENT_TYPE) is None:
        return ()
    return read_rows(job.catalog, job.home, dataset_arn, [EVENT_TYPE], unique_event_types)


def _is_marker(info: ObjectInfo) -> bool:
    """Whether the object is what Spark writes next to its files when they are complete."""
    return info.size == 0 and info.uri.endswith("/_SUCCESS")


def _download(job: Job, location: str, mode: str, folder: Path) -> list[Source]:
    objects = [info for info in objects_at(job.store, location) if not _is_marker(info)]
    if not objects:
        raise JobFailedError(f"Invalid Data location. There is no data at {location}")
    total = sum(info.size for info in objects)
    if total > MAX_BYTES[mode]:
        raise JobFailedError(
            f"Create failed. The data has {total} bytes; a {mode} import may have"
            f" {MAX_BYTES[mode]} at most."
        )
    sources = []
    for number, info in enumerate(objects):
        job.progress(f"reading {info.uri} ({info.size} bytes)")
        path = folder / f"{number}.csv"
        job.store.download(info.uri, path)
        sources.append(Source(path, info.uri))
    return sources


DATASET_IMPORT_JOB = Kind(
    "DatasetImportJob",
    _create,
    parent="datasetArn",
    perform=_perform,
    lane=Lane.IMPORT,
    running="running_dataset_import_jobs",
)
