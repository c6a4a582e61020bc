"""The contract: every batch operation, both ways in, held against botocore's model to the member.

One walk asks for every operation, with every member that a request may have; it is done through the
embedded client and over HTTP, and what comes back is looked at as it is on the wire.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import boto3
import pytest
from botocore import xform_name
from botocore.model import ListShape, MapShape, Shape, StructureShape

from batchrec_dagster.formats.interactions import interactions_schema
from batchrec_dagster.local_personalize.operations.registry import OPERATIONS
from batchrec_dagster.local_personalize.service_model import (
    input_shape,
    output_members,
    service_model,
)
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.local_personalize.support import (
    RECIPE,
    SEEN,
    csv_bytes,
    describe,
    taste_rows,
    user_lines,
)

WAYS = ("embedded", "HTTP")
TIMES = {"creationDateTime", "lastUpdatedDateTime"}
NAMED = {"name", "status", *TIMES}
JOB = {"jobName", "status", *TIMES}

# What AWS documents as there in every answer: the members of what is described, of each entry of a
# list, of the answer itself. Source: the API reference's descriptions and its guide's examples.
ALWAYS: dict[str, set[str]] = {
    "DescribeDatasetGroup": NAMED | {"datasetGroupArn"},
    "DescribeSchema": NAMED - {"status"} | {"schemaArn", "schema"},
    "DescribeDataset": NAMED | {"datasetArn", "datasetGroupArn", "datasetType", "schemaArn"},
    "DescribeDatasetImportJob": JOB
    | {"datasetImportJobArn", "datasetArn", "dataSource", "roleArn", "importMode"},
    "DescribeSolution": NAMED
    | {"solutionArn", "datasetGroupArn", "recipeArn", "performAutoML", "performHPO"}
    | {"performAutoTraining"},
    "DescribeSolutionVersion": {"solutionVersionArn", "solutionArn", "status", *TIMES}
    | {"datasetGroupArn", "recipeArn", "performAutoML", "performHPO", "solutionConfig"}
    | {"trainingHours", "trainingMode", "trainingType"},
    "DescribeFilter": NAMED | {"filterArn", "datasetGroupArn", "filterExpression"},
    "DescribeBatchInferenceJob": JOB
    | {"batchInferenceJobArn", "solutionVersionArn", "numResults", "jobInput", "jobOutput"}
    | {"roleArn", "batchInferenceJobMode"},
    "DescribeBatchSegmentJob": JOB
    | {"batchSegmentJobArn", "solutionVersionArn", "numResults", "jobInput", "jobOutput"}
    | {"roleArn"},
    "DescribeRecipe": NAMED
    | {"recipeArn", "algorithmArn", "featureTransformationArn", "description", "recipeType"},
    "ListDatasetGroups": NAMED | {"datasetGroupArn"},
    "ListSchemas": NAMED - {"status"} | {"schemaArn"},
    "ListDatasets": NAMED | {"datasetArn", "datasetType"},
    "ListDatasetImportJobs": JOB | {"datasetImportJobArn", "importMode"},
    "ListSolutions": NAMED | {"solutionArn", "recipeArn"},
    "ListSolutionVersions": {
        "solutionVersionArn",
        "status",
        "trainingMode",
        "trainingType",
        *TIMES,
    },
    "ListFilters": NAMED | {"filterArn", "datasetGroupArn"},
    "ListBatchInferenceJobs": JOB
    | {"batchInferenceJobArn", "solutionVersionArn", "batchInferenceJobMode"},
    "ListBatchSegmentJobs": JOB | {"batchSegmentJobArn", "solutionVersionArn"},
    "ListRecipes": NAMED | {"recipeArn"},
    "ListTagsForResource": {"tagKey", "tagValue"},
    "GetSolutionMetrics": {"solutionVersionArn", "metrics"},
    **{
        operation: set(output_members(operation)) - {"domain"}
        for operation in service_model().operation_names
        if operation.startswith(("Create", "Update"))
    },
    **{
        operation: set()
        for operation in service_model().operation_names
        if operation.startswith(("Delete", "Stop", "Tag", "Untag"))
    },
}
TAGS = [{"tagKey": "team", "tagValue": "films"}]
SOLUTION_CONFIG = {
    "eventValueThreshold": "0.5",
    "algorithmHyperParameters": {"hidden_dimension": "32"},
    "featureTransformationParameters": {"max_user_history_length_percentile": "0.9"},
    "hpoConfig": {
        "hpoObjective": {"type": "max", "metricName": "precision_at_25"},
        "hpoResourceConfig": {"maxNumberOfTrainingJobs": "1", "maxParallelTrainingJobs": "1"},
    },
    "trainingDataConfig": {"excludedDatasetColumns": {}},
    "autoTrainingConfig": {"schedulingExpression": "rate(7 days)"},
}
SCHEMA = json.dumps(
    json.loads(interactions_schema(event_type=True))
    | {
        "fields": [
            *json.loads(interactions_schema(event_type=True))["fields"],
            {"name": "EVENT_VALUE", "type": ["float", "null"]},
        ]
    }
)
ITEMS = {
    "type": "record",
    "name": "Items",
    "namespace": "com.amazonaws.personalize.schema",
    "fields": [{"name": "ITEM_ID", "type": "string"}, {"name": "GENRES", "type": "string"}],
    "version": "1.0",
}
YEAR = {"name": "YEAR", "type": ["int", "null"]}


class Exchange(NamedTuple):
    """A request, and its answer as it was on the wire and as boto3 gives it."""

    operation: str
    params: dict[str, Any]
    raw: Any
    parsed: dict[str, Any]


class Walk:
    """Asks, one request after another, and keeps what was said."""

    def __init__(self, started: StartedPersonalize, client: Any) -> None:
        self.started, self.client = started, client
        self.said: list[Exchange] = []
        self._body = b""
        client.meta.events.register("before-parse.personalize", self._heard)

    def _heard(self, response_dict: dict[str, Any], **_: Any) -> None:
        self._body = response_dict["body"]

    def ask(self, operation: str, **params: Any) -> dict[str, Any]:
        parsed = getattr(self.client, xform_name(operation))(**params)
        del parsed["ResponseMetadata"]
        self.said.append(Exchange(operation, params, json.loads(self._body), parsed))
        return self.said[-1].parsed

    def create(self, kind: str, *, status: str = "ACTIVE", **params: Any) -> str:
        """Create, wait, Describe; the ARN."""
        (arn,) = self.ask(f"Create{kind}", **params).values()
        self.lasts(arn)
        (described,) = self.ask(f"Describe{kind}", **{_arn_member(kind): arn}).values()
        assert described.get("status", "ACTIVE") == status, described
        return str(arn)

    def lasts(self, arn: str) -> None:
        """Returns when nothing more happens to the resource."""
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            found = describe(self.client, arn)
            updates = [v for name, v in found.items() if re.fullmatch("latest.*Update", name)]
            statuses = {found.get("status", "ACTIVE"), *(update["status"] for update in updates)}
            if not {"CREATE PENDING", "CREATE IN_PROGRESS", "CREATE STOPPING"} & statuses:
                return
            time.sleep(0.01)
        raise AssertionError(found)

    def gone(self, arn: str) -> None:
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            try:
                describe(self.client, arn)
            except self.client.exceptions.ResourceNotFoundException:
                return
            time.sleep(0.01)
        raise AssertionError(arn)


def _arn_member(kind: str) -> str:
    return next(iter(input_shape(f"Describe{kind}").members))


def _walk(started: StartedPersonalize, client: Any) -> Walk:
    walk = Walk(started, client)
    group = walk.create(
        "DatasetGroup",
        name="films",
        roleArn=started.role_arn,
        kmsKeyArn="arn:aws:kms:us-east-1:000000000000:key/k",
        tags=TAGS,
    )
    walk.create("DatasetGroup", name="empty")
    version = _train(walk, group)
    _batch(walk, group, version)
    _lists(walk, group, version)
    _tags_and_updates(walk, group)
    _fail_and_stop(walk, group)
    _delete(walk)
    return walk


def _train(walk: Walk, group: str) -> str:
    head, *rows = csv_bytes(taste_rows()).decode().splitlines()
    data = "\n".join([head + ",EVENT_VALUE", *(f"{row},1.0" for row in rows)])
    source = walk.started.put("interactions.csv", data.encode())
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
            roleArn=walk.started.role_arn,
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
        performIncrementalUpdate=False,
        recipeArn=RECIPE + "aws-user-personalization",
        datasetGroupArn=group,
        eventType="watch",
        solutionConfig=SOLUTION_CONFIG,
        tags=TAGS,
    )
    version = walk.create(
        "SolutionVersion", name="first", solutionArn=solution, trainingMode="FULL", tags=TAGS
    )
    walk.ask("GetSolutionMetrics", solutionVersionArn=version)
    walk.ask("DescribeSolution", solutionArn=solution)
    return version


def _batch(walk: Walk, group: str, version: str) -> None:
    used = walk.create(
        "Filter", name="seen", datasetGroupArn=group, filterExpression=SEEN, tags=TAGS
    )
    source = walk.started.put("users.json", user_lines(["u1", "u2", "stranger"]) + b"{}\n")
    walk.create(
        "BatchInferenceJob",
        jobName="batch",
        solutionVersionArn=version,
        filterArn=used,
        numResults=3,
        jobInput={"s3DataSource": {"path": source}},
        jobOutput={"s3DataDestination": {"path": walk.started.uri("out/")}},
        roleArn=walk.started.role_arn,
        batchInferenceJobConfig={
            "itemExplorationConfig": {"explorationWeight": "0", "explorationItemAgeCutOff": "30"}
        },
        batchInferenceJobMode="BATCH_INFERENCE",
        tags=TAGS,
    )
    _segment(walk, group)


def _segment(walk: Walk, group: str) -> None:
    solution = walk.create(
        "Solution",
        name="segments",
        performAutoTraining=False,
        recipeArn=RECIPE + "aws-item-affinity",
        datasetGroupArn=group,
    )
    used = walk.create(
        "Filter",
        name="buyers",
        datasetGroupArn=group,
        filterExpression='EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("buy")',
    )
    walk.create(
        "BatchSegmentJob",
        jobName="segment",
        solutionVersionArn=walk.create("SolutionVersion", solutionArn=solution),
        filterArn=used,
        numResults=3,
        jobInput={"s3DataSource": {"path": walk.started.put("items.json", b'{"itemId": "i1"}\n')}},
        jobOutput={"s3DataDestination": {"path": walk.started.uri("segments/")}},
        roleArn=walk.started.role_arn,
        tags=TAGS,
    )


def _lists(walk: Walk, group: str, version: str) -> None:
    """Every list whole, of its parent if it can have one, and cut into pages."""
    solution = version.rpartition("/")[0]
    dataset = group.replace("dataset-group", "dataset") + "/INTERACTIONS"
    parents = {
        "datasetGroupArn": group,
        "datasetArn": dataset,
        "solutionArn": solution,
        "solutionVersionArn": version,
    }
    for operation in sorted(OPERATIONS):
        if not operation.startswith("List") or operation == "ListTagsForResource":
            continue
        walk.ask(operation)
        for member in parents.keys() & input_shape(operation).members.keys():
            walk.ask(operation, **{member: parents[member]})
        if "nextToken" in walk.ask(operation, maxResults=1):
            walk.ask(operation, maxResults=1, nextToken=walk.said[-1].parsed["nextToken"])
    recipes = walk.ask("ListRecipes")["recipes"]
    for recipe in recipes:
        walk.ask("DescribeRecipe", recipeArn=recipe["recipeArn"])


def _tags_and_updates(walk: Walk, group: str) -> None:
    walk.ask("TagResource", resourceArn=group, tags=[{"tagKey": "more", "tagValue": ""}])
    walk.ask("ListTagsForResource", resourceArn=group)
    walk.ask("UntagResource", resourceArn=group, tagKeys=["more"])
    schema = walk.create("Schema", name="items", schema=json.dumps(ITEMS))
    wider = json.dumps({**ITEMS, "fields": [*ITEMS["fields"], YEAR]})
    wider = walk.create("Schema", name="wider", schema=wider)
    items = walk.create(
        "Dataset", name="items", schemaArn=schema, datasetGroupArn=group, datasetType="ITEMS"
    )
    walk.ask("UpdateDataset", datasetArn=items, schemaArn=wider)
    walk.lasts(items)
    walk.ask("DescribeDataset", datasetArn=items)
    solution = group.replace("dataset-group", "solution")
    walk.ask(
        "UpdateSolution",
        solutionArn=solution,
        performAutoTraining=True,
        solutionUpdateConfig={"autoTrainingConfig": {"schedulingExpression": "rate(3 days)"}},
    )
    walk.lasts(solution)
    walk.ask("DescribeSolution", solutionArn=solution)


def _fail_and_stop(walk: Walk, group: str) -> None:
    dataset = group.replace("dataset-group", "dataset") + "/INTERACTIONS"
    walk.create(
        "DatasetImportJob",
        status="CREATE FAILED",
        jobName="failed",
        datasetArn=dataset,
        dataSource={"dataLocation": walk.started.uri("nothing.csv")},
        roleArn=walk.started.role_arn,
    )
    walk.ask("ListDatasetImportJobs")
    solution = group.replace("dataset-group", "solution")
    arns = [
        walk.ask("CreateSolutionVersion", solutionArn=solution)["solutionVersionArn"]
        for _ in range(3)
    ]
    # The last waits behind the others, so that it can be stopped.
    walk.ask("StopSolutionVersionCreation", solutionVersionArn=arns[-1])
    for arn in arns:
        walk.lasts(arn)
        walk.ask("DescribeSolutionVersion", solutionVersionArn=arn)


def _delete(walk: Walk) -> None:
    account = "arn:aws:personalize:us-east-1:000000000000:"
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
        walk.ask(f"Delete{kind}", **{_arn_member(kind): account + resource})
        walk.gone(account + resource)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Walk]]:
    """The walk both ways, each on a Personalize of its own."""
    found, opened = {}, []
    for way in WAYS:
        started = StartedPersonalize(tmp_path_factory.mktemp("walk"))
        opened.append(started)
        client = started.client
        if way == "HTTP":
            session = boto3.Session("any", "any", region_name="us-east-1")
            client = session.client("personalize", endpoint_url=started.endpoint_url)
        found[way] = _walk(started, client)
    yield found
    for started in opened:
        started.close()


@pytest.fixture(params=WAYS)
def walk(request: pytest.FixtureRequest, walks: dict[str, Walk]) -> Walk:
    return walks[request.param]


def _differences(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Where a value is not as the model says."""
    wanted: dict[str, Callable[[Any], bool]] = {
        "structure": lambda v: isinstance(v, dict),
        "map": lambda v: isinstance(v, dict),
        "list": lambda v: isinstance(v, list),
        "string": lambda v: isinstance(v, str),
        "boolean": lambda v: isinstance(v, bool),
        "integer": lambda v: type(v) is int,
        "double": lambda v: type(v) in (int, float),
        "timestamp": lambda v: type(v) in (int, float) and v > 1_500_000_000,
    }
    if not wanted[shape.type_name](value):
        yield f"{path}: {value!r} is no {shape.type_name}"
    elif isinstance(shape, StructureShape):
        for name, member in value.items():
            if name not in shape.members:
                yield f"{path}.{name} is not in the model"
            else:
                yield from _differences(member, shape.members[name], f"{path}.{name}")
    elif isinstance(shape, ListShape):
        for number, entry in enumerate(value):
            yield from _differences(entry, shape.member, f"{path}[{number}]")
    elif isinstance(shape, MapShape):
        for key, entry in value.items():
            yield from _differences(key, shape.key, f"{path} key")
            yield from _differences(entry, shape.value, f"{path}.{key}")
    elif (allowed := getattr(shape, "enum", None)) and value not in allowed:
        yield f"{path}: {value!r} is not one of {allowed}"


