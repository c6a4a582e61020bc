"""Domain dataset groups take custom solutions and batch jobs, and have fields of their own."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from batchrec_dagster.personalize.schemas import (
    SchemaError,
    build_interactions_schema,
    parse_schema,
)
from batchrec_dagster_tests.local_personalize.support import Local, build_taste_rows, encode_csv

ECOMMERCE: Final = "ECOMMERCE"
VIDEO: Final = "VIDEO_ON_DEMAND"
PRICE = {"name": "PRICE", "type": "float"}
CATEGORY = {"name": "CATEGORY_L1", "type": ["string"], "categorical": True}
GENRES = {"name": "GENRES", "type": ["null", "string"], "categorical": True}
CREATED = {"name": "CREATION_TIMESTAMP", "type": "long"}


def _build_schema(name: str, *fields: dict[str, Any]) -> str:
    key = {"name": "USER_ID" if name == "Users" else "ITEM_ID", "type": "string"}
    return json.dumps(
        {
            "type": "record",
            "name": name,
            "namespace": "com.amazonaws.personalize.schema",
            "fields": [key, *fields],
            "version": "1.0",
        }
    )


def test_a_batch_job_in_a_domain_dataset_group(local: Local) -> None:
    client = local.client
    group_answer = client.create_dataset_group(name="shop", domain=ECOMMERCE)
    group = local.wait_until_active(group_answer["datasetGroupArn"])
    assert group_answer["domain"] == local.describe(group)["domain"] == ECOMMERCE
    assert client.list_dataset_groups()["datasetGroups"][0]["domain"] == ECOMMERCE
    text = build_interactions_schema(event_type=True)
    custom = client.create_schema(name="custom", schema=text)["schemaArn"]
    options: Any = {"name": "shop", "datasetGroupArn": group, "datasetType": "Interactions"}
    with pytest.raises(client.exceptions.InvalidInputException, match="of domain ECOMMERCE"):
        client.create_dataset(schemaArn=custom, **options)
    schema = client.create_schema(name="shop", schema=text, domain=ECOMMERCE)["schemaArn"]
    assert client.describe_schema(schemaArn=schema)["schema"]["domain"] == ECOMMERCE
    dataset = local.wait_until_active(
        client.create_dataset(schemaArn=schema, **options)["datasetArn"]
    )
    local.store.put("s3://data/interactions.csv", encode_csv(build_taste_rows()))
    local.wait_until_active(local.start_import(dataset, "s3://data/interactions.csv"))
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    assert len(local.recommend(version, ["u1"], numResults=5)["u1"]) == 5


@pytest.mark.parametrize(
    ("domain", "schema"),
    [
        (ECOMMERCE, _build_schema("Items", PRICE, CATEGORY)),
        (ECOMMERCE, _build_schema("Items", PRICE, CATEGORY, {**CREATED, "type": "float"})),
        (VIDEO, _build_schema("Items", GENRES, CREATED, {"name": "DURATION", "type": "float"})),
        (VIDEO, _build_schema("Users", {"name": "AGE", "type": "int"})),
    ],
)
def test_schemas_of_a_domain(domain: str, schema: str) -> None:
    assert parse_schema(schema, domain).fields


@pytest.mark.parametrize(
    ("domain", "schema", "reason"),
    [
        (
            ECOMMERCE,
            build_interactions_schema(event_type=False),
            "The INTERACTIONS schema of domain ECOMMERCE lacks the required field EVENT_TYPE",
        ),
        (
            ECOMMERCE,
            _build_schema("Items", CATEGORY),
            "lacks the required field PRICE, of type float",
        ),
        (
            ECOMMERCE,
            _build_schema("Items", PRICE, {"name": "CATEGORY_L1", "type": "string"}),
            "the field CATEGORY_L1 must be of type categorical string",
        ),
        (VIDEO, _build_schema("Items", GENRES), "lacks the required field CREATION_TIMESTAMP"),
        (
            VIDEO,
            _build_schema(
                "Items", GENRES, CREATED, {"name": "PRODUCT_DESCRIPTION", "type": "string"}
            ),
            "the field PRODUCT_DESCRIPTION must be of type textual string",
        ),
        (
            VIDEO,
            _build_schema("Users", {"name": "SUBSCRIPTION_MODEL", "type": "string"}),
            "the field SUBSCRIPTION_MODEL must be of type categorical string",
        ),
        (
            None,
            _build_schema(
                "Items",
                {"name": "TITLE", "type": "string", "textual": True},
                {"name": "PLOT", "type": "string", "textual": True},
            ),
            "Only one field may be textual, but these are: TITLE, PLOT",
        ),
    ],
)
def test_schemas_that_are_refused(domain: str | None, schema: str, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        parse_schema(schema, domain)
