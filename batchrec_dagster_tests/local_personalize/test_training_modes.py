"""Ways to train: in full, as an update, with a search for hyperparameters, on chosen events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.config.solution import Solution
from batchrec_dagster.local_personalize import recipes
from batchrec_dagster.local_personalize.api import service
from batchrec_dagster.local_personalize.catalog.catalog import CatalogTransaction
from batchrec_dagster.local_personalize.catalog.resource import Resource
from batchrec_dagster.local_personalize.learning.evaluation import reward_shares
from batchrec_dagster.local_personalize.learning.hpo import Search
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.training import TrainedModel
from batchrec_dagster.local_personalize.operations import automatic_training, solution_versions
from batchrec_dagster.personalize.schemas import build_interactions_schema, build_items_schema
from batchrec_dagster.steps.batch_jobs import build_solution_config
from batchrec_dagster_tests.local_personalize.support import Local, build_taste_rows, encode_csv

pytestmark = pytest.mark.slow

PERSONALIZATION = "aws-user-personalization"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each training."""
    calls: list[dict[str, Any]] = []

    def train(recipe: str, *args: Any, log: Callable[[str], None], **options: Any) -> TrainedModel:
        calls.append({"recipe": recipe, **options})
        return recipes.train(recipe, *args, log=log, **options)

    monkeypatch.setattr(solution_versions, "train", train)
    return calls


def _find_model_folder(local: Local, version: str) -> Path:
    """The folder of a version's model."""
    folders = list((local.root / "home" / "models").glob(f"*{version.rpartition('/')[2]}*"))
    assert len(folders) == 1
    return folders[0]


def test_an_update_starts_from_the_latest_version(
    local: Local, calls: list[dict[str, Any]]
) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, PERSONALIZATION)
    first = local.wait_until_active(local.create_version(solution))
    new = [(f"u{n % 60}", "new", 1_700_000_000 + n) for n in range(1000)]
    local.store.put("s3://data/new.csv", encode_csv(new))
    local.wait_until_active(
        local.start_import(dataset, "s3://data/new.csv", "add", importMode="INCREMENTAL")
    )
    second = local.wait_until_active(local.create_version(solution, trainingMode="UPDATE"))
    third = local.wait_until_active(local.create_version(solution, trainingMode="UPDATE"))
    assert [call["previous"] for call in calls] == [
        None,
        _find_model_folder(local, first),
        _find_model_folder(local, second),
    ]
    descriptions = [local.describe(version) for version in (first, second, third)]
    assert [version["trainingMode"] for version in descriptions] == ["FULL", "UPDATE", "UPDATE"]
    assert {version["trainingType"] for version in descriptions} == {"MANUAL"}
    before = local.recommend(first, ["u1"], "before", numResults=100)["u1"]
    after = local.recommend(second, ["u1"], "after", numResults=100)["u1"]
    assert "new" not in before
    assert "new" in after
    metrics = local.client.get_solution_metrics(solutionVersionArn=second)["metrics"]
    assert set(metrics) == set(
        local.client.get_solution_metrics(solutionVersionArn=first)["metrics"]
    )


def test_recipes_and_modes_that_cannot_update(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    invalid = local.client.exceptions.InvalidInputException
    solution = local.create_solution(group, PERSONALIZATION)
    with pytest.raises(invalid, match="starts from an ACTIVE version"):
        local.create_version(solution, trainingMode="UPDATE")
    for recipe in ("aws-user-personalization-v2", "aws-sims", "aws-item-affinity"):
        other = local.create_solution(group, recipe, name=recipe)
        with pytest.raises(invalid, match=f"UPDATE is not supported by .*{recipe}"):
            local.create_version(other, trainingMode="UPDATE")
    with pytest.raises(invalid, match="AUTOTRAIN"):
        local.create_version(solution, trainingMode="AUTOTRAIN")


def test_an_update_of_a_damaged_model_fails(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, PERSONALIZATION)
    version = local.wait_until_active(local.create_version(solution))
    for file in _find_model_folder(local, version).glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1])
    failed_version = local.wait(local.create_version(solution, trainingMode="UPDATE"))
    assert failed_version["status"] == "CREATE FAILED"
    assert failed_version["failureReason"].startswith("Create failed. ")
    assert "bytes" in failed_version["failureReason"]
    local.store.put("s3://data/users.json", b'{"userId":"u1"}\n')
    failed_version = local.wait(local.create_batch_job(version))
    assert failed_version["failureReason"].startswith(f"The model of {version} cannot be used: ")
    assert local.store.list("s3://data/out/") == []