def _same(parsed: Any, raw: Any) -> bool:
    if isinstance(parsed, datetime):
        return bool(abs(parsed.timestamp() - raw) < 0.001)
    if isinstance(parsed, dict):
        return parsed.keys() == set(raw) and all(_same(parsed[k], raw[k]) for k in raw)
    if isinstance(parsed, list):
        return len(parsed) == len(raw) and all(map(_same, parsed, raw))
    return bool(parsed == raw)


def _told(exchange: Exchange) -> list[dict[str, Any]]:
    """The structures that ALWAYS speaks of: the described one, a list's entries, or the answer."""
    raw: dict[str, Any] = exchange.raw
    if exchange.operation.startswith("Describe"):
        return list(raw.values())
    if exchange.operation.startswith("List"):
        return [entry for value in raw.values() if isinstance(value, list) for entry in value]
    return [raw]


def test_every_batch_operation_is_asked(walk: Walk) -> None:
    assert {exchange.operation for exchange in walk.said} == set(OPERATIONS)


def test_no_member_is_unknown_to_the_model_or_of_another_type(walk: Walk) -> None:
    for exchange in walk.said:
        shape = service_model().operation_model(exchange.operation).output_shape
        if shape is None:
            assert exchange.raw == {}
        else:
            assert list(_differences(exchange.raw, shape, exchange.operation)) == []


