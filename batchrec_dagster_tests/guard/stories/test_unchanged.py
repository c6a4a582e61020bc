"""Tests that a run repeats only the work that changed inputs, settings or files call for.

A test starts from a pipeline that has run once, and counts paid work.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    count_created,
    declaration,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import RATINGS, FirstRun

pytestmark = pytest.mark.slow

V1 = {"recipe": "aws-user-personalization"}


@dataclass
class Shop:
    """A pipeline that has run once."""

    project: Project
    instance: dg.DagsterInstance
    created_before: Counter[str]

    def run(self, **options: bool) -> dict[str, int]:
        """Refresh the pipeline, and return the number of created resources of each kind.

        options: the switches of the Launchpad.
        """
        result = refresh(self.project, "shop", self.instance, options)
        assert result.success, why(result)
        created = count_created(self.project)
        since, self.created_before = created - self.created_before, created
        return dict(since)

    @property
    def lists(self) -> pl.DataFrame:
        return table(self.project, "shop")

    @property
    def interactions_file(self) -> Any:
        return self.project.storage / "shop/transformed/interactions/interactions.csv"


@pytest.fixture
def shop(first_run: FirstRun, project: Project, instance: dg.DagsterInstance) -> Shop:
    first_run.copy_to(project, instance)
    return Shop(project, instance, count_created(project))


def test_without_changes_nothing_is_paid_for_and_the_table_is_not_written(shop: Shop) -> None:
    file = shop.project.storage / "shop/curated/recommendations/recommendations.parquet"
    before = file.read_bytes(), file.stat().st_mtime_ns
    assert shop.run() == {}
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_without_dagsters_history_nothing_is_paid_for_either(
    first_run: FirstRun, project: Project, instance: dg.DagsterInstance
) -> None:
    first_run.copy_to(project)
    shop = Shop(project, instance, count_created(project))
    before = shop.lists
    assert shop.run() == {}
    assert shop.lists.equals(before)


def test_new_data_are_imported_and_trained_on_once(shop: Shop) -> None:
    write_ratings(shop.project.root / RATINGS, users=61)
    assert shop.run() == {"imports": 1, "models": 1, "jobs": 1}
    assert "61" in {*shop.lists["user_id"]}
    # The first data come back, while Personalize holds the second data.
    write_ratings(shop.project.root / RATINGS)
    assert shop.run()["imports"] == 1
    assert "61" not in {*shop.lists["user_id"]}


def test_other_users_get_lists_by_the_same_model(shop: Shop) -> None:
    shop.project.declare(declaration("shop", RATINGS, batch_users={"source": "users.csv"}))
    for users in (["1", "2"], ["2", "3"]):
        (shop.project.root / "users.csv").write_text("\n".join(["user", *users]) + "\n")
        assert shop.run() == {"jobs": 1}
        assert {*shop.lists["user_id"]} == {*users}


def test_changed_settings_repeat_only_the_steps_they_concern(shop: Shop) -> None:
    settings: dict[str, Any] = {}
    for changed, created in (
        ({"recommendations": {"num_results": 5}}, {"jobs": 1}),
        ({"solution": V1, "gate": {"max_drop": 1}}, {"models": 1, "jobs": 1}),
        ({"interactions": {"min_rating": 2}}, {"imports": 1, "models": 1, "jobs": 1}),
        # These settings change no list.
        ({"report": {}, "retention": {"editions": 3}}, {}),
    ):
        settings |= changed
        shop.project.declare(declaration("shop", RATINGS, **settings))
        assert shop.run() == created, changed


def test_a_person_may_import_and_train_now(shop: Shop) -> None:
    created = shop.run(**{"import": True, "train": True})
    assert (created["imports"], created["models"]) == (1, 1)
    assert shop.run() == {}


def test_a_stored_file_with_changed_content_is_made_again(shop: Shop) -> None:
    file, lists = shop.interactions_file, shop.lists
    content, moment = file.read_bytes(), file.stat().st_mtime_ns
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    os.utime(file, ns=(moment, moment))
    assert shop.run() == {}
    assert file.read_bytes() == content
    assert shop.lists.equals(lists)


def test_a_batch_result_that_is_gone_is_made_again(shop: Shop) -> None:
    before = shop.lists
    shutil.rmtree(shop.project.storage / "shop/curated/batch_inference")
    assert shop.run() == {"jobs": 1}
    assert shop.lists.equals(before)
