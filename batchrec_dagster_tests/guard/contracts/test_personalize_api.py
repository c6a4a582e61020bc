"""Tests that the local Personalize answers each batch operation like Amazon's, to the member.

A walk requests every operation (`personalize_walk`), by the embedded client and over HTTP. The
tests compare the answers on the wire with botocore's model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.model import ListShape, MapShape, Shape, StructureShape

from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.contracts.personalize_walk import (
    EMPTY_LISTS,
    MODEL,
    OPERATIONS,
    Exchange,
    Walk,
    find_input,
    walk_through,
)

pytestmark = pytest.mark.slow

WAYS = ("embedded", "HTTP")
# Updates and stops are no part of a night, so the service may leave them out.
OTHER_CREATIONS = {name for name in MODEL.operation_names if name.startswith("Create")} - OPERATIONS
TIMES = {"creationDateTime", "lastUpdatedDateTime"}
NAMED = {"name", "status", *TIMES}
JOB = {"jobName", "status", *TIMES}


def _list_output_members(operation: str) -> set[str]:
    shape = MODEL.operation_model(operation).output_shape
    return set(shape.members) if shape else set()


# The members that AWS documents for every answer: for a description, for each entry of a list, or
# for the answer itself. The sources are the API reference and the examples of the guide.
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
    "DescribeDataDeletionJob": JOB
    | {"dataDeletionJobArn", "datasetGroupArn", "dataSource", "roleArn", "numDeleted"},
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
    "ListDataDeletionJobs": JOB | {"dataDeletionJobArn", "datasetGroupArn"},
    "ListRecipes": NAMED | {"recipeArn"},
    "ListTagsForResource": {"tagKey", "tagValue"},
    "GetSolutionMetrics": {"solutionVersionArn", "metrics"},
    **{
        operation: _list_output_members(operation) - {"domain"}
        for operation in MODEL.operation_names
        if operation.startswith("Create")
    },
    **{operation: set() for operation in EMPTY_LISTS},
    **{
        operation: set()
        for operation in MODEL.operation_names
        if operation.startswith(("Delete", "Stop", "Tag", "Untag"))
    },
}


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Walk]]:
    """Yield a walk by the embedded client and a walk over HTTP, on separate Personalizes."""
    walks, services = {}, []
    for way in WAYS:
        personalize = StartedPersonalize(tmp_path_factory.mktemp("walk"))
        services.append(personalize)
        client = personalize.client
        if way == "HTTP":
            session = boto3.Session("any", "any", region_name="us-east-1")
            client = session.client("personalize", endpoint_url=personalize.endpoint_url)
        walks[way] = walk_through(personalize, client)
    yield walks
    for personalize in services:
        personalize.close()


@pytest.fixture(params=WAYS)
def walk(request: pytest.FixtureRequest, walks: dict[str, Walk]) -> Walk:
    return walks[request.param]


def _find_differences(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Yield the places where a value differs from the model."""
    type_checks: dict[str, Callable[[Any], bool]] = {
        "structure": lambda v: isinstance(v, dict),
        "map": lambda v: isinstance(v, dict),
        "list": lambda v: isinstance(v, list),
        "string": lambda v: isinstance(v, str),
        "boolean": lambda v: isinstance(v, bool),
        "integer": lambda v: type(v) is int,
        "double": lambda v: type(v) in (int, float),
        "timestamp": lambda v: type(v) in (int, float) and v > 1_500_000_000,
    }
    if not type_checks[shape.type_name](value):
        yield f"{path}: {value!r} is no {shape.type_name}"
    elif isinstance(shape, StructureShape):
        for name, member in value.items():
            if name not in shape.members:
                yield f"{path}.{name} is not in the model"
            else:
                yield from _find_differences(member, shape.members[name], f"{path}.{name}")
    elif isinstance(shape, ListShape):
        for number, entry in enumerate(value):
            yield from _find_differences(entry, shape.member, f"{path}[{number}]")
    elif isinstance(shape, MapShape):
        for key, entry in value.items():
            yield from _find_differences(key, shape.key, f"{path} key")
            yield from _find_differences(entry, shape.value, f"{path}.{key}")
    elif (enum_values := getattr(shape, "enum", None)) and value not in enum_values:
        yield f"{path}: {value!r} is not one of {enum_values}"


def is_equal_on_wire(parsed_value: Any, raw: Any) -> bool:
    if isinstance(parsed_value, datetime):
        return bool(abs(parsed_value.timestamp() - raw) < 0.001)
    if isinstance(parsed_value, dict):
        return parsed_value.keys() == set(raw) and all(
            is_equal_on_wire(parsed_value[k], raw[k]) for k in raw
        )
    if isinstance(parsed_value, list):
        return len(parsed_value) == len(raw) and all(map(is_equal_on_wire, parsed_value, raw))
    return bool(parsed_value == raw)


def _list_structures(exchange: Exchange) -> list[dict[str, Any]]:
    """Return the structures of ALWAYS: the described resource, a list's entries, or the answer."""
    raw: dict[str, Any] = exchange.raw
    if exchange.operation.startswith("Describe"):
        return list(raw.values())
    if exchange.operation.startswith("List"):
        return [entry for value in raw.values() if isinstance(value, list) for entry in value]
    return [raw]


def test_the_walk_calls_every_batch_operation(walk: Walk) -> None:
    operations = {exchange.operation for exchange in walk.exchanges}
    assert operations == OPERATIONS | EMPTY_LISTS


