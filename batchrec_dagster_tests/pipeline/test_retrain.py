"""solution.retrain: between trainings, new data get lists by the last model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.pipeline import personalize_resource
from batchrec_dagster.pipeline.declaration_errors import DeclarationError
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.steps import training
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import FirstRun

pytestmark = pytest.mark.slow

TRAINED = "trained"
UNCHANGED = "unchanged: not trained again"
INFERRED = "inferred"
LISTED = "unchanged: not inferred again"
KEPT = "kept"
# All but the report, which takes a quarter of a run.
ASSETS = (
    *("raw_ratings", "interactions", "batch_users"),
    *("personalize_dataset", "solution_version", "recommendations"),
)


@dataclass
class Shop:
    """A pipeline that is refreshed night by night, on a clock that the tests move."""

    project: Project
    instance: dg.DagsterInstance
    patch: pytest.MonkeyPatch

    def declare(self, **settings: Any) -> None:
        solution = {"retrain": {"every_days": 7}, **settings.pop("solution", {})}
        source = self.project.root / "ratings.csv"
        self.project.declare(declaration("shop", source, solution=solution, **settings))

    def rate(self, **settings: int) -> None:
        write_ratings(self.project.root / "ratings.csv", **settings)

    def set_clock(self, **time: float) -> None:
        clock = datetime.now(UTC) + timedelta(**time)
        self.patch.setattr(training, "now", lambda: clock)

    def run(
        self, config: dict[str, Any] | None = None, assets: Sequence[str] | None = ASSETS
    ) -> dg.ExecuteInProcessResult:
        return refresh(self.project, "shop", self.instance, config, assets, report=True)

    def night(
        self, config: dict[str, Any] | None = None, assets: Sequence[str] | None = ASSETS
    ) -> tuple[str, str]:
        """What the run did about the model, and about the lists. assets: None for all."""
        self.result = self.run(config, assets)
        assert self.result.success, why(self.result)
        trained = str(metadata(self.result, "solution_version")["outcome"])
        lists = str(metadata(self.result, "recommendations")["outcome"])
        return trained.partition(":")[0] if trained.startswith(KEPT) else trained, lists

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.record_file.read_text())
        return record

    @property
    def record_file(self) -> Any:
        return self.project.storage / "shop/records/solution_version.json"

    def versions(self) -> int:
        client = embedded_client(self.project.root / ".batchrec" / "personalize", ObjectStore())
        return len(client.list_solution_versions()["solutionVersions"])


@pytest.fixture
def shop(
    first_run: FirstRun,
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    """It has run once."""
    first_run.copy_to(project, instance)
    shop = Shop(project, instance, monkeypatch)
    shop.declare()
    return shop


def test_exploration_is_requested_for_the_recipe_that_has_it_and_is_off_by_default(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(project, instance, monkeypatch)
    shop.rate()
    v1 = {"recipe": "aws-user-personalization"}

    def config() -> Any:
        assert shop.night()[1] == INFERRED
        client = embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())
        arn = metadata(shop.result, "recommendations")["batch_inference_job_arn"]
        job = client.describe_batch_inference_job(batchInferenceJobArn=arn)["batchInferenceJob"]
        return job.get("batchInferenceJobConfig")

    shop.declare(solution=v1)
    assert config() == {"itemExplorationConfig": {"explorationWeight": "0"}}
    shop.declare(solution=v1, recommendations={"exploration_weight": 0.25})
    assert config() == {"itemExplorationConfig": {"explorationWeight": "0.25"}}
    v2 = {"recipe": "aws-user-personalization-v2"}
    shop.declare(solution=v2, gate={"max_drop": 1})
    assert not config()
    for weight, reason in (
        (0.25, "is for aws-user-personalization only"),
        (2, "write a number from 0 to 1"),
    ):
        shop.declare(solution=v2, recommendations={"exploration_weight": weight})
        with pytest.raises(DeclarationError, match=reason), definitions(project):
            pass


def test_versions_without_names_are_known_by_tags_and_those_of_somebody_else_do_not_count(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_names(*args: Any, **options: Any) -> Any:
        """A Personalize that leaves out what answers need not have, and measures nothing."""
        client = embedded_client(*args, **options)
        events, after = client.meta.events, "after-call.personalize."

        def forget_name(parsed: dict[str, Any], **_: Any) -> None:
            parsed.get("solutionVersion", {}).pop("name", None)

        def forget_metrics(parsed: dict[str, Any], **_: Any) -> None:
            parsed["metrics"] = dict.fromkeys(parsed["metrics"], math.nan)

        events.register(f"{after}DescribeSolutionVersion", forget_name)
        events.register(f"{after}GetSolutionMetrics", forget_metrics)
        return client

    monkeypatch.setattr(personalize_resource, "embedded_client", without_names)
    shop = Shop(project, instance, monkeypatch)
    shop.rate()
    shop.declare(solution={"recipe": "aws-user-personalization"})
    assert shop.night(assets=None) == (TRAINED, INFERRED)
    assert shop.record["metrics"] == {}
    ours = shop.record["solution_version_arn"]
    client = embedded_client(shop.project.root / ".batchrec" / "personalize", ObjectStore())
    theirs = client.create_solution_version(solutionArn=ours.rpartition("/")[0])
    description = client.describe_solution_version(solutionVersionArn=theirs["solutionVersionArn"])
    assert "name" not in description["solutionVersion"]
    assert shop.night() == (UNCHANGED, LISTED)
    shop.rate(users=61)
    assert shop.night() == (KEPT, INFERRED)
    assert shop.record["solution_version_arn"] == ours


def test_a_run_that_was_killed_after_the_training_trains_nothing_twice(shop: Shop) -> None:
    before = shop.record_file.read_text()
    shop.rate(users=61)
    shop.set_clock(days=8)
    assert shop.night() == (TRAINED, INFERRED)
    shop.set_clock(days=0)
    # As if it had been killed before it wrote its record: started again, on the same data ...
    shop.record_file.write_text(before)
    assert shop.night() == (UNCHANGED, LISTED)
    # ... and on other ones.
    trained_on = shop.record["made_of"]["data"]
    shop.record_file.write_text(before)
    shop.rate(users=62)
    assert shop.night() == (KEPT, INFERRED)
    assert shop.record["made_of"]["data"] == trained_on
    assert shop.versions() == 2


def test_no_training_is_estimated_where_none_will_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PersonalizeResource, "on_aws", property(lambda self: True))
    shop.declare(budget={"max_usd_per_run": 0.01})
    shop.rate(users=61)
    assert shop.night() == (KEPT, INFERRED)
    assert metadata(shop.result, "solution_version")["cost_usd"] == 0
    estimated = metadata(shop.result, "personalize_dataset")["estimated_usd"]
    paid = [
        metadata(shop.result, asset)["cost_usd"]
        for asset in ("personalize_dataset", "recommendations")
    ]
    assert estimated == pytest.approx(sum(paid), rel=1e-3)  # each is rounded
    shop.rate(users=62)
    shop.set_clock(days=8)
    refusal = why(shop.run())
    assert "training aws-user-personalization-v2 on" in refusal


def test_the_report_says_when_the_model_is_older_than_the_data(shop: Shop) -> None:
    report = shop.project.storage / "shop/curated/report/index.html"
    sentence = re.compile(r"The model was trained on 20\d\d-\d\d-\d\d, on earlier data")
    assert not sentence.search(report.read_text())
    shop.rate(users=61)
    shop.night(assets=None)
    assert sentence.search(report.read_text())


def test_segments_follow_it_too(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(project, instance, monkeypatch)
    shop.rate()
    shop.declare(segments={"items": ["1"]})
    shop.night(assets=None)
    shop.rate(users=61)
    shop.night(assets=None)
    assert str(metadata(shop.result, "segment_solution_version")["outcome"]).startswith(KEPT)
    assert metadata(shop.result, "user_segments")["outcome"].startswith("unchanged")