def test_a_search_chooses_hyperparameters(local: Local, calls: list[dict[str, Any]]) -> None:
    group, _ = local.import_rows(build_taste_rows())
    config: dict[str, Any] = {
        "hpoConfig": {
            "hpoResourceConfig": {"maxNumberOfTrainingJobs": "3", "maxParallelTrainingJobs": "1"},
            "algorithmHyperParameterRanges": {
                "integerHyperParameterRanges": [{"name": "bptt", "minValue": 2, "maxValue": 20}],
                "categoricalHyperParameterRanges": [
                    {"name": "recency_mask", "values": ["true", "false"]}
                ],
            },
        }
    }
    solution = local.create_solution(group, PERSONALIZATION, performHPO=True, solutionConfig=config)
    version = local.describe(local.wait_until_active(local.create_version(solution)))
    tuned_params = version["tunedHPOParams"]["algorithmHyperParameters"]
    assert set(tuned_params) == {"bptt", "recency_mask"}
    assert 2 <= int(tuned_params["bptt"]) <= 20
    assert tuned_params["recency_mask"] in ("true", "false")
    assert version["performHPO"] is True
    assert version["solutionConfig"] == config
    assert calls[0]["search"] == Search(
        3, integers={"bptt": (2, 20)}, categories={"recency_mask": ["true", "false"]}
    )


def test_without_a_search_nothing_is_tuned(local: Local, calls: list[dict[str, Any]]) -> None:
    group, _ = local.import_rows(build_taste_rows())
    version = local.describe(
        local.wait_until_active(local.create_version(local.create_solution(group, PERSONALIZATION)))
    )
    assert "tunedHPOParams" not in version
    assert version["performHPO"] is False
    assert calls[0]["search"] is None


def _build_integer_range(**members: Any) -> dict[str, Any]:
    return {"algorithmHyperParameterRanges": {"integerHyperParameterRanges": [members]}}


@pytest.mark.parametrize(
    ("hpo", "reason"),
    [
        (_build_integer_range(name="bptt", minValue=20, maxValue=2), "bptt"),
        (_build_integer_range(name="bptt", minValue=1, maxValue=2), "bptt"),
        (_build_integer_range(name="depth", minValue=1, maxValue=2), "depth"),
        (
            _build_integer_range(name="bptt", minValue=2),
            "bptt needs both a minValue and a maxValue",
        ),
        (_build_integer_range(minValue=2, maxValue=3), "needs a name"),
        (
            {
                "algorithmHyperParameterRanges": {
                    "categoricalHyperParameterRanges": [{"name": "recency_mask", "values": ["x"]}]
                }
            },
            "recency_mask",
        ),
        (
            {"hpoResourceConfig": {"maxNumberOfTrainingJobs": "41"}},
            "maxNumberOfTrainingJobs must be a whole number from 1 to 40, not '41'",
        ),
        ({"hpoResourceConfig": {"maxNumberOfTrainingJobs": "0"}}, "from 1 to 40, not '0'"),
        ({"hpoResourceConfig": {"maxNumberOfTrainingJobs": "many"}}, "maxNumberOfTrainingJobs"),
        ({"hpoResourceConfig": {"maxParallelTrainingJobs": "0"}}, "from 1 to 10, not '0'"),
    ],
)
def test_an_invalid_search_is_refused(local: Local, hpo: dict[str, Any], reason: str) -> None:
    group = local.create_group()
    invalid = local.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match=reason):
        local.create_solution(
            group, PERSONALIZATION, performHPO=True, solutionConfig={"hpoConfig": hpo}
        )


