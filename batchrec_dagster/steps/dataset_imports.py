"""Which files of a pipeline become which datasets, and what has been imported of them."""

from __future__ import annotations

from dataclasses import dataclass

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


def sizes_of(storage: StorageResource, datasets: list[Imported]) -> dict[str, int]:
    """The bytes of each dataset's file, interactions first."""
    found = [storage.store.head(storage.uri(dataset.place)) for dataset in datasets]
    return {
        dataset.asset: one.size if one else 0 for dataset, one in zip(datasets, found, strict=True)
    }


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
