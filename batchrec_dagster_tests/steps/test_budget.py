"""The budget of a run: each step that costs money checks it before it starts anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
import yaml
from botocore.client import BaseClient

from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.personalize.ensure import Ensure, StartedResource
from batchrec_dagster.personalize.price_file import SHIPPED_PRICES
from batchrec_dagster.personalize.resource_kinds import (
    BATCH_INFERENCE_JOB,
    SOLUTION_VERSION,
    ResourceKind,
)
from batchrec_dagster.pipeline.assets import (
    published_lists,
    training,
    user_segments,
)
from batchrec_dagster.reporting.nights import list_nights
from batchrec_dagster.steps import spending
from batchrec_dagster.steps.spending import read_run_costs
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.first_run import DECLARATION
from batchrec_dagster_tests.pipeline.test_rejected_outputs import break_next_outputs, repeat_item
from batchrec_dagster_tests.support import Project, definitions, metadata, refresh, why

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first_run_of_shop")]

# Without a second training to compare with, which would be charged by the hour.
V2 = {"recipe": "aws-user-personalization-v2", "compare_with_popularity": False}
SEGMENTS = {"items": ["1", "2", "3"], "users_per_segment": 10}
FORCED_TRAINING: dict[str, object] = {"force_train": True}

TOO_LITTLE, ENOUGH = 1e-7, 1.0
FIRST_RUN, SECOND_RUN = "11111111", "22222222"


@dataclass
class Shop:
    """A pipeline whose Personalize costs what AWS's does, and what its runs create."""

    project: Project
    instance: dg.DagsterInstance
    created: list[str] = field(default_factory=list)
    """The Create operations since the last look."""

    def declare(self, max_usd: float | None = None, **attributes: Any) -> None:
        budget = {"max_usd_per_run": max_usd} if max_usd else {}
        self.project.declare({**DECLARATION, "budget": budget, **attributes})

    def run(self, asset: str | None = None, **config: object) -> dg.ExecuteInProcessResult:
        """A run of this asset alone, or of all.

        config: that of the asset.
        """
        run_config = {"ops": {f"shop__{asset}": {"config": config}}} if config else None
        return refresh(self.project, "shop", self.instance, run_config, [asset] if asset else None)

    def take_created(self) -> list[str]:
        """What was created since the last call."""
        created, self.created = self.created, []
        return created

    def read_spending(self, asset: str) -> dict[str, Any]:
        file = self.project.storage / f"shop/records/spending/{asset}.json"
        record: dict[str, Any] = json.loads(file.read_text())
        return record


@pytest.fixture
def shop(project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(project, instance)
    call = BaseClient._make_api_call  # type: ignore[attr-defined]

    def count(client: BaseClient, operation: str, arguments: Mapping[str, Any]) -> Any:
        answer = call(client, operation, arguments)
        if operation.startswith("Create"):
            shop.created.append(operation.removeprefix("Create"))
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", count)
    monkeypatch.setattr(PersonalizeResource, "on_aws", property(lambda self: True))
    return shop


def as_one_run(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    """From now on each run is a retry of the run of this id."""
    for module in (training, published_lists, user_segments):
        monkeypatch.setattr(module, "find_root_run", lambda context: run)


PAYING_ASSETS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "recommendations",
    "user_segments",
)


def budget_checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Whether the budget's check passed, by asset."""
    return {
        check.asset_key.path[-1]: check.passed
        for check in result.get_asset_check_evaluations()
        if check.check_name == "within_budget"
    }


# For each paying step: its config and the attributes that make it pay, and what it creates.
PAYMENTS: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "personalize_dataset": ({"force_import": True}, {}, "DatasetImportJob"),
    "solution_version": (FORCED_TRAINING, {}, "SolutionVersion"),
    "segment_solution_version": (FORCED_TRAINING, {}, "SolutionVersion"),
    "recommendations": ({}, {"recommendations": {"num_results": 3}}, "BatchInferenceJob"),
    "user_segments": ({}, {"segments": {"items": ["4"]}}, "BatchSegmentJob"),
}


def test_each_paying_step_alone_is_refused_above_the_budget_and_starts_nothing(
    shop: Shop,
) -> None:
    assert tuple(PAYMENTS) == PAYING_ASSETS
    declared: dict[str, Any] = {"solution": V2, "segments": SEGMENTS}
    shop.declare(**declared)
    assert shop.run().success
    shop.take_created()

    for asset, (config, attributes, created) in PAYMENTS.items():
        shop.declare(TOO_LITTLE, **{**declared, **attributes})
        refused = shop.run(asset, **config)
        assert not refused.success, asset
        assert budget_checks(refused) == {asset: False}
        assert shop.take_created() == []
        message = why(refused)
        assert message.startswith("within_budget: ")
        assert "Nothing was started: raise budget.max_usd_per_run" in message

        shop.declare(ENOUGH, **{**declared, **attributes})
        allowed = shop.run(asset, **config)
        assert budget_checks(allowed) == {asset: True}
        assert created in shop.take_created()
        assert metadata(allowed, asset)["cost_usd"] > 0


