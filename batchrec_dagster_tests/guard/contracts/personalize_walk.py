"""A walk that requests every batch operation, with every member that a request may have."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import botocore.session
from botocore import xform_name
from botocore.model import StructureShape

from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    SEEN,
    describe,
    poll_until_deadline,
)
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_csv,
    encode_user_lines,
    write_interactions_schema,
    write_schema,
)

MODEL = botocore.session.get_session().get_service_model("personalize")
# Kinds of resources that batch recommendations need.
KINDS = (
    *("DatasetGroup", "Schema", "Dataset", "DatasetImportJob", "Solution", "SolutionVersion"),
    *("Filter", "BatchInferenceJob", "BatchSegmentJob", "DataDeletionJob", "Recipe"),
)
OPERATIONS = {
    f"{verb}{kind}{'s' if verb == 'List' else ''}"
    for verb in ("Create", "Describe", "List", "Delete")
    for kind in KINDS
} & set(MODEL.operation_names) | {
    *("GetSolutionMetrics", "ListTagsForResource", "TagResource", "UntagResource"),
}
EMPTY_LISTS = {name for name in MODEL.operation_names if name.startswith("List")} - OPERATIONS

TAGS = [{"tagKey": "team", "tagValue": "films"}]
SOLUTION_CONFIG = {
    "eventValueThreshold": "0.5",
    "algorithmHyperParameters": {"hidden_dimension": "32"},
    "featureTransformationParameters": {"max_user_history_length_percentile": "0.9"},
    "trainingDataConfig": {"excludedDatasetColumns": {}},
}
SCHEMA = write_interactions_schema({"name": "EVENT_VALUE", "type": ["float", "null"]})
# The last two operations belong to data deletion jobs.
BUSY = {"CREATE PENDING", "CREATE IN_PROGRESS", "PENDING", "IN_PROGRESS"}


def find_input(operation: str) -> StructureShape:
    """Return the shape of an operation's input."""
    shape = MODEL.operation_model(operation).input_shape
    assert shape is not None
    return shape


class Exchange(NamedTuple):
    """A request, its answer on the wire, and the answer parsed by boto3."""

    operation: str
    params: dict[str, Any]
    raw: Any
    parsed_answer: dict[str, Any]


class Walk:
    """A sequence of requests with all exchanges."""

    def __init__(self, personalize: StartedPersonalize, client: Any) -> None:
        self.personalize, self.client = personalize, client
        self.exchanges: list[Exchange] = []
        self._body = b""
        client.meta.events.register("before-parse.personalize", self._keep_body)

    def _keep_body(self, response_dict: dict[str, Any], **_: Any) -> None:
        self._body = response_dict["body"]

    def ask(self, operation: str, **params: Any) -> dict[str, Any]:
        answer = getattr(self.client, xform_name(operation))(**params)
        del answer["ResponseMetadata"]
        self.exchanges.append(Exchange(operation, params, json.loads(self._body), answer))
        return self.exchanges[-1].parsed_answer

    def create(self, kind: str, *, status: str = "ACTIVE", **params: Any) -> str:
        """Create a resource, wait for it, describe it and return its ARN."""
        (arn,) = self.ask(f"Create{kind}", **params).values()
        self.wait_until_settled(arn)
        (description,) = self.ask(f"Describe{kind}", **{_build_arn_member(kind): arn}).values()
        assert description.get("status", "ACTIVE") == status, description
        return str(arn)

    def wait_until_settled(self, arn: str) -> None:
        """Wait until the resource's status is final."""
        for _ in poll_until_deadline(120):
            description = describe(self.client, arn)
            if description.get("status", "ACTIVE") not in BUSY:
                return
        raise AssertionError(description)

    def wait_until_gone(self, arn: str) -> None:
        for _ in poll_until_deadline():
            try:
                describe(self.client, arn)
            except self.client.exceptions.ResourceNotFoundException:
                return
        raise AssertionError(arn)


def _build_arn_member(kind: str) -> str:
    return next(iter(find_input(f"Describe{kind}").members))


def walk_through(personalize: StartedPersonalize, client: Any) -> Walk:
    """Send every request of the walk, and return the walk with its exchanges."""
    walk = Walk(personalize, client)
    group = walk.create(
        "DatasetGroup",
        name="films",
        roleArn=personalize.role_arn,
        kmsKeyArn="arn:aws:kms:us-east-1:000000000000:key/k",
        tags=TAGS,
    )
    walk.create("DatasetGroup", name="empty")
    version = _train(walk, group)
    _run_batch_jobs(walk, group, version)
    _ask_every_list(walk, group, version)
    _change_tags(walk, group)
    _fail_an_import(walk, group)
    _delete(walk)
    return walk


def _train(walk: Walk, group: str) -> str:
    head, *rows = encode_csv(build_taste_rows()).decode().splitlines()
    data = "\n".join([head + ",EVENT_VALUE", *(f"{row},1.0" for row in rows)])
    source = walk.personalize.put("interactions.csv", data.encode())
    schema = walk.create("Schema", name="films", schema=SCHEMA)
    dataset = walk.create(
        "Dataset",
        name="films",
        schemaArn=schema,
        datasetGroupArn=group,
        datasetType="Interactions",
        tags=TAGS,
    )
    for mode in ("FULL", "INCREMENTAL"):
        walk.create(
            "DatasetImportJob",
            jobName=f"import-{mode}",
            datasetArn=dataset,
            dataSource={"dataLocation": source},
            roleArn=walk.personalize.role_arn,
            importMode=mode,
            publishAttributionMetricsToS3=False,
            tags=TAGS,
        )
    solution = walk.create(
        "Solution",
        name="films",
        performHPO=False,
        performAutoML=False,
        performAutoTraining=False,
        recipeArn=RECIPE + "aws-user-personalization",
        datasetGroupArn=group,
        solutionConfig=SOLUTION_CONFIG,
        tags=TAGS,
    )
    version = walk.create(
        "SolutionVersion", name="first", solutionArn=solution, trainingMode="FULL", tags=TAGS
    )
    walk.ask("GetSolutionMetrics", solutionVersionArn=version)
    walk.ask("DescribeSolution", solutionArn=solution)
    return version