def test_a_recipe_without_anything_to_tune_refuses_the_search(local: Local) -> None:
    group = local.create_group()
    with pytest.raises(local.client.exceptions.InvalidInputException, match="performHPO"):
        local.create_solution(group, "aws-popularity-count", performHPO=True)


def _import_lines(local: Local, lines: list[str]) -> str:
    """The group whose interactions are these lines, with EVENT_TYPE and EVENT_VALUE."""
    schema = json.loads(build_interactions_schema(event_type=True))
    schema["fields"].append({"name": "EVENT_VALUE", "type": ["null", "double"]})
    arn = local.client.create_schema(name="valued", schema=json.dumps(schema))["schemaArn"]
    group = local.create_group()
    dataset_answer = local.client.create_dataset(
        name="films", schemaArn=arn, datasetGroupArn=group, datasetType="Interactions"
    )
    dataset = local.wait_until_active(dataset_answer["datasetArn"])
    text = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE\n" + "\n".join(lines)
    local.store.put("s3://data/interactions.csv", text.encode())
    local.wait_until_active(local.start_import(dataset, "s3://data/interactions.csv"))
    return group


@pytest.mark.parametrize("weights", [{}, {"watch": 1.0, "skip": 1.0}])
def test_events_below_the_threshold_are_seen_and_not_trained_on(
    local: Local, caplog: pytest.LogCaptureFixture, weights: dict[str, float]
) -> None:
    rows = build_taste_rows()
    values = {"whole": 0.9, "half": 0.5, "little": 0.4, "unknown": ""}
    lines = [
        f"{user},{kind}-{item},{time},watch,{value}"
        for kind, value in values.items()
        for user, item, time in rows
    ]
    # A user whose items are all below the threshold has seen them, and gets a stranger's list.
    lines += [f"new,whole-{rows[0][1]},{time},watch,0.1" for time in (1, 2)]
    group = _import_lines(local, lines)
    settings = Solution(event_value_threshold=0.5, event_weights=weights)
    solutions = [
        local.create_solution(
            group, recipe, name=recipe, solutionConfig=build_solution_config(values)
        )
        for recipe, values in settings.recipes.items()
    ]
    with caplog.at_level("INFO"):
        [version, popular] = [
            local.wait_until_active(local.create_version(solution)) for solution in solutions
        ]
    for version_arn in (version, popular):
        assert f"{version_arn}: {2 * len(rows):,} interactions" in caplog.messages
    lists = local.recommend(version, ["u1", "new", "unknown"], "all", numResults=500)
    assert {item.split("-")[0] for item in lists["u1"]} == {"whole", "half"}
    assert f"whole-{rows[0][1]}" in lists["new"] == lists["unknown"]
    unseen = local.recommend(version, ["new"], numResults=500, filterArn=local.create_filter(group))
    assert f"whole-{rows[0][1]}" not in unseen["new"]


def test_an_events_config_chooses_what_is_trained_on(
    local: Local, caplog: pytest.LogCaptureFixture
) -> None:
    rows = build_taste_rows()
    lines = [
        f"{user},{kind}-{item},{time},{kind},{value}".replace("rate-i", "rate-")
        for kind, value in (("buy", ""), ("rate", 4.5), ("rate", 2), ("view", ""), ("skip", ""))
        for user, item, time in rows
    ]
    group = _import_lines(local, lines)
    events = [
        {"eventType": "buy", "weight": 0.8},
        {"eventType": "rate", "eventValueThreshold": 4.0, "weight": 0.2},
        {"eventType": "skip", "weight": 0.0},
    ]
    with caplog.at_level("INFO"):
        solution = local.create_solution(
            group, solutionConfig={"eventsConfig": {"eventParametersList": events}}
        )
        version = local.wait_until_active(local.create_version(solution))
    assert f"{version}: {2 * len(rows):,} interactions" in caplog.messages
    assert not [line for line in caplog.messages if "no effect locally" in line]
    items = local.recommend(version, ["u1"], numResults=500)["u1"]
    assert {item.split("-")[0] for item in items} == {"buy", "rate"}
    # Each user bought what they rated, and a purchase counts four times as much.
    assert all(item.startswith("buy") for item in items[:5])