def test_what_exists_already_needs_no_budget(shop: Shop) -> None:
    declared: dict[str, Any] = {"solution": V2, "segments": SEGMENTS}
    shop.declare(**declared)
    assert shop.run().success
    shop.take_created()
    shop.declare(TOO_LITTLE, **declared)
    for asset in (
        "solution_version",
        "segment_solution_version",
        "recommendations",
        "user_segments",
    ):
        result = shop.run(asset)
        (check,) = (
            check
            for check in result.get_asset_check_evaluations()
            if check.check_name == "within_budget"
        )
        assert check.passed
        assert check.description == "nothing to pay: all that is needed exists already"
    assert shop.take_created() == []
    # Without a budget no asset has the check.
    shop.declare(**declared)
    assert budget_checks(shop.run()) == {}


def test_a_night_costs_what_all_steps_of_its_run_paid(shop: Shop) -> None:
    shop.declare(solution=V2, segments=SEGMENTS)
    run = shop.run()
    assert run.success
    # The steps of the segments may pay after the publication.
    paid_by_steps = [
        (values["cost_usd"] + values["cost_usd_on_aws_from"]) / 2
        for values in (metadata(run, asset) for asset in PAYING_ASSETS)
    ]
    storage = StorageResource(root=str(shop.project.storage), s3=S3Connection())
    files = PipelineFiles(storage, StorageKeys("shop"))
    # The first run was a local one.
    local_night, night = list_nights(files, read_run_costs(files))
    assert local_night.cost_usd == 0.0
    assert night.cost_usd == pytest.approx(sum(paid_by_steps), rel=1e-3)
    # A run that has nothing to do pays nothing.
    assert shop.run().success
    *_, unchanged = list_nights(files, read_run_costs(files))
    assert (unchanged.status, unchanged.cost_usd) == ("unchanged", 0.0)


def test_a_retry_counts_what_the_run_paid_before_it_was_killed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison's training is estimated at 0.24 USD, the middle of 0 to 2 hours."""
    wait = Ensure.wait_until_all_ready

    def killed(ensure: Ensure, kind: ResourceKind, started: Sequence[StartedResource]) -> Any:
        if kind is SOLUTION_VERSION:
            raise RuntimeError("killed")
        return wait(ensure, kind, started)

    as_one_run(monkeypatch, FIRST_RUN)
    shop.declare(0.3)
    monkeypatch.setattr(Ensure, "wait_until_all_ready", killed)
    assert not shop.run("solution_version", **FORCED_TRAINING).success
    monkeypatch.setattr(Ensure, "wait_until_all_ready", wait)
    assert shop.take_created() == ["SolutionVersion"] * 2

    more = {"recommendations": {"num_results": 3}}
    shop.declare(0.245, **more)
    message = why(shop.run("recommendations"))
    assert "; this run has already paid 0.00 to 0.48 USD; the middle of the sum is 0.25" in message
    assert shop.take_created() == []
    # What the retry finds is not paid again, and what it took is known then.
    assert shop.run("solution_version", **FORCED_TRAINING).success
    assert shop.take_created() == []
    # Another run pays for itself alone.
    as_one_run(monkeypatch, SECOND_RUN)
    assert shop.run("recommendations").success
    assert shop.take_created() == ["BatchInferenceJob"]


