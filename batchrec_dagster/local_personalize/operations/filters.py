"""Filters: what may not, or only may, be recommended or be in a segment."""

from __future__ import annotations

from batchrec_dagster.local_personalize.catalog.catalog import Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, Kind
from batchrec_dagster.local_personalize.errors import (
    InUseError,
    InvalidInputError,
    LimitExceededError,
)
from batchrec_dagster.local_personalize.filters import (
    FilterError,
    check_expression,
    check_fields_of_group,
)
from batchrec_dagster.local_personalize.operations.datasets import dataset_of, schema_of
from batchrec_dagster.personalize.schemas import DATASET_TYPES


def _create(call: Call) -> Draft:
    params = call.params
    group = call.existing("DatasetGroup", params["datasetGroupArn"])
    expression = params["filterExpression"]
    datasets = {kind: dataset_of(call.records, group.arn, kind) for kind in DATASET_TYPES}
    schemas = {kind: schema_of(call.records, found) for kind, found in datasets.items() if found}
    try:
        check_expression(expression, schemas)
    except FilterError as error:
        raise InvalidInputError(str(error)) from None
    others = call.records.children("Filter", group.arn)
    try:
        check_fields_of_group([*(other.body["filterExpression"] for other in others), expression])
    except FilterError as error:
        raise LimitExceededError(str(error)) from None
    members = ("name", "datasetGroupArn", "filterExpression")
    body = {member: params[member] for member in members}
    return Draft(f"filter/{params['name']}", group.arn, body)


def _check_delete(call: Call, found: Resource) -> None:
    for kind in ("BatchInferenceJob", "BatchSegmentJob"):
        for job in call.records.of_kind(kind, call.region):
            if job.unfinished and job.body.get("filterArn") == found.arn:
                raise InUseError(f"{job.arn} uses {found.arn} and is not finished.")


FILTER = Kind(
    "Filter",
    _create,
    parent="datasetGroupArn",
    total="filters_per_group",
    check_delete=_check_delete,
)
