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
from batchrec_dagster_tests.local_personalize.support import Local, csv_bytes, taste_rows

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


def _model(local: Local, version: str) -> Path:
    """The folder of a version's model."""
    folders = list((local.root / "home" / "models").glob(f"*{version.rpartition('/')[2]}*"))
    assert len(folders) == 1
    return folders[0]


def test_an_update_starts_from_the_latest_version(
    local: Local, calls: list[dict[str, Any]]
) -> None:
    group, dataset = local.imported(taste_rows())
    solution = local.solution(group, PERSONALIZATION)
    first = local.active(local.version(solution))
    new = [(f"u{n % 60}", "new", 1_700_000_000 + n) for n in range(1000)]
    local.store.put("s3://data/new.csv", csv_bytes(new))
    local.active(local.import_job(dataset, "s3://data/new.csv", "add", importMode="INCREMENTAL"))
    second = local.active(local.version(solution, trainingMode="UPDATE"))
    third = local.active(local.version(solution, trainingMode="UPDATE"))
    assert [call["previous"] for call in calls] == [
        None,
        _model(local, first),
        _model(local, second),
    ]
    described = [local.describe(version) for version in (first, second, third)]
    assert [version["trainingMode"] for version in described] == ["FULL", "UPDATE", "UPDATE"]
    assert {version["trainingType"] for version in described} == {"MANUAL"}
    before = local.recommended(first, ["u1"], "before", numResults=100)["u1"]
    after = local.recommended(second, ["u1"], "after", numResults=100)["u1"]
    assert "new" not in before
    assert "new" in after
    metrics = local.client.get_solution_metrics(solutionVersionArn=second)["metrics"]
    assert set(metrics) == set(
        local.client.get_solution_metrics(solutionVersionArn=first)["metrics"]
    )


def test_recipes_and_modes_that_cannot_update(local: Local) -> None:
    group, _ = local.imported(taste_rows())
    invalid = local.client.exceptions.InvalidInputException
    solution = local.solution(group, PERSONALIZATION)
    with pytest.raises(invalid, match="starts from an ACTIVE version"):
        local.version(solution, trainingMode="UPDATE")
    for recipe in ("aws-user-personalization-v2", "aws-sims", "aws-item-affinity"):
        other = local.solution(group, recipe, name=recipe)
        with pytest.raises(invalid, match=f"UPDATE is not supported by .*{recipe}"):
            local.version(other, trainingMode="UPDATE")
    with pytest.raises(invalid, match="AUTOTRAIN"):
        local.version(solution, trainingMode="AUTOTRAIN")


def test_an_update_of_a_damaged_model_fails(local: Local) -> None:
    group, _ = local.imported(taste_rows())
    solution = local.solution(group, PERSONALIZATION)
    version = local.active(local.version(solution))
    for file in _model(local, version).glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1])
    failed = local.wait(local.version(solution, trainingMode="UPDATE"))
    assert failed["status"] == "CREATE FAILED"
    assert failed["failureReason"].startswith("Create failed. ")
    assert "bytes" in failed["failureReason"]
    local.store.put("s3://data/users.json", b'{"userId":"u1"}\n')
    failed = local.wait(local.batch_job(version))
    assert failed["failureReason"].startswith(f"The model of {version} cannot be used: ")
    assert local.store.list("s3://data/out/") == []


def test_a_search_chooses_hyperparameters(local: Local, calls: list[dict[str, Any]]) -> None:
    group, _ = local.imported(taste_rows())
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
    solution = local.solution(group, PERSONALIZATION, performHPO=True, solutionConfig=config)
    version = local.describe(local.active(local.version(solution)))
    tuned = version["tunedHPOParams"]["algorithmHyperParameters"]
    assert set(tuned) == {"bptt", "recency_mask"}
    assert 2 <= int(tuned["bptt"]) <= 20
    assert tuned["recency_mask"] in ("true", "false")
    assert version["performHPO"] is True
    assert version["solutionConfig"] == config
    assert calls[0]["search"] == Search(
        3, integers={"bptt": (2, 20)}, categories={"recency_mask": ["true", "false"]}
    )


