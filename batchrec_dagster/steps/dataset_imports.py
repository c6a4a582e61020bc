"""Which files of a pipeline become which datasets, and what has been imported of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.ensure import (
    DATASET,
    FAILED,
    IMPORT_JOB,
    SCHEMA,
    Description,
    Ensure,
    Ensured,
)
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS
from batchrec_dagster.pipeline.assets.new_rows import Import
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.user_stats import UsersOfInteractions


@dataclass(frozen=True)
class Imported:
    """What one asset's CSV file becomes in Personalize."""

    dataset_type: str
    schema: str
    place: str

    @property
    def asset(self) -> str:
        return self.dataset_type.lower()


def datasets_of(pipeline: Pipeline) -> list[Imported]:
    """What is imported, interactions first."""
    places = {INTERACTIONS: pipeline.places.interactions, ITEMS: pipeline.places.items}
    return [Imported(kind, schema, places[kind]) for kind, schema in pipeline.schemas.items()]


def version_of(storage: StorageResource, dataset: Imported) -> str:
    """The version of its file, which is read for that unless Spark has told it."""
    uri = storage.uri(dataset.place)
    if dataset.dataset_type == INTERACTIONS:
        return UsersOfInteractions(storage.store, uri).version() or storage.version(uri)
    return storage.version(uri)


def sizes_of(
    storage: StorageResource, datasets: list[Imported], part: Import | None
) -> dict[str, int]:
    """The bytes that are imported of each dataset, if it is; interactions first."""
    uris = [storage.uri(dataset.place) for dataset in datasets]
    if part and part.uri:
        uris[0] = part.uri
    found = [storage.store.head(uri) for uri in uris]
    return {
        dataset.asset: one.size if one else 0 for dataset, one in zip(datasets, found, strict=True)
    }


def goes_on(ensure: Ensure, before: dict[str, Any], dataset: Ensured, added: str) -> bool:
    """Whether all that was imported is known: the newest import is the record's, or one of a run
    that was killed before it had written its own."""
    jobs = sorted(imports_into(ensure, dataset), key=lambda job: job["creationDateTime"])
    if not jobs or before.get("dataset_arn") != dataset.arn:
        return False
    arn_of_newest, name = str(jobs[-1]["datasetImportJobArn"]), str(jobs[-1]["jobName"])
    return arn_of_newest == before["dataset_import_job_arn"] or name.startswith(f"{added}-")


def imports_into(ensure: Ensure, dataset: Ensured) -> list[Description]:
    """The import jobs into the data set, as it is now, that have not failed."""
    since = dataset.description["creationDateTime"]
    return [
        job
        for job in ensure.list(IMPORT_JOB, datasetArn=dataset.arn)
        if job["status"] not in FAILED and job["creationDateTime"] >= since
    ]


def ensure_dataset(ensure: Ensure, group_arn: str, group_name: str, dataset: Imported) -> Ensured:
    """The data set, made with its schema if there is none."""
    name = f"{group_name}-{dataset.asset}"
    schema = ensure.named(SCHEMA, name, {"schema": dataset.schema}).arn
    return ensure.named(
        DATASET,
        name,
        {"datasetGroupArn": group_arn, "datasetType": dataset.dataset_type, "schemaArn": schema},
        datasetGroupArn=group_arn,
    )
