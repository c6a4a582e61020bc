"""Tests of solution.retrain: between trainings, the last model makes lists from new data.

The tests share a shop, move its clock night by night, and run in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    checks,
    count_created,
    declaration,
    definitions,
    metadata,
    module_project,
    open_personalize,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import RATINGS, FirstRun
from batchrec_dagster_tests.guard.seams.runs import clock_of_trainings, paid_personalize

pytestmark = pytest.mark.slow


@dataclass
class Shop:
    """A pipeline that has run once, and trains every seven days."""

    project: Project
    instance: dg.DagsterInstance
    models: int = 1

    def run(
        self, days: float = 0, *, users: int | None = None, train: bool = False, **settings: Any
    ) -> dg.ExecuteInProcessResult:
        """Run a night some days after the first run.

        users: the number of users in new data; None for the data of the night before.
        """
        if users is not None:
            write_ratings(self.project.root / RATINGS, users=users)
        solution = {"retrain": {"every_days": 7}, **settings.pop("solution", {})}
        self.project.declare(declaration("shop", RATINGS, solution=solution, **settings))
        with clock_of_trainings(days=days):
            return refresh(self.project, "shop", self.instance, {"train": True} if train else {})

    def take_trainings(self) -> int:
        """Return the number of models trained since the last call."""
        models = count_created(self.project)["models"]
        since, self.models = models - self.models, models
        return since

    def list_users(self) -> set[str]:
        return {*table(self.project, "shop")["user_id"]}


@pytest.fixture
def shop(first_run: FirstRun, project: Project, instance: dg.DagsterInstance) -> Shop:
    first_run.copy_to(project, instance)
    return Shop(project, instance)


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory: pytest.TempPathFactory, first_run: FirstRun) -> Iterator[Shop]:
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        first_run.copy_to(shop.project, instance)
        yield shop


def test_new_data_get_lists_by_the_last_model(long_lived: Shop) -> None:
    # A model that somebody else trained meanwhile does not count.
    client = open_personalize(long_lived.project)
    ours = client.list_solution_versions()["solutionVersions"][0]["solutionVersionArn"]
    client.create_solution_version(solutionArn=ours.rpartition("/")[0])
    long_lived.take_trainings()
    # The budget is enough for the lists, but not for a training.
    with paid_personalize():
        result = long_lived.run(days=6, users=61, budget={"max_usd_per_run": 0.01})
    assert result.success, why(result)
    assert long_lived.take_trainings() == 0
    assert metadata(result, "solution_version")["solution_version_arn"] == ours
    assert "61" in long_lived.list_users()
    assert "on earlier data" in (checks(result)["quality_gate"].description or "")


def test_after_the_days_new_data_are_trained_on(long_lived: Shop) -> None:
    assert long_lived.run(days=7).success
    assert long_lived.take_trainings() == 1


def test_a_weekly_schedule_trains_each_week_although_its_runs_vary_by_hours(
    long_lived: Shop,
) -> None:
    # The previous training was on the seventh day.
    assert long_lived.run(days=14 - 5 / 24, users=62).success
    assert long_lived.take_trainings() == 1


def test_without_new_data_nothing_is_trained_however_old_the_model_is(long_lived: Shop) -> None:
    assert long_lived.run(days=60).success
    assert long_lived.take_trainings() == 0


def test_a_person_may_train_now(long_lived: Shop) -> None:
    assert long_lived.run(train=True).success
    assert long_lived.take_trainings() == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"solution": {"recipe": "aws-user-personalization"}},
        {"interactions": {"min_rating": 4}},
    ],
    ids=["recipe", "interactions"],
)
def test_with_other_settings_new_data_are_trained_on_at_once(
    shop: Shop, settings: dict[str, Any]
) -> None:
    result = shop.run(users=61, gate={"max_drop": 1}, **settings)
    assert result.success, why(result)
    assert shop.take_trainings() == 1


def test_a_model_that_the_gate_refused_is_not_kept(
    project: Project, instance: dg.DagsterInstance
) -> None:
    shop = Shop(project, instance, models=0)
    refusing = {"min_ndcg_at_25": 1.0}
    for users in (60, 61):
        assert "gate.min_ndcg_at_25" in why(shop.run(users=users, gate=refusing))
        assert shop.take_trainings() == 1
        assert not (project.storage / "shop/curated/recommendations").exists()
    # A model that may be published now is kept.
    assert shop.run(users=62).success
    assert shop.take_trainings() == 0


def test_a_model_that_the_gate_of_one_list_refused_is_not_kept(
    project: Project, instance: dg.DagsterInstance
) -> None:
    shop = Shop(project, instance, models=0)
    lists = {"home": {}, "mail": {"gate": {"min_ndcg_at_25": 1.0}}}
    for users in (60, 61):
        assert "gate.min_ndcg_at_25" in why(shop.run(users=users, lists=lists))
        assert shop.take_trainings() == 1


def test_a_kept_model_brings_back_no_withdrawn_lists_but_makes_newer_lists(
    shop: Shop,
) -> None:
    before = table(shop.project, "shop")
    assert shop.run(users=61).success
    with definitions(shop.project) as defs:
        job = defs.resolve_job_def("shop_rollback")
        assert job.execute_in_process(instance=shop.instance).success
    assert table(shop.project, "shop").equals(before)
    assert "rolled back" in why(shop.run())
    assert table(shop.project, "shop").equals(before)
    assert shop.run(users=62).success
    assert "62" in shop.list_users()
    assert shop.take_trainings() == 0
