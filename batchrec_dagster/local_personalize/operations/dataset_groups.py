"""Dataset groups: everything else lies in one."""

from __future__ import annotations

from batchrec_dagster.local_personalize.catalog.catalog import Records, Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, Kind
from batchrec_dagster.local_personalize.errors import InUseError, InvalidInputError


def _create(call: Call) -> Draft:
    params = call.params
    if "domain" in params:
        raise InvalidInputError(
            "This local Personalize does batch only: domain dataset groups have no batch"
            " recommendations, leave domain out."
        )
    if "roleArn" in params and "kmsKeyArn" not in params:
        raise InvalidInputError("A roleArn is valid only together with a kmsKeyArn.")
    members = ("name", "roleArn", "kmsKeyArn")
    body = {member: params[member] for member in members if member in params}
    return Draft(f"dataset-group/{params['name']}", None, body)


def _check_delete(call: Call, group: Resource) -> None:
    for kind, plural in (("Solution", "solutions"), ("Dataset", "datasets")):
        if call.records.children(kind, group.arn):
            raise InUseError(f"{group.arn} still has {plural}: delete them first.")


def _delete_filters(records: Records, group: Resource) -> None:
    for found in records.children("Filter", group.arn):
        records.remove(found.arn)


DATASET_GROUP = Kind(
    "DatasetGroup",
    _create,
    total="dataset_groups",
    check_delete=_check_delete,
    delete_beside=_delete_filters,
)