def test_boto3_gives_every_member_on_and_times_as_times(walk: Walk) -> None:
    for exchange in walk.said:
        assert _same(exchange.parsed, exchange.raw), exchange
    described = next(e.parsed for e in walk.said if e.operation == "DescribeDatasetGroup")
    assert isinstance(described["datasetGroup"]["creationDateTime"], datetime)


def test_no_member_is_missing_that_is_always_there(walk: Walk) -> None:
    looked_at = set()
    for exchange in walk.said:
        always = ALWAYS[exchange.operation]
        for structure in _told(exchange):
            looked_at.add(exchange.operation)
            missing = always - structure.keys()
            if structure.get("status") in ("CREATE STOPPED", "CREATE FAILED"):
                missing.discard("trainingHours")
            assert not missing, (exchange.operation, structure)
            assert ("failureReason" in structure) == (structure.get("status") == "CREATE FAILED")
    assert looked_at == set(OPERATIONS)


def test_describe_tells_every_member_that_create_took(walk: Walk) -> None:
    checked = set()
    for before, after in zip(walk.said, walk.said[1:], strict=False):
        kind = before.operation.removeprefix("Create")
        if before.operation.startswith("Create") and after.operation == f"Describe{kind}":
            (described,) = after.raw.values()
            given = {name: value for name, value in before.params.items() if name != "tags"}
            if "datasetType" in given:
                given["datasetType"] = given["datasetType"].upper()
            assert {name: described.get(name) for name in given} == given
            checked.add(kind)
    assert checked == {name.removeprefix("Create") for name in OPERATIONS if "Create" in name[:6]}


