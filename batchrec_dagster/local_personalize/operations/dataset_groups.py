"""Dataset groups, the datasets and the filters of a group, and the schemas of datasets."""

from __future__ import annotations

from collections.abc import Collection

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.conditions import check_expression
from batchrec_dagster.personalize.filters import FilterExpressionError

from ..catalogue import CatalogueTransaction, Resource
from ..errors import InUseError, InvalidInputError
from ..resources import ApiRequest, Kind, NewResource


def read_schema(transaction: CatalogueTransaction, dataset: Resource) -> schemas.Schema:
    """Return the current schema of a dataset.

    Raises JobFailedError if the schema was deleted.
    """
    return _parse_schema(transaction.require(dataset.body["schemaArn"]))


def check_group_is_idle(
    transaction: CatalogueTransaction, group_arn: str, kinds: Collection[str]
) -> None:
    """Raise InUseError if a job of the given kinds is under way in the dataset group."""
    for job in transaction.list_jobs_of(group_arn):
        if job.kind in kinds:
            raise InUseError(f"{job.arn} is not finished.")


def _parse_schema(schema: Resource) -> schemas.Schema:
    return schemas.parse_schema(schema.body["schema"])


def _create_schema(request: ApiRequest) -> NewResource:
    _refuse_domain(request)
    try:
        schemas.parse_schema(request.params["schema"])
    except schemas.SchemaError as error:
        raise InvalidInputError(str(error)) from None
    return NewResource()


def _check_delete_schema(request: ApiRequest, schema: Resource) -> None:
    for dataset in request.transaction.list_resources("Dataset", scope=request.scope):
        if dataset.body["schemaArn"] == schema.arn:
            raise InUseError(f"{schema.arn} is the schema of {dataset.arn}: delete that first.")


def _refuse_domain(request: ApiRequest) -> None:
    """Raise InvalidInputError if the request for a schema or a group names a domain."""
    if "domain" in request.params:
        raise InvalidInputError("A domain is not supported locally: leave it out.")


def _create_group(request: ApiRequest) -> NewResource:
    _refuse_domain(request)
    params = request.params
    if "roleArn" in params and "kmsKeyArn" not in params:
        raise InvalidInputError("A roleArn is valid only together with a kmsKeyArn.")
    return NewResource()


def _check_delete_group(request: ApiRequest, group: Resource) -> None:
    for kind, plural in (("Solution", "solutions"), ("Dataset", "datasets")):
        if request.transaction.list_resources(kind, parent=group.arn, limit=1):
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
    _check_schema(request, params["schemaArn"], dataset_type)
    resource = f"dataset/{group.body['name']}/{dataset_type}"
    return NewResource({"datasetType": dataset_type}, {"files": []}, resource)


def _check_schema(request: ApiRequest, arn: str, dataset_type: str) -> None:
    """Raise InvalidInputError if a dataset of this type cannot have the schema.

    Raises ResourceNotFoundError if there is no schema with this ARN.
    """
    schema = _parse_schema(request.get("Schema", arn))
    if schema.dataset_type != dataset_type:
        raise InvalidInputError(f"{arn} is a schema for {schema.dataset_type}, not {dataset_type}.")


def _check_delete_dataset(request: ApiRequest, dataset: Resource) -> None:
    """Raise InUseError if filters, trainings or other jobs of the group need the dataset."""
    group = dataset.body["datasetGroupArn"]
    kinds = ("SolutionVersion", "BatchInferenceJob", "BatchSegmentJob", "DataDeletionJob")
    check_group_is_idle(request.transaction, group, kinds)
    filters = request.transaction.list_resources("Filter", parent=group, limit=1)
    if filters:
        raise InUseError(f"{group} still has filters: delete them first, such as {filters[0].arn}.")


def _create_filter(request: ApiRequest) -> NewResource:
    """Check the expression against the schemas of the group."""
    group = request.get("DatasetGroup", request.params["datasetGroupArn"])
    datasets = request.transaction.list_resources("Dataset", parent=group.arn)
    group_schemas = {
        dataset.body["datasetType"]: read_schema(request.transaction, dataset)
        for dataset in datasets
    }
    try:
        check_expression(request.params["filterExpression"], group_schemas)
    except FilterExpressionError as error:
        raise InvalidInputError(str(error)) from None
    return NewResource()


def _check_delete_filter(request: ApiRequest, resource: Resource) -> None:
    for job in request.transaction.list_with_job():
        if job.body.get("filterArn") == resource.arn:
            raise InUseError(f"{job.arn} uses {resource.arn} and is not finished.")


SCHEMA = Kind("Schema", _create_schema, has_status=False, check_delete=_check_delete_schema)

DATASET_GROUP = Kind(
    "DatasetGroup",
    _create_group,
    check_delete=_check_delete_group,
)

DATASET = Kind(
    "Dataset",
    _create_dataset,
    parent_member="datasetGroupArn",
    check_delete=_check_delete_dataset,
)

FILTER = Kind(
    "Filter", _create_filter, parent_member="datasetGroupArn", check_delete=_check_delete_filter
)
