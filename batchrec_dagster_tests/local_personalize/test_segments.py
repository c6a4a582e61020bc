"""Batch segment jobs: which are allowed, what they answer, and of which data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchrec_dagster.local_personalize.learning import serving
from batchrec_dagster.storage import progress
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    ROLE,
    Local,
    build_taste_rows,
    encode_csv,
)

pytestmark = pytest.mark.slow

ITEM_AFFINITY = "aws-item-affinity"
ATTRIBUTE_AFFINITY = "aws-item-attribute-affinity"


def _create_schema(local: Local, kind: str, *fields: dict[str, Any]) -> str:
    schema = {
        "type": "record",
        "name": kind,
        "namespace": "com.amazonaws.personalize.schema",
        "fields": [{"type": "string", **field} for field in fields],
        "version": "1.0",
    }
    schema_answer = local.client.create_schema(name=kind.lower(), schema=json.dumps(schema))
    return schema_answer["schemaArn"]


def _import_metadata(
    local: Local, group: str, kind: str, text: str, *fields: dict[str, Any]
) -> str:
    """A dataset of items or users, with the rows of a CSV text."""
    dataset_answer = local.client.create_dataset(
        name=kind.lower(),
        schemaArn=_create_schema(local, kind, *fields),
        datasetGroupArn=group,
        datasetType=kind,
    )
    dataset = local.wait_until_active(dataset_answer["datasetArn"])
    local.store.put(f"s3://data/{kind}.csv", text.encode())
    local.wait_until_active(local.start_import(dataset, f"s3://data/{kind}.csv", name=kind.lower()))
    return dataset


def _import_items(local: Local, group: str) -> str:
    """Imports the parity and the quarter of the catalogue of every item; i1 has no quarter."""
    rows = [
        f"i{n},{'even' if n % 2 == 0 else 'odd'}|all,{n // 10 if n != 1 else ''}\n"
        for n in range(40)
    ]
    return _import_metadata(
        local,
        group,
        "Items",
        "ITEM_ID,KIND,QUARTER\n" + "".join(rows),
        {"name": "ITEM_ID"},
        {"name": "KIND", "categorical": True},
        {"name": "QUARTER", "type": ["null", "int"]},
    )


def _create_job(local: Local, version: str, name: str = "segment", **options: Any) -> str:
    source, target = f"s3://data/{name}/queries.json", f"s3://data/{name}/out/"
    return local.create_segment_job(version, source, target, jobName=name, **options)


def _answer_queries(
    local: Local, version: str, queries: list[Any], name: str = "segment", **options: Any
) -> list[dict[str, Any]]:
    """What a job answers these input lines with."""
    lines = "".join(json.dumps(query) + "\n" for query in queries)
    local.store.put(f"s3://data/{name}/queries.json", lines.encode())
    local.wait_until_active(_create_job(local, version, name, **options))
    return [json.loads(line) for line in local.read_lines(f"s3://data/{name}/out/queries.json.out")]


def _read_users(answer: dict[str, Any]) -> list[str]:
    users: list[str] = answer["output"]["usersList"]
    assert answer["error"] is None
    assert len(users) == len(set(users))
    return users


def _train_version(local: Local, group: str, recipe: str = ITEM_AFFINITY) -> str:
    return local.wait_until_active(local.create_version(local.create_solution(group, recipe)))


def test_a_segment_holds_the_users_of_that_taste(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    version = _train_version(local, group)
    queries = [{"itemId": "i4"}, {"itemId": "i5"}, {"itemId": "i4"}, {"itemId": "none"}, {"x": 1}]
    answers = _answer_queries(local, version, queries, numResults=10)
    even, odd, repeated_even, unknown, bad = answers
    assert all(int(user[1:]) % 2 == 0 for user in _read_users(even))
    assert all(int(user[1:]) % 2 == 1 for user in _read_users(odd))
    assert len(_read_users(even)) == 10
    assert repeated_even == even
    assert (unknown["error"], unknown["output"]) == (
        "User error: the solution version does not know item none",
        {"usersList": []},
    )
    assert bad == {
        "input": {"x": 1},
        "output": {"usersList": []},
        "error": "User error: Required fields for the provided recipe are itemId",
    }
    assert local.store.get("s3://data/segment/out/_CHECK") == b""
    first = local.read_lines("s3://data/segment/out/queries.json.out")[0]
    assert first.startswith('{"input": {"itemId": "i4"}, "output": {"usersList": ["u')
    metrics = local.client.get_solution_metrics(solutionVersionArn=version)["metrics"]
    assert set(metrics) == {"coverage", "hits_at_1_percent", "recall_at_1_percent"}


def test_a_segment_for_attributes(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    _import_items(local, group)
    version = _train_version(local, group, ATTRIBUTE_AFFINITY)
    queries = [
        {"itemAttributes": 'ITEMS.KIND = "even"'},
        {"itemAttributes": 'ITEMS.kind = "odd" AND ITEMS.QUARTER = 1'},
        {"itemAttributes": 'ITEMS.KIND = "odd" AND ITEMS.KIND = "even"'},
        {"itemAttributes": "ITEMS.QUARTER > 1"},
    ]
    even, odd, empty, bad = _answer_queries(local, version, queries, numResults=20)
    assert all(int(user[1:]) % 2 == 0 for user in _read_users(even))
    assert all(int(user[1:]) % 2 == 1 for user in _read_users(odd))
    assert empty["error"].startswith("User error: no known item matches ")
    assert "itemAttributes has an error at character 1" in bad["error"]
    assert bad["output"] == empty["output"] == {"usersList": []}


def test_segments_of_attributes_are_measured_for_attributes(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    _import_items(local, group)
    by_item, by_attribute = (
        local.client.get_solution_metrics(
            solutionVersionArn=local.wait_until_active(
                local.create_version(local.create_solution(group, recipe, name=recipe))
            )
        )
        for recipe in (ITEM_AFFINITY, ATTRIBUTE_AFFINITY)
    )
    # A segment has one of 60 users, nearly all of whom have items of an attribute in the truth.
    assert by_attribute["metrics"]["coverage"] == 1.0
    assert by_attribute["metrics"]["hits_at_1_percent"] > 0.9
    assert by_item["metrics"]["hits_at_1_percent"] < 0.5
    assert by_attribute["metrics"]["recall_at_1_percent"] < 0.1


def test_a_solution_for_attributes_needs_items(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, ATTRIBUTE_AFFINITY)
    with pytest.raises(local.client.exceptions.InvalidInputException, match="active Items dataset"):
        local.create_version(solution)


def test_a_segment_has_num_results_users_or_all(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    version = _train_version(local, group)
    invalid = local.client.exceptions.InvalidInputException
    for number, (num_results, expected) in enumerate(
        [(None, 25), (1, 1), (60, 60), (5_000_000, 60)]
    ):
        options = {} if num_results is None else {"numResults": num_results}
        (answer,) = _answer_queries(local, version, [{"itemId": "i0"}], f"job-{number}", **options)
        assert len(_read_users(answer)) == expected
    for num_results, reason in ((0, "at least 1"), (5_000_001, "at most 5000000")):
        with pytest.raises(invalid, match=reason):
            _create_job(local, version, "bad", numResults=num_results)


def test_a_recipe_is_for_one_kind_of_job(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    segments = _train_version(local, group)
    items = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-user-personalization", name="p"))
    )
    invalid = local.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match="use CreateBatchSegmentJob"):
        local.create_batch_job(segments)
    with pytest.raises(invalid, match="use CreateBatchInferenceJob"):
        _create_job(local, items)


def test_a_job_is_described_and_listed(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    _import_metadata(
        local,
        group,
        "Users",
        "USER_ID,AGE\n" + "".join(f"u{n},{n}\n" for n in range(60)),
        {"name": "USER_ID"},
        {"name": "AGE", "type": "int"},
    )
    version = _train_version(local, group)
    old = local.create_filter(group, "EXCLUDE UserID WHERE Users.AGE < 30")
    local.store.put("s3://data/segment/queries.json", b'{"itemId":"i0"}\n')
    arn = _create_job(
        local, version, numResults=7, filterArn=old, tags=[{"tagKey": "team", "tagValue": "films"}]
    )
    assert arn.endswith(":batch-segment-job/segment")
    description = local.wait(arn)
    summary = {
        "batchSegmentJobArn": arn,
        "jobName": "segment",
        "status": "ACTIVE",
        "creationDateTime": description["creationDateTime"],
        "lastUpdatedDateTime": description["lastUpdatedDateTime"],
        "solutionVersionArn": version,
    }
    assert description == {
        **summary,
        "filterArn": old,
        "numResults": 7,
        "roleArn": ROLE,
        "jobInput": {"s3DataSource": {"path": "s3://data/segment/queries.json"}},
        "jobOutput": {"s3DataDestination": {"path": "s3://data/segment/out/"}},
    }
    list_jobs = local.client.list_batch_segment_jobs
    assert list_jobs(solutionVersionArn=version)["batchSegmentJobs"] == [summary]
    assert list_jobs(solutionVersionArn=version + "0")["batchSegmentJobs"] == []
    tags = local.client.list_tags_for_resource(resourceArn=arn)["tags"]
    assert tags == [{"tagKey": "team", "tagValue": "films"}]
    with pytest.raises(local.client.exceptions.ResourceAlreadyExistsException):
        _create_job(local, version)
    (answer,) = map(json.loads, local.read_lines("s3://data/segment/out/queries.json.out"))
    assert all(int(user[1:]) >= 30 for user in _read_users(answer))


def test_which_filters_a_job_takes(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    _import_items(local, group)
    other = local.create_group("books")
    version = _train_version(local, group, ATTRIBUTE_AFFINITY)
    items = local.create_filter(group, name="items")
    watch_filter = local.create_filter(
        group, 'EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("watch")', "watched"
    )
    invalid = local.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match="needs a filter on UserID"):
        _create_job(local, version, filterArn=items)
    with pytest.raises(invalid, match="A filter on interactions cannot be used with"):
        _create_job(local, version, filterArn=watch_filter)
    by_item = local.wait_until_active(
        local.create_version(local.create_solution(group, ITEM_AFFINITY, name="second"))
    )
    (nobody,) = _answer_queries(
        local, by_item, [{"itemId": "i0"}], "watched", filterArn=watch_filter
    )
    assert _read_users(nobody) == []
    by_user = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-user-personalization", name="p"))
    )
    with pytest.raises(invalid, match="needs a filter on ItemID"):
        local.create_batch_job(by_user, filterArn=watch_filter)
    local.create_dataset(other, name="books")
    other_filter = local.create_filter(other, name="elsewhere")
    with pytest.raises(invalid, match="belongs to another dataset group"):
        _create_job(local, by_item, filterArn=other_filter)


@pytest.mark.parametrize(
    ("recipe", "max_lines", "query"),
    [
        (ITEM_AFFINITY, 500, {"itemId": "i0"}),
        (ATTRIBUTE_AFFINITY, 10, {"itemAttributes": 'ITEMS.KIND = "even"'}),
    ],
)
def test_how_many_lines_a_file_may_have(
    local: Local, recipe: str, max_lines: int, query: dict[str, str]
) -> None:
    group, _ = local.import_rows(build_taste_rows())
    _import_items(local, group)
    version = _train_version(local, group, recipe)
    assert (
        len(_answer_queries(local, version, [query] * max_lines, "most", numResults=1)) == max_lines
    )
    line = json.dumps(query) + "\n"
    local.store.put("s3://data/more/queries.json", (line * (max_lines + 1)).encode())
    failed_job = local.wait(_create_job(local, version, "more"))
    assert failed_job["status"] == "CREATE FAILED"
    assert failed_job["failureReason"] == (
        f"s3://data/more/queries.json has {max_lines + 1} lines; "
        f"with {recipe}, a file may have {max_lines} at most."
    )
    assert local.store.list("s3://data/more/out/") == []


def test_segments_are_made_of_full_imports_only(local: Local) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    local.store.put("s3://data/more.csv", encode_csv([("fresh", "i0", n) for n in range(1000)]))
    local.wait_until_active(
        local.start_import(dataset, "s3://data/more.csv", "add", importMode="INCREMENTAL")
    )
    version = _train_version(local, group)
    (answer,) = _answer_queries(local, version, [{"itemId": "i0"}], numResults=100)
    assert len(_read_users(answer)) == 60
    assert "fresh" not in _read_users(answer)


def test_input_and_output_are_checked_as_for_batch_inference(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    version = _train_version(local, group)
    invalid = local.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match="must differ"):
        local.create_segment_job(version, "s3://data/queries.json", "s3://data/queries.json/")
    failed_job = local.wait(_create_job(local, version))
    assert failed_job["failureReason"] == (
        "Invalid Data location. There is no object at s3://data/segment/queries.json"
    )
    missing_error = local.client.exceptions.ResourceNotFoundException
    with pytest.raises(missing_error):
        _create_job(local, version + "0", "other")
    assert local.describe(version)["recipeArn"] == RECIPE + ITEM_AFFINITY


def test_an_empty_file_has_an_empty_answer(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    version = _train_version(local, group)
    local.store.put("s3://data/segment/queries.json", b"\n\n")
    local.wait_until_active(_create_job(local, version))
    assert local.store.get("s3://data/segment/out/queries.json.out") == b""


def test_a_long_job_logs_its_progress(
    local: Local, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(serving, "EFFICIENT_CHUNK", 1)
    monkeypatch.setattr(serving, "CHUNK_SCORES", 25 * 40)
    group, _ = local.import_rows(build_taste_rows())
    version = _train_version(local, group)
    with caplog.at_level("INFO"):
        _answer_queries(local, version, [{"itemId": "i0"}, {"itemId": "i1"}])
    messages = [
        line.partition("segment: ")[2] for line in caplog.messages if "users scored" in line
    ]
    assert [line.partition(",")[0] for line in messages] == [
        f"{count} of 60 users scored for 2 segments" for count in (25, 50, 60)
    ]
