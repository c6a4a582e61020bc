"""Tests of a run's budget: work above it is not started, and a night's cost is the paid sum."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    checks,
    count_created,
    declaration,
    metadata,
    module_project,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.personalize import FailingResources
from batchrec_dagster_tests.guard.faults.worst_aws import misbehaving_clients, repeated_request
from batchrec_dagster_tests.guard.first_run import DECLARATION, FirstRun
from batchrec_dagster_tests.guard.seams.runs import paid_personalize

pytestmark = pytest.mark.slow

V2 = {"recipe": "aws-user-personalization-v2"}
TOO_LITTLE, ENOUGH = 1e-7, 1.0


@dataclass
class Shop:
    """A pipeline that has run once, with a Personalize that costs as much as AWS's."""

    project: Project
    instance: dg.DagsterInstance
    created_before: Counter[str] = field(default_factory=Counter)

    def run(
        self, max_usd: float | None = None, *assets: str, **options: bool
    ) -> dg.ExecuteInProcessResult:
        """Refresh the pipeline. options: the switches of the Launchpad."""
        budget = {"max_usd_per_run": max_usd} if max_usd else {}
        self.project.declare({**DECLARATION, "budget": budget, "solution": V2})
        with paid_personalize():
            return refresh(self.project, "shop", self.instance, options, assets)

    def take_created(self) -> dict[str, int]:
        """Return the numbers of imports, models and jobs created since the last call."""
        created = count_created(self.project)
        since, self.created_before = created - self.created_before, created
        return dict(since)

    def read_nights(self) -> list[dict[str, Any]]:
        """Return the nights of `batchrec list --editions`, newest first."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.project.root)
            environment = {"BATCHREC_HOME": str(self.project.root / ".batchrec")}
            command = ["list", "shop", "--editions", "--json"]
            result = CliRunner().invoke(main, command, env=environment)
        assert result.exit_code == 0, result.output
        (listed,) = json.loads(result.output)
        nights: list[dict[str, Any]] = listed["nights"]
        return nights


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, first_run: FirstRun) -> Iterator[Shop]:
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        first_run.copy_to(shop.project, instance)
        shop.take_created()
        yield shop


def test_a_run_above_its_budget_starts_nothing_and_says_the_numbers(shop: Shop) -> None:
    refused = shop.run(TOO_LITTLE, train=True)
    assert not refused.success
    reason = why(refused)
    assert "budget.max_usd_per_run" in reason
    assert "training aws-user-personalization-v2" in reason
    assert not checks(refused)["within_budget"].passed
    assert shop.take_created() == {}


def test_within_its_budget_it_runs_and_the_night_costs_what_all_its_steps_paid(shop: Shop) -> None:
    assert shop.run(ENOUGH, train=True).success
    assert shop.take_created() == {"models": 1, "jobs": 1}
    night, *_, first = shop.read_nights()
    # A training on some 1,600 interactions costs 0.003 USD, and lists for 60 users 0.009.
    assert night["cost_usd"] == pytest.approx(0.012, abs=1e-3)
    # The first run was local.
    assert first["cost_usd"] == 0


def test_a_run_that_has_nothing_to_do_pays_nothing_whatever_the_budget(shop: Shop) -> None:
    result = shop.run(0.01)
    assert result.success, why(result)
    assert shop.take_created() == {}
    assert shop.read_nights()[0]["cost_usd"] == 0


STARTED = {"imports": 1, "models": 1, "jobs": 1}
CREATE = {
    "imports": "CreateDatasetImportJob",
    "models": "CreateSolutionVersion",
    "jobs": "CreateBatchInferenceJob",
}
WORK = {"import": True, "train": True}


@pytest.mark.parametrize("kind", CREATE)
def test_failed_work_is_started_once_more(shop: Shop, kind: str) -> None:
    with misbehaving_clients(FailingResources({CREATE[kind]: ["a hiccup"]})):
        result = shop.run(ENOUGH, **WORK)
    assert result.success, why(result)
    assert shop.take_created() == {**STARTED, kind: 2}


@pytest.mark.parametrize("kind", ["models", "jobs"])
def test_failed_work_is_not_repeated_beyond_the_budget(shop: Shop, kind: str) -> None:
    with misbehaving_clients(FailingResources({CREATE[kind]: ["a hiccup"]})):
        # The run costs 0.012 USD. Repeating the failed work costs 0.003 or 0.009 USD.
        refused = shop.run(0.014, **WORK)
    assert not refused.success
    for words in ("a hiccup", "not started once more", "budget.max_usd_per_run allows 0.01"):
        assert words in why(refused)
    assert shop.take_created()[kind] == 1


def test_work_started_by_a_lost_answer_is_paid_once_and_adopted(shop: Shop) -> None:
    with repeated_request("CreateSolutionVersion"):
        result = shop.run(ENOUGH, train=True)
    assert result.success, why(result)
    assert shop.take_created() == {"models": 1, "jobs": 1}
    assert metadata(result, "solution_version")["outcome"].startswith("adopted")
    assert shop.read_nights()[0]["cost_usd"] == pytest.approx(0.012, abs=1e-3)


def test_the_embedded_personalize_costs_nothing_so_no_budget_is_too_small(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    budget = {"max_usd_per_run": TOO_LITTLE}
    project.declare(declaration("shop", "ratings.csv", budget=budget))
    prices = project.root / "prices.yaml"
    prices.write_text("recommendations_v2_per_1000_users: 50\n")
    project.environment["BATCHREC_PRICES"] = str(prices)
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    # The run reports its cost on AWS, by the team's prices, for 60 lists.
    assert "about 3.00 USD" in (checks(result)["within_budget"].description or "")