def _run_batch_jobs(walk: Walk, group: str, version: str) -> None:
    filter_arn = walk.create(
        "Filter", name="seen", datasetGroupArn=group, filterExpression=SEEN, tags=TAGS
    )
    source = walk.personalize.put(
        "users.json", encode_user_lines(["u1", "u2", "stranger"]) + b"{}\n"
    )
    walk.create(
        "BatchInferenceJob",
        jobName="batch",
        solutionVersionArn=version,
        filterArn=filter_arn,
        numResults=3,
        jobInput={"s3DataSource": {"path": source}},
        jobOutput={"s3DataDestination": {"path": walk.personalize.uri("out/")}},
        roleArn=walk.personalize.role_arn,
        batchInferenceJobConfig={
            "itemExplorationConfig": {"explorationWeight": "0", "explorationItemAgeCutOff": "30"}
        },
        batchInferenceJobMode="BATCH_INFERENCE",
        tags=TAGS,
    )
    _run_segment_job(walk, group)
    walk.create(
        "DataDeletionJob",
        status="COMPLETED",
        jobName="erase",
        datasetGroupArn=group,
        dataSource={"dataLocation": walk.personalize.put("erase.csv", b"USER_ID\nu3\n")},
        roleArn=walk.personalize.role_arn,
        tags=TAGS,
    )


def _run_segment_job(walk: Walk, group: str) -> None:
    solution = walk.create(
        "Solution",
        name="segments",
        performAutoTraining=False,
        recipeArn=RECIPE + "aws-item-affinity",
        datasetGroupArn=group,
    )
    filter_arn = walk.create(
        "Filter",
        name="buyers",
        datasetGroupArn=group,
        filterExpression='EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("buy")',
    )
    walk.create(
        "BatchSegmentJob",
        jobName="segment",
        solutionVersionArn=walk.create("SolutionVersion", solutionArn=solution),
        filterArn=filter_arn,
        numResults=3,
        jobInput={
            "s3DataSource": {"path": walk.personalize.put("items.json", b'{"itemId": "i1"}\n')}
        },
        jobOutput={"s3DataDestination": {"path": walk.personalize.uri("segments/")}},
        roleArn=walk.personalize.role_arn,
        tags=TAGS,
    )


def _ask_every_list(walk: Walk, group: str, version: str) -> None:
    """Request every list: in full, by parent if the operation takes a parent, and in pages."""
    solution = version.rpartition("/")[0]
    dataset = group.replace("dataset-group", "dataset") + "/INTERACTIONS"
    parents = {
        "datasetGroupArn": group,
        "datasetArn": dataset,
        "solutionArn": solution,
        "solutionVersionArn": version,
    }
    for operation in sorted(MODEL.operation_names):
        if not operation.startswith("List") or operation == "ListTagsForResource":
            continue
        walk.ask(operation)
        for member in parents.keys() & find_input(operation).members.keys():
            walk.ask(operation, **{member: parents[member]})
        if "nextToken" in walk.ask(operation, maxResults=1):
            walk.ask(
                operation, maxResults=1, nextToken=walk.exchanges[-1].parsed_answer["nextToken"]
            )
    recipes = walk.ask("ListRecipes")["recipes"]
    for recipe in recipes:
        walk.ask("DescribeRecipe", recipeArn=recipe["recipeArn"])


def _change_tags(walk: Walk, group: str) -> None:
    walk.ask("TagResource", resourceArn=group, tags=[{"tagKey": "more", "tagValue": ""}])
    walk.ask("ListTagsForResource", resourceArn=group)
    walk.ask("UntagResource", resourceArn=group, tagKeys=["more"])
    schema = walk.create(
        "Schema",
        name="items",
        schema=write_schema("Items", {"name": "ITEM_ID"}, {"name": "GENRES"}),
    )
    walk.create(
        "Dataset", name="items", schemaArn=schema, datasetGroupArn=group, datasetType="ITEMS"
    )


def _fail_an_import(walk: Walk, group: str) -> None:
    dataset = group.replace("dataset-group", "dataset") + "/INTERACTIONS"
    walk.create(
        "DatasetImportJob",
        status="CREATE FAILED",
        jobName="failed",
        datasetArn=dataset,
        dataSource={"dataLocation": walk.personalize.uri("nothing.csv")},
        roleArn=walk.personalize.role_arn,
    )
    walk.ask("ListDatasetImportJobs")


def _delete(walk: Walk) -> None:
    arn_prefix = "arn:aws:personalize:us-east-1:000000000000:"
    for kind, resource in (
        ("Filter", "filter/seen"),
        ("Filter", "filter/buyers"),
        ("Solution", "solution/segments"),
        ("Solution", "solution/films"),
        ("Dataset", "dataset/films/INTERACTIONS"),
        ("Dataset", "dataset/films/ITEMS"),
        ("DatasetGroup", "dataset-group/films"),
        ("Schema", "schema/films"),
    ):
        walk.ask(f"Delete{kind}", **{_build_arn_member(kind): arn_prefix + resource})
        walk.wait_until_gone(arn_prefix + resource)