def test_invalid_solution_options(local: Local) -> None:
    group = local.create_group()
    events = {"eventsConfig": {"eventParametersList": [{"eventType": "buy", "weight": 0.5}]}}
    zero_weight = {"eventsConfig": {"eventParametersList": [{"eventType": "buy", "weight": 0.0}]}}
    excluded_type = {
        "trainingDataConfig": {"excludedDatasetColumns": {"Interactions": ["EVENT_TYPE"]}}
    }
    nameless = {"eventsConfig": {"eventParametersList": [{"weight": 0.5}]}}
    invalid = local.client.exceptions.InvalidInputException
    cases: list[tuple[dict[str, Any], str]] = [
        ({"recipe": PERSONALIZATION, "solutionConfig": events}, "eventsConfig is supported with"),
        ({"eventType": "buy", "solutionConfig": events}, "not both"),
        ({"solutionConfig": {**events, "eventValueThreshold": "1"}}, "not both"),
        ({"solutionConfig": nameless}, "needs an eventType"),
        ({"solutionConfig": zero_weight}, "needs a weight above 0"),
        ({"solutionConfig": excluded_type}, "EVENT_TYPE cannot be excluded"),
        ({"performIncrementalUpdate": True}, "semantic-similarity recipe only"),
    ]
    for options, reason in cases:
        with pytest.raises(invalid, match=reason):
            local.create_solution(group, **options)
    solution = local.create_solution(group)
    with pytest.raises(invalid, match="semantic-similarity recipe only"):
        local.client.update_solution(solutionArn=solution, performIncrementalUpdate=True)
    update: Any = zero_weight
    with pytest.raises(invalid, match="needs a weight above 0"):
        local.client.update_solution(solutionArn=solution, solutionUpdateConfig=update)