def test_describe_tells_of_the_latest_version_and_updates(walk: Walk) -> None:
    last = {exchange.operation: exchange.raw for exchange in walk.said}
    solution = last["DescribeSolution"]["solution"]
    assert {"solutionVersionArn", "status", *TIMES} <= solution["latestSolutionVersion"].keys()
    update = solution["latestSolutionUpdate"]
    assert {"performAutoTraining", "solutionUpdateConfig", "status", *TIMES} <= update.keys()
    update = last["DescribeDataset"]["dataset"]["latestDatasetUpdate"]
    assert {"schemaArn", "status", *TIMES} <= update.keys()


def test_summaries_tell_what_describe_tells(walk: Walk) -> None:
    """A list's entry is a part of the description, as far as nothing has changed between."""
    last: dict[str, dict[str, Any]] = {}
    compared = 0
    for exchange in walk.said:
        for structure in _told(exchange):
            arn = next(
                (v for n, v in structure.items() if n.endswith("Arn") and _names(exchange, n)), None
            )
            if arn is None:
                continue
            if exchange.operation.startswith("Describe"):
                last[arn] = structure
            elif arn in last:
                assert structure.items() <= last[arn].items()
                compared += 1
    assert compared > 10


def _names(exchange: Exchange, member: str) -> bool:
    """Whether this member of a description or summary is its own ARN."""
    kind = re.sub("^(Describe|List)", "", exchange.operation).removesuffix("s")
    return member.lower() == f"{kind}arn".lower()


