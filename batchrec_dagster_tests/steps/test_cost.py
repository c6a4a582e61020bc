"""What a run is estimated to cost, what it came to, and a budget that refuses to start."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.personalize.prices import (
    TRAINING_HOURS,
    Prices,
    estimate_training_hours,
    summarize_costs,
)
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    interactions,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import DECLARATION
from batchrec_dagster_tests.guard.servers.teardown import tear_down

pytestmark = pytest.mark.slow

PRICES = Prices()
ASSETS = ("personalize_dataset", "solution_version", "recommendations")


def approximate(usd: float) -> Any:
    """Metadata are rounded."""
    return pytest.approx(usd, rel=1e-3, abs=5e-4)


@pytest.fixture
def on_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded Personalize costs what AWS's does."""
    monkeypatch.setattr(PersonalizeResource, "on_aws", property(lambda self: True))


@pytest.fixture
def attributes(project: Project) -> dict[str, object]:
    return declaration("shop", write_ratings(project.root / "ratings.csv"))


def test_each_kind_of_work_costs_by_its_own_measure() -> None:
    assert PRICES.price_import("items", 2_000_000_000).usd == pytest.approx(
        2 * PRICES.import_per_gb
    )
    price_by_hour = PRICES.price_training("aws-user-personalization", 1.5, 10**6)
    assert price_by_hour.usd == pytest.approx(1.5 * PRICES.training_per_hour)
    price_by_rows = PRICES.price_training("aws-user-personalization-v2", 1.5, 10**6)
    assert price_by_rows.usd == pytest.approx(1000 * PRICES.training_v2_per_1000_interactions)
    v1, v2 = (
        PRICES.price_recommendations(recipe, 3000).usd
        for recipe in ("aws-user-personalization", "aws-user-personalization-v2")
    )
    assert v1 == pytest.approx(3 * PRICES.recommendations_per_1000_users)
    assert v2 == pytest.approx(3 * PRICES.recommendations_v2_per_1000_users)
    # The price is for all users, for each segment.
    segments = PRICES.price_segments(2, 3000)
    assert segments.usd == pytest.approx(6 * PRICES.segments_per_1000_users)


def test_the_hours_that_aws_published_are_about_the_estimate() -> None:
    for rows, published_hours in ((100_000, 2.135), (25_000_000, 53.9)):
        assert estimate_training_hours(rows) == pytest.approx(published_hours, rel=0.1)
    assert estimate_training_hours(100_000, last_hours=9.0) == 9
    assert estimate_training_hours(100_000, last_hours=0.5) == estimate_training_hours(100_000)


def test_a_sum_names_its_parts() -> None:
    v2 = "aws-user-personalization-v2"
    costs = [PRICES.price_import("interactions", 10**7), PRICES.price_training(v2, 0, 10**6)]
    costs += [PRICES.price_recommendations(v2, 1000), PRICES.price_segments(2, 100_000)]
    costs.append(PRICES.price_training("aws-user-personalization", 4.0, 10**6))
    assert summarize_costs(costs) == (
        "about 6.31 USD: importing 10.00 MB of interactions 0.00, training"
        " aws-user-personalization-v2 on 1,000,000 interactions 2.00, recommending to 1,000 users"
        " 0.15, 2 segments of 100,000 users 3.20, training aws-user-personalization for 4.00 hours"
        " 0.96"
    )


