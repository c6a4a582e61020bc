"""The budget of a run, which is checked before its import, and what retries and nights pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
from botocore.client import BaseClient

from batchrec_dagster.personalize.api import (
    BATCH_INFERENCE_JOB,
    IMPORT_JOB,
    SOLUTION_VERSION,
    ResourceKind,
)
from batchrec_dagster.personalize.resources import Ensure
from batchrec_dagster.personalize.waiting import StartedResource
from batchrec_dagster.pipeline.assets import lists, training
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.reporting.insight.nights import ListedNight, list_nights
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster_tests.guard.builders import Project, definitions, refresh, why
from batchrec_dagster_tests.guard.first_run import DECLARATION

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first_run_of_shop")]

V2 = {"recipe": "aws-user-personalization-v2"}
FORCED_TRAINING: dict[str, object] = {"force_train": True}

TOO_LITTLE, ENOUGH = 1e-7, 1.0
ROOT_RUN = "11111111"


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
    for module in (training, lists):
        monkeypatch.setattr(module, "find_root_run", lambda context: run)


def list_shop_nights(shop: Shop) -> list[ListedNight]:
    storage = Storage(root=str(shop.project.storage), s3=S3Connection())
    return list_nights(ListFiles(storage, ListKeys("shop")))


def test_a_retry_finds_what_the_run_started_before_it_was_killed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = Ensure.wait_until_all_ready

    def killed(ensure: Ensure, kind: ResourceKind, started: Sequence[StartedResource]) -> Any:
        if kind is SOLUTION_VERSION:
            raise RuntimeError("killed")
        return wait(ensure, kind, started)

    as_one_run(monkeypatch, ROOT_RUN)
    shop.declare()
    monkeypatch.setattr(Ensure, "wait_until_all_ready", killed)
    assert not shop.run("solution_version", **FORCED_TRAINING).success
    assert shop.take_created() == ["SolutionVersion"]
    monkeypatch.setattr(Ensure, "wait_until_all_ready", wait)
    assert shop.run("solution_version", **FORCED_TRAINING).success
    assert shop.take_created() == []


# The project of `build_refresh_job`: Dagster rebuilds a job with a function without parameters.
projects: list[Project] = []


def build_refresh_job() -> dg.JobDefinition:
    with definitions(projects[0]) as defs:
        return defs.resolve_job_def("shop_refresh")


def test_a_re_execution_from_dagster_trains_once_and_its_night_has_the_cost_of_both(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.projects", [shop.project])
    job = dg.reconstructable(build_refresh_job)
    config = {"ops": {"shop__solution_version": {"config": FORCED_TRAINING}}}
    selection = [dg.AssetKey(["shop", name]) for name in ("solution_version", "recommendations")]
    start = Ensure.start

    def fail(ensure: Ensure, kind: ResourceKind, *arguments: Any, **options: Any) -> Any:
        if kind is BATCH_INFERENCE_JOB:
            raise RuntimeError("the network is down")
        return start(ensure, kind, *arguments, **options)

    monkeypatch.setattr(Ensure, "start", fail)
    shop.declare(solution=V2)
    with dg.execute_job(
        job, shop.instance, run_config=config, asset_selection=selection, raise_on_error=False
    ) as first:
        assert not first.success
    assert shop.take_created() == ["SolutionVersion"]
    monkeypatch.setattr(Ensure, "start", start)
    options = dg.ReexecutionOptions.from_failure(first.run_id, shop.instance)
    with dg.execute_job(
        job, shop.instance, reexecution_options=options, raise_on_error=False
    ) as second:
        assert second.success
    assert shop.take_created() == ["BatchInferenceJob"]
    # The lists alone cost 0.009 USD, and the training before 0.003.
    *_, night = list_shop_nights(shop)
    assert night.cost_usd == pytest.approx(0.012, abs=5e-4)


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize(
    ("asset", "kind", "config"),
    [
        ("personalize_dataset", IMPORT_JOB, {"force_import": True}),
        ("solution_version", SOLUTION_VERSION, FORCED_TRAINING),
        ("recommendations", BATCH_INFERENCE_JOB, {}),
    ],
)
def test_a_failed_job_is_started_once_more_in_the_same_run(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    asset: str,
    kind: ResourceKind,
    config: dict[str, object],
    failures: int,
) -> None:
    describe, failed = Ensure.describe, dict[str, Any]()
    create = Ensure._create

    def create_failing(ensure: Ensure, kind_: ResourceKind, *arguments: Any) -> Any:
        answer = create(ensure, kind_, *arguments)
        if kind_ is kind and len(failed) < failures:
            failed[str(answer[0])] = {"status": "CREATE FAILED", "failureReason": "a hiccup"}
        return answer

    def describe_failed(ensure: Ensure, kind_: ResourceKind, arn: str) -> Any:
        return {**describe(ensure, kind_, arn), **failed.get(arn, {})}

    list_all = Ensure.list

    def list_failed(ensure: Ensure, kind_: ResourceKind, **within: str) -> Any:
        summaries = list_all(ensure, kind_, **within)
        return [{**each, **failed.get(each.get(kind_.arn, ""), {})} for each in summaries]

    monkeypatch.setattr(Ensure, "_create", create_failing)
    monkeypatch.setattr(Ensure, "describe", describe_failed)
    monkeypatch.setattr(Ensure, "list", list_failed)
    shop.declare(solution=V2, recommendations={"num_results": 3})
    result = shop.run(asset, **config)
    assert result.success is (failures == 1)
    assert len(shop.take_created()) == 2
    if failures == 2:
        assert "failed: a hiccup" in why(result)