def test_no_member_is_unknown_to_the_model_or_of_another_type(walk: Walk) -> None:
    for exchange in walk.exchanges:
        shape = MODEL.operation_model(exchange.operation).output_shape
        if shape is None:
            assert exchange.raw == {}
        else:
            assert list(_find_differences(exchange.raw, shape, exchange.operation)) == []


def test_boto3_gives_every_member_on_and_times_as_times(walk: Walk) -> None:
    for exchange in walk.exchanges:
        assert is_equal_on_wire(exchange.parsed_answer, exchange.raw), exchange
    answer = next(e.parsed_answer for e in walk.exchanges if e.operation == "DescribeDatasetGroup")
    assert isinstance(answer["datasetGroup"]["creationDateTime"], datetime)


def test_no_member_is_missing_that_is_always_there(walk: Walk) -> None:
    looked_at = set()
    for exchange in walk.exchanges:
        always = ALWAYS[exchange.operation]
        for structure in _list_structures(exchange):
            looked_at.add(exchange.operation)
            missing = always - structure.keys()
            assert not missing, (exchange.operation, structure)
            assert ("failureReason" in structure) == (structure.get("status") == "CREATE FAILED")
    assert looked_at == OPERATIONS


def test_describe_has_every_member_of_create(walk: Walk) -> None:
    kinds = set()
    for before, after in zip(walk.exchanges, walk.exchanges[1:], strict=False):
        kind = before.operation.removeprefix("Create")
        if before.operation.startswith("Create") and after.operation == f"Describe{kind}":
            (description,) = after.raw.values()
            params = {name: value for name, value in before.params.items() if name != "tags"}
            if "datasetType" in params:
                params["datasetType"] = params["datasetType"].upper()
            assert {name: description.get(name) for name in params} == params
            kinds.add(kind)
    assert kinds == {name.removeprefix("Create") for name in OPERATIONS if "Create" in name[:6]}


def test_describe_has_the_latest_version(walk: Walk) -> None:
    descriptions = [e.raw["solution"] for e in walk.exchanges if e.operation == "DescribeSolution"]
    latest = [solution.get("latestSolutionVersion", {}).keys() for solution in descriptions]
    assert any(keys >= {"solutionVersionArn", "status", *TIMES} for keys in latest)


def test_summaries_agree_with_describe(walk: Walk) -> None:
    """An entry of a list is a part of the description, unless the resource changed in between."""
    last: dict[str, dict[str, Any]] = {}
    comparisons = 0
    for exchange in walk.exchanges:
        for structure in _list_structures(exchange):
            arn = next(
                (v for n, v in structure.items() if n.endswith("Arn") and _is_own_arn(exchange, n)),
                None,
            )
            if arn is None:
                continue
            if exchange.operation.startswith("Describe"):
                last[arn] = structure
            elif arn in last:
                assert structure.items() <= last[arn].items()
                comparisons += 1
    assert comparisons > 10


def _is_own_arn(exchange: Exchange, member: str) -> bool:
    """Return whether this member of a description or summary is the resource's ARN."""
    kind = re.sub("^(Describe|List)", "", exchange.operation).removesuffix("s")
    return member.lower() == f"{kind}arn".lower()


def test_both_ways_answer_the_same(walks: dict[str, Walk]) -> None:
    embedded_exchanges, over_http = (
        [_describe_exchange(exchange) for exchange in walks[way].exchanges] for way in WAYS
    )
    assert embedded_exchanges == over_http
    outputs = [
        {key: walks[way].personalize.get(key) for key in walks[way].personalize.keys("out/")}
        for way in WAYS
    ]
    assert outputs[0] == outputs[1]
    assert list(outputs[0]) == ["out/_CHECK", "out/users.json.out"]


def _describe_exchange(exchange: Exchange) -> str:
    """Return an exchange without times and names of versions, which differ between walks."""
    text = json.dumps([exchange.operation, exchange.params, exchange.raw], sort_keys=True)
    text = re.sub(r'"(\w+DateTime|trainingHours)": [\d.e-]+', r'"\1": 0', text)
    text = re.sub(r"(solution/\w+)/[0-9a-f]{8}", r"\1/version", text)
    return re.sub(r'("nextToken": )"[^"]+"', r'\1"token"', text)


def test_kinds_for_real_time_cannot_be_created_and_there_are_none(walks: dict[str, Walk]) -> None:
    arn = "arn:aws:personalize:us-east-1:000000000000:campaign/films"
    for walk in walks.values():
        exceptions = walk.client.exceptions
        for operation in OTHER_CREATIONS:
            shape = find_input(operation)
            params = {
                name: _build_valid_value(shape.members[name]) for name in shape.required_members
            }
            with pytest.raises(exceptions.InvalidInputException, match=operation):
                getattr(walk.client, xform_name(operation))(**params)
        with pytest.raises(exceptions.ResourceNotFoundException, match=arn):
            walk.client.describe_campaign(campaignArn=arn)
        with pytest.raises(exceptions.ResourceNotFoundException, match=arn):
            walk.client.delete_campaign(campaignArn=arn)


def _build_valid_value(shape: Shape) -> Any:
    """Return a value that passes botocore's checks."""
    if isinstance(shape, StructureShape):
        return {name: _build_valid_value(shape.members[name]) for name in shape.required_members}
    return {"list": [], "map": {}, "integer": 1}.get(shape.type_name, "arn:aws:personalize:::x/y")
