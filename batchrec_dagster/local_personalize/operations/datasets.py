"""Datasets: one of each type in a group, with the data that was imported into it."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.local_personalize.catalog.catalog import CREATING, Records, Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, Kind
from batchrec_dagster.local_personalize.catalog.lifecycle import with_update
from batchrec_dagster.local_personalize.errors import InUseError, InvalidInputError
from batchrec_dagster.personalize.schemas import DATASET_TYPES, INTERACTIONS, Schema, parse_schema


def schema_of(records: Records, dataset: Resource) -> Schema:
    """The schema that a dataset has now."""
    schema = records.find(dataset.body["schemaArn"])
    assert schema is not None  # a schema outlives its datasets
    return parse_schema(schema.body["schema"])


def dataset_of(records: Records, group_arn: str, dataset_type: str) -> Resource | None:
    """The group's dataset of that type, if it has one."""
    datasets = records.children("Dataset", group_arn)
    return next((d for d in datasets if d.body["datasetType"] == dataset_type), None)


def _create(call: Call) -> Draft:
    params = call.params
    dataset_type = params["datasetType"].upper()
    if dataset_type not in DATASET_TYPES:
        raise InvalidInputError(
            f"Dataset type {params['datasetType']!r} is not one of Interactions, Items and Users,"
            " which are what batch recommendations use."
        )
    group = call.active("DatasetGroup", params["datasetGroupArn"])
    _check_schema(call, params["schemaArn"], dataset_type)
    body = {
        "name": params["name"],
        "datasetGroupArn": group.arn,
        "datasetType": dataset_type,
        "schemaArn": params["schemaArn"],
    }
    resource = f"dataset/{group.body['name']}/{dataset_type}"
    return Draft(resource, group.arn, body, {"files": []})


def _check_schema(call: Call, arn: str, dataset_type: str) -> None:
    found = parse_schema(call.existing("Schema", arn).body["schema"]).dataset_type
    if found != dataset_type:
        raise InvalidInputError(f"{arn} is a schema for {found}, not for {dataset_type}.")


def _check_delete(call: Call, dataset: Resource) -> None:
    records = call.records
    if any(job.unfinished for job in records.children("DatasetImportJob", dataset.arn)):
        raise InUseError(f"{dataset.arn} has an import job that is not finished.")
    group = dataset.body["datasetGroupArn"]
    for solution in records.children("Solution", group):
        if any(v.status in CREATING for v in records.children("SolutionVersion", solution.arn)):
            raise InUseError(f"A version of {solution.arn} is being trained on {dataset.arn}.")


def _files(records: Records, dataset: Resource) -> list[str]:
    return [file["path"] for file in dataset.state["files"]]


def update(call: Call) -> dict[str, Any]:
    """UpdateDataset: another schema, which keeps all fields and may add some that can be null.

    Source: developer guide, "Replacing a dataset's schema to add new columns".
    """
    dataset = call.active("Dataset", call.params["datasetArn"])
    if dataset.unfinished:
        raise InUseError(f"{dataset.arn} is being updated.")
    if dataset.body["datasetType"] == INTERACTIONS:
        raise InvalidInputError("The schema of an Interactions dataset cannot be replaced.")
    schema_arn = call.params["schemaArn"]
    _check_schema(call, schema_arn, dataset.body["datasetType"])
    new = parse_schema(call.existing("Schema", schema_arn).body["schema"])
    old = schema_of(call.records, dataset)
    for field in old.fields:
        if field not in new.fields:
            raise InvalidInputError(
                f"{schema_arn} lacks the field {field.name} of type {field.type}, as it was: a new"
                " schema must keep the fields of the one it replaces."
            )
    for field in new.fields:
        if field not in old.fields and not field.nullable:
            raise InvalidInputError(
                f"The new field {field.name} of {schema_arn} must allow null: rows that are there"
                " already do not have it."
            )
    changed = with_update(dataset, "latestDatasetUpdate", {"schemaArn": schema_arn})
    changed.body["schemaArn"] = schema_arn
    call.records.save(changed)
    return {"datasetArn": dataset.arn}


DATASET = Kind(
    "Dataset", _create, parent="datasetGroupArn", check_delete=_check_delete, files=_files
)