def test_a_run_whose_import_used_the_budget_stops_before_it_trains(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gigabyte costs so much that the import of 0.04 MB takes most of the budget."""
    prices = yaml.safe_load(SHIPPED_PRICES.read_text())
    default = prices["regions"]["us-east-1"]
    default["import_per_gb"]["usd"] = 10_000
    default["training_v2_per_1000_interactions"]["usd"] = 0.125
    prices["as_of"] = "2026-12-24"
    file = shop.project.root / "prices.yaml"
    file.write_text(yaml.safe_dump(prices, default_flow_style=False))
    shop.project.environment["BATCHREC_PRICES"] = str(file)
    as_one_run(monkeypatch, FIRST_RUN)
    shop.declare(0.5, solution=V2)
    assert shop.run("personalize_dataset", force_import=True).success
    assert shop.take_created() == ["DatasetImportJob"]
    # The training alone, 0.20 USD, is within the budget.
    refused = shop.run("solution_version", **FORCED_TRAINING)
    assert budget_checks(refused) == {"solution_version": False}
    assert re.match(
        r"within_budget: at most 0\.20 USD, at the prices of 2026-12-24 in us-east-1: training"
        r" aws-user-personalization-v2 on 1,598 interactions 0\.20; this run has already paid"
        r" 0\.\d\d USD; the middle of the sum is 0\.\d\d USD; budget\.max_usd_per_run allows 0\.50",
        why(refused),
    )
    assert shop.take_created() == []
    as_one_run(monkeypatch, SECOND_RUN)
    assert shop.run("solution_version", **FORCED_TRAINING).success
    assert shop.take_created() == ["SolutionVersion"]


# The project of `build_refresh_job`: Dagster rebuilds a job with a function without parameters.
projects: list[Project] = []


def build_refresh_job() -> dg.JobDefinition:
    with definitions(projects[0]) as defs:
        return defs.resolve_job_def("shop_refresh")


def test_a_re_execution_from_dagster_counts_what_the_root_run_paid(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.projects", [shop.project])
    job = dg.reconstructable(build_refresh_job)
    config = {"ops": {"shop__solution_version": {"config": FORCED_TRAINING}}}
    selection = [dg.AssetKey(["shop", name]) for name in ("solution_version", "recommendations")]
    start = Ensure.start_numbered

    def fail(ensure: Ensure, kind: ResourceKind, *arguments: Any, **options: Any) -> Any:
        if kind is BATCH_INFERENCE_JOB:
            raise RuntimeError("the network is down")
        return start(ensure, kind, *arguments, **options)

    monkeypatch.setattr(Ensure, "start_numbered", fail)
    shop.declare(ENOUGH, solution=V2)
    with dg.execute_job(
        job, shop.instance, run_config=config, asset_selection=selection, raise_on_error=False
    ) as first:
        assert not first.success
    assert shop.take_created() == ["SolutionVersion"]
    monkeypatch.setattr(Ensure, "start_numbered", start)
    # The lists alone cost 0.009 USD, and the training before 0.003.
    options = dg.ReexecutionOptions.from_failure(first.run_id, shop.instance)
    shop.declare(0.0115, solution=V2)
    with dg.execute_job(
        job, shop.instance, reexecution_options=options, raise_on_error=False
    ) as second:
        assert not second.success
    assert shop.take_created() == []
    shop.declare(0.0125, solution=V2)
    with dg.execute_job(
        job, shop.instance, reexecution_options=options, raise_on_error=False
    ) as third:
        assert third.success
    assert shop.take_created() == ["BatchInferenceJob"]
    assert list(shop.read_spending("recommendations")) == [first.run_id]


def test_a_creation_that_personalize_refused_is_not_counted_twice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Ensure.start_numbered

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("too many")

    as_one_run(monkeypatch, FIRST_RUN)
    shop.declare(0.3)
    monkeypatch.setattr(Ensure, "start_numbered", refuse)
    assert not shop.run("solution_version", **FORCED_TRAINING).success
    reserved = shop.read_spending("solution_version")[FIRST_RUN]["reserved"]
    assert set(reserved) == {"aws-user-personalization-v2", "aws-popularity-count"}
    # Another step of the run has to take it for paid.
    shop.declare(0.245, recommendations={"num_results": 3})
    assert "this run has already paid" in why(shop.run("recommendations"))
    monkeypatch.setattr(Ensure, "start_numbered", start)
    shop.declare(0.3)
    assert shop.run("solution_version", **FORCED_TRAINING).success
    entry = shop.read_spending("solution_version")[FIRST_RUN]
    assert entry["reserved"] == {}
    assert len(entry["started"]) == 2


def test_a_job_in_place_of_a_rejected_output_is_within_the_budget_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job costs 0.009 USD."""
    break_next_outputs(monkeypatch, shop.project, [repeat_item, repeat_item])
    shop.declare(0.017, recommendations={"num_results": 3})
    refused = shop.run("recommendations")
    message = why(refused)
    assert message.startswith("no_duplicates: ")
    assert "\nwithin_budget: " in message
    assert "this run has already paid 0.01 USD; the middle of the sum is 0.02" in message
    assert shop.take_created() == ["BatchInferenceJob"]
    shop.declare(0.019, recommendations={"num_results": 4})
    assert shop.run("recommendations").success
    assert shop.take_created() == ["BatchInferenceJob"] * 2


def test_the_last_runs_are_remembered(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "RUNS_REMEMBERED", 2)
    for run, results in (("first", 3), ("second", 4), ("third", 5)):
        as_one_run(monkeypatch, run)
        shop.declare(ENOUGH, recommendations={"num_results": results})
        assert shop.run("recommendations").success
    assert list(shop.read_spending("recommendations")) == ["second", "third"]


def test_a_local_run_records_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PersonalizeResource, "on_aws", property(lambda self: False))
    shop.declare(TOO_LITTLE, recommendations={"num_results": 3})
    result = shop.run()
    assert budget_checks(result) == dict.fromkeys(
        ("personalize_dataset", "solution_version", "recommendations"), True
    )
    assert not (shop.project.storage / "shop/records/spending").exists()
