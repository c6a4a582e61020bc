"""Schemas: checked, kept, and never changed."""

from __future__ import annotations

from batchrec_dagster.local_personalize.catalog.catalog import Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, Kind
from batchrec_dagster.local_personalize.errors import InUseError, InvalidInputError
from batchrec_dagster.personalize.schemas import SchemaError, parse_schema


def _create(call: Call) -> Draft:
    if "domain" in call.params:
        raise InvalidInputError(
            "This local Personalize does batch only: schemas of domain dataset groups are of no"
            " use, leave domain out."
        )
    try:
        parse_schema(call.params["schema"])
    except SchemaError as error:
        raise InvalidInputError(str(error)) from None
    body = {"name": call.params["name"], "schema": call.params["schema"]}
    return Draft(f"schema/{body['name']}", None, body)


def _check_delete(call: Call, schema: Resource) -> None:
    for dataset in call.records.of_kind("Dataset", call.region):
        if dataset.body["schemaArn"] == schema.arn:
            raise InUseError(f"{schema.arn} is the schema of {dataset.arn}: delete that first.")


SCHEMA = Kind("Schema", _create, perform=None, total="schemas", check_delete=_check_delete)
