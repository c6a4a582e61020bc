"""Filters of a dataset group, which batch jobs apply to their answers."""

from __future__ import annotations

from batchrec_dagster.personalize.conditions import check_expression
from batchrec_dagster.personalize.filters import FilterExpressionError
from batchrec_dagster.personalize.schemas import DATASET_TYPES

from ..catalog.kinds import CatalogKind, NewResource
from ..catalog.requests import ApiRequest
from ..catalog.resource import Resource
from ..errors import InUseError, InvalidInputError
from .datasets import BATCH_JOB_KINDS, find_dataset, read_schema


def _create(request: ApiRequest) -> NewResource:
    """Check the expression against the schemas of the group."""
    params = request.params
    group = request.get("DatasetGroup", params["datasetGroupArn"])
    expression = params["filterExpression"]
    schemas = {}
    for dataset_type in DATASET_TYPES:
        dataset = find_dataset(request.transaction, group.arn, dataset_type)
        if dataset is not None:
            schemas[dataset_type] = read_schema(request.transaction, dataset)
    try:
        check_expression(expression, schemas)
    except FilterExpressionError as error:
        raise InvalidInputError(str(error)) from None
    return NewResource()


def _check_delete(request: ApiRequest, resource: Resource) -> None:
    for kind in BATCH_JOB_KINDS:
        for job in request.transaction.list_resources(kind, region=request.scope):
            if job.unfinished and job.body.get("filterArn") == resource.arn:
                raise InUseError(f"{job.arn} uses {resource.arn} and is not finished.")


FILTER = CatalogKind(
    "Filter",
    _create,
    parent_member="datasetGroupArn",
    check_delete=_check_delete,
)
