"""Trainings on chosen events, and what a solution may ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchrec_dagster.config.solution import Solution
from batchrec_dagster.personalize.recipes import EVENT_VALUE_THRESHOLD
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster.steps.batch_jobs import build_solution_config
from batchrec_dagster_tests.guard.servers.personalize import Local, build_taste_rows

pytestmark = pytest.mark.slow

PERSONALIZATION = "aws-user-personalization"


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
    threshold = {EVENT_VALUE_THRESHOLD: "0.5"}
    solutions = [
        local.create_solution(
            group, recipe, name=recipe, solutionConfig=build_solution_config(values)
        )
        for recipe, values in (settings.training, ("aws-user-personalization", threshold))
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
    invalid = local.client.exceptions.InvalidInputException
    cases: list[tuple[dict[str, Any], str]] = [
        ({"recipe": PERSONALIZATION, "solutionConfig": events}, "has no eventsConfig"),
        ({"solutionConfig": zero_weight}, "needs a weight above 0"),
    ]
    for options, reason in cases:
        with pytest.raises(invalid, match=reason):
            local.create_solution(group, **options)


def test_only_full_trainings_are_offered(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group)
    for mode in ("UPDATE", "AUTOTRAIN"):
        with pytest.raises(local.client.exceptions.InvalidInputException, match=f"mode {mode} is"):
            local.create_version(solution, trainingMode=mode)