def test_both_ways_answer_the_same(walks: dict[str, Walk]) -> None:
    embedded, over_http = ([_plain(exchange) for exchange in walks[way].said] for way in WAYS)
    assert embedded == over_http
    outputs = [
        {key: walks[way].started.get(key) for key in walks[way].started.keys("out/")}
        for way in WAYS
    ]
    assert outputs[0] == outputs[1]
    assert list(outputs[0]) == ["out/_CHECK", "out/users.json.out"]


def _plain(exchange: Exchange) -> str:
    """An exchange without what no two walks share: times, and the names of versions."""
    text = json.dumps([exchange.operation, exchange.params, exchange.raw], sort_keys=True)
    text = re.sub(r'"(\w+DateTime|trainingHours)": [\d.e-]+', r'"\1": 0', text)
    text = re.sub(r"(solution/\w+)/[0-9a-f]{8}", r"\1/version", text)
    return re.sub(r'("nextToken": )"[^"]+"', r'\1"token"', text)


def test_the_other_operations_are_refused_at_once_and_clearly(walks: dict[str, Walk]) -> None:
    others = set(service_model().operation_names) - set(OPERATIONS)
    for operation in sorted(others):
        params = {
            name: _some(shape)
            for name, shape in input_shape(operation).members.items()
            if name in input_shape(operation).required_members
        }
        said = set()
        for walk in walks.values():
            with pytest.raises(walk.client.exceptions.InvalidInputException) as refused:
                getattr(walk.client, xform_name(operation))(**params)
            said.add(refused.value.response["Error"]["Message"])
        (message,) = said
        assert message.startswith(f"{operation} is not supported: this local Personalize does")


def _some(shape: Shape) -> Any:
    """Anything that botocore's own checks let through."""
    if isinstance(shape, StructureShape):
        return {name: _some(shape.members[name]) for name in shape.required_members}
    return {"list": [], "map": {}, "integer": 1}.get(shape.type_name, "arn:aws:personalize:::x/y")