def test_automatic_training_starts_soon_and_then_by_its_schedule(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_SCHEDULE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(automatic_training, "SOON_SECONDS", 0.3)
    group, dataset = local.import_rows(build_taste_rows())
    schedule: Any = {"autoTrainingConfig": {"schedulingExpression": "rate(2 days)"}}
    solution_arn = local.create_solution(
        group, "aws-popularity-count", performAutoTraining=True, solutionConfig=schedule
    )
    while "latestSolutionVersion" not in (solution := local.describe(solution_arn)):
        time.sleep(0.01)
    assert solution["latestSolutionVersion"]["trainingType"] == "AUTOMATIC"
    first = local.wait_until_active(solution["latestSolutionVersion"]["solutionVersionArn"])
    version = local.describe(first)
    assert (version["trainingType"], version["trainingMode"]) == ("AUTOMATIC", "FULL")
    assert "name" not in version

    def count_versions() -> int:
        answer = local.client.list_solution_versions(solutionArn=solution_arn)
        return len(answer["solutionVersions"])

    start_seconds = time.time()

    def wait(days: float) -> None:
        monkeypatch.setattr(time, "time", lambda: start_seconds + days * 86_400)

    def add_data(job: str) -> None:
        uri = "s3://data/interactions.csv"
        local.wait_until_active(local.start_import(dataset, uri, job, importMode="INCREMENTAL"))

    for days, expected in ((1.9, 1), (2.1, 1), (4.0, 1)):  # there is no new data
        wait(days)
        assert count_versions() == expected
    add_data("second")
    for days, expected in ((4.2, 2), (4.3, 2)):
        wait(days)
        assert count_versions() == expected

    def update(**change: Any) -> None:
        local.client.update_solution(solutionArn=solution_arn, **change)
        while local.describe(solution_arn)["latestSolutionUpdate"]["status"] != "ACTIVE":
            time.sleep(0.01)

    update(performAutoTraining=False)
    wait(9)
    assert count_versions() == 2
    add_data("third")
    daily: Any = {"autoTrainingConfig": {"schedulingExpression": "rate(1 day)"}}
    update(performAutoTraining=True, solutionUpdateConfig=daily)
    wait(9.01)  # soon after it is turned on
    assert count_versions() == 3


def test_an_objective_adds_its_metric(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    record = json.loads(build_items_schema(created=False, categories=["GENRE"], numbers=[]))
    record["fields"].append({"name": "PRICE", "type": "float"})
    schema = local.client.create_schema(name="items", schema=json.dumps(record))["schemaArn"]
    dataset_answer = local.client.create_dataset(
        name="items", schemaArn=schema, datasetGroupArn=group, datasetType="Items"
    )
    dataset = local.wait_until_active(dataset_answer["datasetArn"])
    rows = "".join(f"i{n},,{n + 1}\n" for n in range(40))
    local.store.put("s3://data/items.csv", f"ITEM_ID,GENRE,PRICE\n{rows}".encode())
    local.wait_until_active(local.start_import(dataset, "s3://data/items.csv", "items"))
    objective: Any = {"itemAttribute": "PRICE", "objectiveSensitivity": "LOW"}
    config: Any = {"optimizationObjective": objective}
    solution = local.create_solution(group, PERSONALIZATION, solutionConfig=config)
    version = local.wait_until_active(local.create_version(solution))
    metrics = local.client.get_solution_metrics(solutionVersionArn=version)["metrics"]
    assert 0 < metrics["average_rewards_at_k"] <= 1


def test_reward_shares() -> None:
    """A user's relevant items a and c earn 1 and 3; of these the list has c only."""
    ids = np.array(["a", "b", "c"], dtype=object)
    order = np.array(["c", "b", "a"], dtype=object)  # the model's
    no_ints, no_times = np.empty(0, np.int32), np.empty(0, np.int64)
    data = Interactions(ids, ids, no_ints, no_ints, no_times, rewards=np.array([1.0, 9.0, 3.0]))
    truth = csr_matrix([[1.0, 0, 1.0], [0, 0, 0]])
    recommendations = np.array([[0, 1, -1], [0, 1, 2]], dtype=np.int32)
    shares = reward_shares(order, data, truth, recommendations)
    assert shares is not None
    assert shares.tolist() == [0.75]


def test_a_version_by_the_client_is_the_first(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_SCHEDULE_CHECK_SECONDS", 0.0)
    group, dataset = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, "aws-popularity-count", performAutoTraining=True)
    local.wait_until_active(local.create_version(solution))
    local.wait_until_active(local.start_import(dataset, "s3://data/interactions.csv", "second"))
    start_seconds = time.time()
    for days, expected in ((0.1, 1), (6.9, 1), (7.2, 2)):
        monkeypatch.setattr(time, "time", lambda days=days: start_seconds + days * 86_400)
        answer = local.client.list_solution_versions(solutionArn=solution)
        assert len(answer["solutionVersions"]) == expected


def test_a_dataset_is_updating_while_its_schema_is_replaced(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, schemas = local.client, {}
    for name, numbers in (("old", []), ("new", ["YEAR"])):
        text = build_items_schema(created=False, categories=["GENRE"], numbers=numbers)
        schemas[name] = client.create_schema(name=name, schema=text)["schemaArn"]
    dataset_answer = client.create_dataset(
        name="items",
        schemaArn=schemas["old"],
        datasetGroupArn=local.create_group(),
        datasetType="Items",
    )
    dataset = local.wait_until_active(dataset_answer["datasetArn"])
    statuses: list[str | None] = []
    save = CatalogTransaction.save

    def record(transaction: CatalogTransaction, resource: Resource) -> None:
        if resource.arn == dataset:  # a training of the test before may still end
            statuses.append(resource.status)
        save(transaction, resource)

    monkeypatch.setattr(CatalogTransaction, "save", record)
    client.update_dataset(datasetArn=dataset, schemaArn=schemas["new"])
    local.wait(dataset)
    assert statuses == ["UPDATE PENDING", "UPDATE IN_PROGRESS", "ACTIVE"]
    assert local.describe(dataset)["latestDatasetUpdate"]["status"] == "ACTIVE"