def test_without_a_search_nothing_is_tuned(local: Local, calls: list[dict[str, Any]]) -> None:
    group, _ = local.imported(taste_rows())
    version = local.describe(local.active(local.version(local.solution(group, PERSONALIZATION))))
    assert "tunedHPOParams" not in version
    assert version["performHPO"] is False
    assert calls[0]["search"] is None


def _integer(**members: Any) -> dict[str, Any]:
    return {"algorithmHyperParameterRanges": {"integerHyperParameterRanges": [members]}}


@pytest.mark.parametrize(
    ("hpo", "reason"),
    [
        (_integer(name="bptt", minValue=20, maxValue=2), "bptt"),
        (_integer(name="bptt", minValue=1, maxValue=2), "bptt"),
        (_integer(name="depth", minValue=1, maxValue=2), "depth"),
        (_integer(name="bptt", minValue=2), "bptt needs both a minValue and a maxValue"),
        (_integer(minValue=2, maxValue=3), "needs a name"),
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
    group = local.group()
    invalid = local.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match=reason):
        local.solution(group, PERSONALIZATION, performHPO=True, solutionConfig={"hpoConfig": hpo})


def test_a_recipe_without_anything_to_tune_refuses_the_search(local: Local) -> None:
    group = local.group()
    with pytest.raises(local.client.exceptions.InvalidInputException, match="performHPO"):
        local.solution(group, "aws-popularity-count", performHPO=True)


def _valued(local: Local, lines: list[str]) -> str:
    """The group whose interactions are these lines, with EVENT_TYPE and EVENT_VALUE."""
    schema = json.loads(build_interactions_schema(event_type=True))
    schema["fields"].append({"name": "EVENT_VALUE", "type": ["null", "double"]})
    arn = local.client.create_schema(name="valued", schema=json.dumps(schema))["schemaArn"]
    group = local.group()
    made = local.client.create_dataset(
        name="films", schemaArn=arn, datasetGroupArn=group, datasetType="Interactions"
    )
    dataset = local.active(made["datasetArn"])
    text = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE\n" + "\n".join(lines)
    local.store.put("s3://data/interactions.csv", text.encode())
    local.active(local.import_job(dataset, "s3://data/interactions.csv"))
    return group


@pytest.mark.parametrize("weights", [{}, {"watch": 1.0, "skip": 1.0}])
def test_events_below_the_threshold_are_seen_and_not_trained_on(
    local: Local, caplog: pytest.LogCaptureFixture, weights: dict[str, float]
) -> None:
    rows = taste_rows()
    values = {"whole": 0.9, "half": 0.5, "little": 0.4, "unknown": ""}
    lines = [
        f"{user},{kind}-{item},{time},watch,{value}"
        for kind, value in values.items()
        for user, item, time in rows
    ]
    # Who had an item below the threshold only has seen it, and gets the list of an unknown user.
    lines += [f"new,whole-{rows[0][1]},{time},watch,0.1" for time in (1, 2)]
    group = _valued(local, lines)
    settings = Solution(event_value_threshold=0.5, event_weights=weights)
    solutions = [
        local.solution(group, recipe, name=recipe, solutionConfig=build_solution_config(values))
        for recipe, values in settings.recipes.items()
    ]
    with caplog.at_level("INFO"):
        [version, popular] = [local.active(local.version(solution)) for solution in solutions]
    for trained in (version, popular):
        assert f"{trained}: {2 * len(rows):,} interactions" in caplog.messages
    lists = local.recommended(version, ["u1", "new", "unknown"], "all", numResults=500)
    assert {item.split("-")[0] for item in lists["u1"]} == {"whole", "half"}
    assert f"whole-{rows[0][1]}" in lists["new"] == lists["unknown"]
    unseen = local.recommended(version, ["new"], numResults=500, filterArn=local.filter(group))
    assert f"whole-{rows[0][1]}" not in unseen["new"]


def test_an_events_config_chooses_what_is_trained_on(
    local: Local, caplog: pytest.LogCaptureFixture
) -> None:
    rows = taste_rows()
    lines = [
        f"{user},{kind}-{item},{time},{kind},{value}".replace("rate-i", "rate-")
        for kind, value in (("buy", ""), ("rate", 4.5), ("rate", 2), ("view", ""), ("skip", ""))
        for user, item, time in rows
    ]
    group = _valued(local, lines)
    events = [
        {"eventType": "buy", "weight": 0.8},
        {"eventType": "rate", "eventValueThreshold": 4.0, "weight": 0.2},
        {"eventType": "skip", "weight": 0.0},
    ]
    with caplog.at_level("INFO"):
        solution = local.solution(
            group, solutionConfig={"eventsConfig": {"eventParametersList": events}}
        )
        version = local.active(local.version(solution))
    assert f"{version}: {2 * len(rows):,} interactions" in caplog.messages
    assert not [line for line in caplog.messages if "no effect locally" in line]
    items = local.recommended(version, ["u1"], numResults=500)["u1"]
    assert {item.split("-")[0] for item in items} == {"buy", "rate"}
    # Each user bought what they rated, and a purchase counts four times as much.
    assert all(item.startswith("buy") for item in items[:5])


def test_invalid_solution_options(local: Local) -> None:
    group = local.group()
    events = {"eventsConfig": {"eventParametersList": [{"eventType": "buy", "weight": 0.5}]}}
    none = {"eventsConfig": {"eventParametersList": [{"eventType": "buy", "weight": 0.0}]}}
    without = {"trainingDataConfig": {"excludedDatasetColumns": {"Interactions": ["EVENT_TYPE"]}}}
    nameless = {"eventsConfig": {"eventParametersList": [{"weight": 0.5}]}}
    invalid = local.client.exceptions.InvalidInputException
    cases: list[tuple[dict[str, Any], str]] = [
        ({"recipe": PERSONALIZATION, "solutionConfig": events}, "eventsConfig is supported with"),
        ({"eventType": "buy", "solutionConfig": events}, "not both"),
        ({"solutionConfig": {**events, "eventValueThreshold": "1"}}, "not both"),
        ({"solutionConfig": nameless}, "needs an eventType"),
        ({"solutionConfig": none}, "needs a weight above 0"),
        ({"solutionConfig": without}, "EVENT_TYPE cannot be excluded"),
        ({"performIncrementalUpdate": True}, "semantic-similarity recipe only"),
    ]
    for options, reason in cases:
        with pytest.raises(invalid, match=reason):
            local.solution(group, **options)
    solution = local.solution(group)
    with pytest.raises(invalid, match="semantic-similarity recipe only"):
        local.client.update_solution(solutionArn=solution, performIncrementalUpdate=True)
    update: Any = none
    with pytest.raises(invalid, match="needs a weight above 0"):
        local.client.update_solution(solutionArn=solution, solutionUpdateConfig=update)


def test_automatic_training_starts_soon_and_then_by_its_schedule(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_SCHEDULE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(automatic_training, "SOON_SECONDS", 0.3)
    group, dataset = local.imported(taste_rows())
    schedule: Any = {"autoTrainingConfig": {"schedulingExpression": "rate(2 days)"}}
    made = local.solution(
        group, "aws-popularity-count", performAutoTraining=True, solutionConfig=schedule
    )
    while "latestSolutionVersion" not in (solution := local.describe(made)):
        time.sleep(0.01)
    assert solution["latestSolutionVersion"]["trainingType"] == "AUTOMATIC"
    first = local.active(solution["latestSolutionVersion"]["solutionVersionArn"])
    version = local.describe(first)
    assert (version["trainingType"], version["trainingMode"]) == ("AUTOMATIC", "FULL")
    assert "name" not in version

    def versions() -> int:
        listed = local.client.list_solution_versions(solutionArn=made)
        return len(listed["solutionVersions"])

    now = time.time()

    def wait(days: float) -> None:
        monkeypatch.setattr(time, "time", lambda: now + days * 86_400)

    def add_data(job: str) -> None:
        uri = "s3://data/interactions.csv"
        local.active(local.import_job(dataset, uri, job, importMode="INCREMENTAL"))

    for days, expected in ((1.9, 1), (2.1, 1), (4.0, 1)):  # there is no new data
        wait(days)
        assert versions() == expected
    add_data("second")
    for days, expected in ((4.2, 2), (4.3, 2)):
        wait(days)
        assert versions() == expected

    def update(**change: Any) -> None:
        local.client.update_solution(solutionArn=made, **change)
        while local.describe(made)["latestSolutionUpdate"]["status"] != "ACTIVE":
            time.sleep(0.01)

    update(performAutoTraining=False)
    wait(9)
    assert versions() == 2
    add_data("third")
    daily: Any = {"autoTrainingConfig": {"schedulingExpression": "rate(1 day)"}}
    update(performAutoTraining=True, solutionUpdateConfig=daily)
    wait(9.01)  # soon after it is turned on
    assert versions() == 3


def test_an_objective_adds_its_metric(local: Local) -> None:
    group, _ = local.imported(taste_rows())
    record = json.loads(build_items_schema(created=False, categories=["GENRE"], numbers=[]))
    record["fields"].append({"name": "PRICE", "type": "float"})
    schema = local.client.create_schema(name="items", schema=json.dumps(record))["schemaArn"]
    made = local.client.create_dataset(
        name="items", schemaArn=schema, datasetGroupArn=group, datasetType="Items"
    )
    dataset = local.active(made["datasetArn"])
    rows = "".join(f"i{n},,{n + 1}\n" for n in range(40))
    local.store.put("s3://data/items.csv", f"ITEM_ID,GENRE,PRICE\n{rows}".encode())
    local.active(local.import_job(dataset, "s3://data/items.csv", "items"))
    objective: Any = {"itemAttribute": "PRICE", "objectiveSensitivity": "LOW"}
    config: Any = {"optimizationObjective": objective}
    solution = local.solution(group, PERSONALIZATION, solutionConfig=config)
    version = local.active(local.version(solution))
    metrics = local.client.get_solution_metrics(solutionVersionArn=version)["metrics"]
    assert 0 < metrics["average_rewards_at_k"] <= 1


def test_reward_shares() -> None:
    """A user's relevant items a and c earn 1 and 3; of these the list has c only."""
    ids = np.array(["a", "b", "c"], dtype=object)
    order = np.array(["c", "b", "a"], dtype=object)  # the model's
    none, never = np.empty(0, np.int32), np.empty(0, np.int64)
    data = Interactions(ids, ids, none, none, never, rewards=np.array([1.0, 9.0, 3.0]))
    truth = csr_matrix([[1.0, 0, 1.0], [0, 0, 0]])
    recommended = np.array([[0, 1, -1], [0, 1, 2]], dtype=np.int32)
    shares = reward_shares(order, data, truth, recommended)
    assert shares is not None
    assert shares.tolist() == [0.75]


def test_a_version_by_the_client_is_the_first(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_SCHEDULE_CHECK_SECONDS", 0.0)
    group, dataset = local.imported(taste_rows())
    solution = local.solution(group, "aws-popularity-count", performAutoTraining=True)
    local.active(local.version(solution))
    local.active(local.import_job(dataset, "s3://data/interactions.csv", "second"))
    now = time.time()
    for days, expected in ((0.1, 1), (6.9, 1), (7.2, 2)):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * 86_400)
        listed = local.client.list_solution_versions(solutionArn=solution)
        assert len(listed["solutionVersions"]) == expected


def test_a_dataset_is_updating_while_its_schema_is_replaced(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, schemas = local.client, {}
    for name, numbers in (("old", []), ("new", ["YEAR"])):
        text = build_items_schema(created=False, categories=["GENRE"], numbers=numbers)
        schemas[name] = client.create_schema(name=name, schema=text)["schemaArn"]
    made = client.create_dataset(
        name="items", schemaArn=schemas["old"], datasetGroupArn=local.group(), datasetType="Items"
    )
    dataset = local.active(made["datasetArn"])
    seen: list[str | None] = []
    save = CatalogTransaction.save

    def record(transaction: CatalogTransaction, resource: Resource) -> None:
        if resource.arn == dataset:  # a training of the test before may still end
            seen.append(resource.status)
        save(transaction, resource)

    monkeypatch.setattr(CatalogTransaction, "save", record)
    client.update_dataset(datasetArn=dataset, schemaArn=schemas["new"])
    local.wait(dataset)
    assert seen == ["UPDATE PENDING", "UPDATE IN_PROGRESS", "ACTIVE"]
    assert local.describe(dataset)["latestDatasetUpdate"]["status"] == "ACTIVE"
