"""Schemas, dataset groups, and the datasets and filters of a group."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.filter_check import check_expression, check_group_fields
from batchrec_dagster.personalize.filter_grammar import FilterExpressionError

from ..catalog.catalog import CatalogTransaction
from ..catalog.kinds import CatalogKind, NewResource
from ..catalog.requests import ApiRequest
from ..catalog.resource import CREATING, Resource
from ..errors import InUseError, InvalidInputError, LimitExceededError
from ..jobs.transitions import start_update


def read_schema(transaction: CatalogTransaction, dataset: Resource) -> schemas.Schema:
    return _parse_schema(transaction.require(dataset.body["schemaArn"]))


def _parse_schema(schema: Resource) -> schemas.Schema:
    return schemas.parse_schema(schema.body["schema"], schema.body.get("domain"))


def find_dataset(
    transaction: CatalogTransaction, group_arn: str, dataset_type: str
) -> Resource | None:
    datasets = transaction.list_resources("Dataset", parent=group_arn)
    return next((d for d in datasets if d.body["datasetType"] == dataset_type), None)


def _create_schema(request: ApiRequest) -> NewResource:
    try:
        schemas.parse_schema(request.params["schema"], request.params.get("domain"))
    except schemas.SchemaError as error:
        raise InvalidInputError(str(error)) from None
    return NewResource()


def _check_delete_schema(request: ApiRequest, schema: Resource) -> None:
    for dataset in request.transaction.list_resources("Dataset", region=request.scope):
        if dataset.body["schemaArn"] == schema.arn:
            raise InUseError(f"{schema.arn} is the schema of {dataset.arn}: delete that first.")


def _create_group(request: ApiRequest) -> NewResource:
    params = request.params
    if "roleArn" in params and "kmsKeyArn" not in params:
        raise InvalidInputError("A roleArn is valid only together with a kmsKeyArn.")
    return NewResource()


def _check_delete_group(request: ApiRequest, group: Resource) -> None:
    for kind, plural in (("Solution", "solutions"), ("Dataset", "datasets")):
        if request.transaction.list_resources(kind, parent=group.arn):
            raise InUseError(f"{group.arn} still has {plural}: delete them first.")


def _create_dataset(request: ApiRequest) -> NewResource:
    params = request.params
    dataset_type = params["datasetType"].upper()
    if dataset_type not in schemas.DATASET_TYPES:
        raise InvalidInputError(
            f"Dataset type {params['datasetType']!r} is not one of Interactions, Items and Users,"
            " which are what batch recommendations use."
        )
    group = request.get_active("DatasetGroup", params["datasetGroupArn"])
    _check_schema(request, params["schemaArn"], dataset_type, group)
    resource = f"dataset/{group.body['name']}/{dataset_type}"
    return NewResource({"datasetType": dataset_type}, {"files": []}, resource)


def _check_schema(request: ApiRequest, arn: str, dataset_type: str, group: Resource) -> None:
    resource = request.get("Schema", arn)
    schema = _parse_schema(resource)
    if schema.dataset_type != dataset_type:
        raise InvalidInputError(f"{arn} is a schema for {schema.dataset_type}, not {dataset_type}.")
    domain = group.body.get("domain")
    if domain and resource.body.get("domain") != domain:
        raise InvalidInputError(
            f"{group.arn} is of domain {domain}, but {arn} is not: create the schema with this"
            " domain."
        )


BATCH_JOBS = ("BatchInferenceJob", "BatchSegmentJob")


def check_no_running_jobs(transaction: CatalogTransaction, version: Resource) -> None:
    """Raise InUseError while a batch job uses the solution version."""
    for kind in BATCH_JOBS:
        if any(job.unfinished for job in transaction.list_resources(kind, parent=version.arn)):
            raise InUseError(f"A job that uses {version.arn} is not finished.")


def _check_delete_dataset(request: ApiRequest, dataset: Resource) -> None:
    transaction = request.transaction
    if any(
        job.unfinished for job in transaction.list_resources("DatasetImportJob", parent=dataset.arn)
    ):
        raise InUseError(f"{dataset.arn} has an import job that is not finished.")
    group = dataset.body["datasetGroupArn"]
    if filters := transaction.list_resources("Filter", parent=group):
        raise InUseError(f"{group} still has filters: delete them first, such as {filters[0].arn}.")
    for solution in transaction.list_resources("Solution", parent=group):
        for version in transaction.list_resources("SolutionVersion", parent=solution.arn):
            if version.status in CREATING:
                raise InUseError(f"A version of {solution.arn} is being trained on {dataset.arn}.")
            check_no_running_jobs(transaction, version)


def update_dataset(request: ApiRequest) -> dict[str, Any]:
    """UpdateDataset: a new schema, which keeps all fields and may add nullable ones.

    Source: developer guide, "Replacing a dataset's schema to add new columns".
    """
    dataset = request.get_active("Dataset", request.params["datasetArn"])
    if dataset.unfinished:
        raise InUseError(f"{dataset.arn} is being updated.")
    if dataset.body["datasetType"] == schemas.INTERACTIONS:
        raise InvalidInputError("The schema of an Interactions dataset cannot be replaced.")
    schema_arn = request.params["schemaArn"]
    group = request.get("DatasetGroup", dataset.body["datasetGroupArn"])
    _check_schema(request, schema_arn, dataset.body["datasetType"], group)
    new = _parse_schema(request.get("Schema", schema_arn))
    old = read_schema(request.transaction, dataset)
    for field in old.fields:
        if field not in new.fields:
            raise InvalidInputError(
                f"{schema_arn} must keep the field {field.name}, unchanged, of type {field.type}:"
                " a new schema can only add fields to the one it replaces."
            )
    for field in new.fields:
        if field not in old.fields and not field.nullable:
            raise InvalidInputError(
                f"The new field {field.name} of {schema_arn} must allow null: rows imported"
                " before do not have it."
            )
    changed = start_update(dataset, "latestDatasetUpdate", {"schemaArn": schema_arn})
    changed.body["schemaArn"] = schema_arn
    request.transaction.save(changed)
    return {"datasetArn": dataset.arn}


def _create_filter(request: ApiRequest) -> NewResource:
    params = request.params
    group = request.get("DatasetGroup", params["datasetGroupArn"])
    expression = params["filterExpression"]
    datasets = {
        kind: find_dataset(request.transaction, group.arn, kind) for kind in schemas.DATASET_TYPES
    }
    known = {
        kind: read_schema(request.transaction, dataset)
        for kind, dataset in datasets.items()
        if dataset
    }
    try:
        check_expression(expression, known)
    except FilterExpressionError as error:
        raise InvalidInputError(str(error)) from None
    others = request.transaction.list_resources("Filter", parent=group.arn)
    try:
        check_group_fields([*(other.body["filterExpression"] for other in others), expression])
    except FilterExpressionError as error:
        raise LimitExceededError(str(error)) from None
    return NewResource()


def _check_delete_filter(request: ApiRequest, resource: Resource) -> None:
    for kind in BATCH_JOBS:
        for job in request.transaction.list_resources(kind, region=request.scope):
            if job.unfinished and job.body.get("filterArn") == resource.arn:
                raise InUseError(f"{job.arn} uses {resource.arn} and is not finished.")


SCHEMA = CatalogKind(
    "Schema", _create_schema, perform=None, total_quota="schemas", check_delete=_check_delete_schema
)

DATASET_GROUP = CatalogKind(
    "DatasetGroup",
    _create_group,
    total_quota="dataset_groups",
    check_delete=_check_delete_group,
    owned_kind="Filter",
)

DATASET = CatalogKind(
    "Dataset",
    _create_dataset,
    parent_member="datasetGroupArn",
    check_delete=_check_delete_dataset,
    owned_kind="DatasetImportJob",  # whose names are free again, for the group's next dataset
)

FILTER = CatalogKind(
    "Filter",
    _create_filter,
    parent_member="datasetGroupArn",
    total_quota="filters_per_group",
    check_delete=_check_delete_filter,
)