def test_the_embedded_personalize_costs_nothing_and_tells_what_it_would_on_aws(
    project: Project, attributes: dict[str, object], instance: dg.DagsterInstance
) -> None:
    # Nothing has to be paid, so no budget is too small.
    project.declare({**attributes, "budget": {"max_usd_per_run": 0.0001}})
    first = refresh(project, "shop", instance)
    (check,) = (e for e in first.get_asset_check_evaluations() if e.check_name == "within_budget")
    assert check.asset_key.path[-1] == "personalize_dataset"
    assert check.passed
    assert check.description is not None
    assert check.description.startswith("nothing locally; on AWS about 0.01 USD")
    metadata_by_asset = {asset: metadata(first, asset) for asset in ASSETS}
    assert [metadata_by_asset[asset]["cost_usd"] for asset in ASSETS] == [0.0] * 3
    on_aws = {asset: metadata_by_asset[asset]["cost_usd_on_aws"] for asset in ASSETS}
    rows = interactions(project, "shop").height
    size = (project.storage / "shop/transformed/interactions/interactions.csv").stat().st_size
    assert on_aws == {
        "personalize_dataset": approximate(PRICES.import_per_gb * size / 1e9),
        "solution_version": approximate(PRICES.training_v2_per_1000_interactions * rows / 1000),
        "recommendations": approximate(PRICES.recommendations_v2_per_1000_users * 60 / 1000),
    }
    dataset_metadata = metadata_by_asset["personalize_dataset"]
    assert dataset_metadata["estimated_usd"] == 0.0
    assert dataset_metadata["estimated_usd_on_aws"] == approximate(sum(on_aws.values()))

    second_result = refresh(project, "shop", instance)
    assert [metadata(second_result, asset)["cost_usd_on_aws"] for asset in ASSETS] == [0.0] * 3
    # This is an upper bound, because only their own step checks whether the lists exist already.
    assert metadata(second_result, "personalize_dataset")["estimated_usd_on_aws"] == approximate(
        on_aws["recommendations"]
    )


def test_the_estimate_of_a_training_is_an_upper_bound(
    project: Project,
    attributes: dict[str, object],
    instance: dg.DagsterInstance,
    on_aws: None,
) -> None:
    solution = {"recipe": "aws-user-personalization"}
    project.declare({**attributes, "solution": solution})
    first = refresh(project, "shop", instance)
    hours = metadata(first, "solution_version")["training_hours"]
    assert 0 < hours < TRAINING_HOURS
    cost = metadata(first, "solution_version")["cost_usd"]
    assert cost == approximate(hours * PRICES.training_per_hour)
    write_ratings(project.root / "ratings.csv", seed=1)
    second = metadata(refresh(project, "shop", instance), "personalize_dataset")
    lists = PRICES.price_recommendations("aws-user-personalization", 60).usd
    # This is an upper bound, because the last training may have been a short one.
    rows = interactions(project, "shop").height
    training = estimate_training_hours(rows) * PRICES.training_per_hour
    assert second["estimated_usd"] == approximate(training + lists + second["cost_usd"])
    # A training that took longer may do so again.
    record = project.storage / "shop/records/solution_version.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "training_hours": 9.0}))
    write_ratings(project.root / "ratings.csv", seed=2)
    third = metadata(refresh(project, "shop", instance), "personalize_dataset")
    training = 9 * PRICES.training_per_hour
    assert third["estimated_usd"] == approximate(training + lists + third["cost_usd"])


@pytest.mark.usefixtures("first_run_of_shop")
def test_what_was_torn_down_is_made_and_paid_for_again(
    project: Project,
    instance: dg.DagsterInstance,
    on_aws: None,
) -> None:
    assert tear_down(project, "shop", instance).exit_code == 0
    project.declare({**DECLARATION, "budget": {"max_usd_per_run": 0.01}})
    # The records of deleted resources are still in the storage, and a refused run keeps them.
    for _ in range(2):
        message = why(refresh(project, "shop", instance))
        assert " MB of interactions" in message
        assert "training aws-user-personalization-v2 on" in message
    project.declare({**DECLARATION, "budget": {"max_usd_per_run": 1}})
    assert refresh(project, "shop", instance).success


def test_a_job_that_would_be_too_large_is_refused(
    project: Project,
    attributes: dict[str, object],
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batchrec_dagster.preparation.users.MAX_INPUT_BYTES", 100)
    project.declare(attributes)
    message = why(refresh(project, "shop", instance))
    assert "60 users are 0.00 GB of input" in message
    assert "batch_users.active_since" in message
