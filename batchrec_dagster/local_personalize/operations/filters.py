"""Filters: what may not, or only may, be recommended."""

from __future__ import annotations

from batchrec_dagster.formats import schemas
from batchrec_dagster.local_personalize.catalog import Resource
from batchrec_dagster.local_personalize.errors import InUseError, InvalidInputError
from batchrec_dagster.local_personalize.filters import FilterError, check_expression
from batchrec_dagster.local_personalize.kinds import Call, Draft, Kind
from batchrec_dagster.local_personalize.operations.datasets import dataset_of, schema_of


def _create(call: Call) -> Draft:
    params = call.params
    group = call.existing("DatasetGroup", params["datasetGroupArn"])
    dataset = dataset_of(call.records, group.arn, schemas.INTERACTIONS)
    try:
        check_expression(
            params["filterExpression"], schema_of(call.records, dataset) if dataset else None
        )
    except FilterError as error:
        raise InvalidInputError(str(error)) from None
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
