"""Tests of a shop with broken data: its lists stay until the data are good, or a person overrides.

The tests share a shop, night by night, and run in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    checks,
    count_created,
    declaration,
    module_project,
    refresh,
    table,
    why,
    write_ratings,
)

pytestmark = pytest.mark.slow

USERS, ITEMS = 300, 200


@dataclass
class Shop:
    """A shop with an items file."""

    project: Project
    instance: dg.DagsterInstance

    def declare(self, **attributes: Any) -> None:
        items = {"item": "sku", "title": "name", "numbers": {"YEAR": "year"}}
        self.project.declare(
            declaration(
                "shop",
                "ratings.csv",
                items={"source": "items.csv", "columns": items},
                solution={"recipe": "aws-user-personalization"},
                **{"gate": {"max_drop": 0.3, "max_shrink": 0.2}, **attributes},
            )
        )

    def write_ratings(self, users: int = USERS) -> None:
        write_ratings(self.project.root / "ratings.csv", users=users, items=ITEMS)

    def write_items(self, *, with_years: bool = True) -> None:
        rows = [
            f"{item},Title {item},{1900 + item if with_years else ''}"
            for item in range(1, ITEMS + 1)
        ]
        (self.project.root / "items.csv").write_text("\n".join(["sku,name,year", *rows]) + "\n")

    def shuffle_users(self) -> None:
        """Give ratings to the wrong users, as a join on the wrong column would."""
        file = self.project.root / "ratings.csv"
        ratings = pl.read_csv(file)
        ratings.with_columns(pl.col("userId").shuffle(seed=1)).write_csv(file)

    def run(self, *assets: str, **options: bool) -> dg.ExecuteInProcessResult:
        """Run the refresh or these assets. options: the switches of the Launchpad."""
        return refresh(self.project, "shop", self.instance, options, assets)

    def read_published(self) -> dict[str, bytes]:
        """Return the files of readers and sinks."""
        folder = self.project.storage / "shop/curated"
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    def count_jobs(self) -> tuple[int, int]:
        """Return the numbers of imports of interactions and of batch inference jobs."""
        created = count_created(self.project)
        return created["imports"], created["jobs"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield the shop after a good night."""
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        shop.write_ratings()
        shop.write_items()
        shop.declare()
        first = shop.run()
        assert first.success, why(first)
        yield shop


def halve(file: Path) -> None:
    """Leave out every second line of the file, as a broken export would."""
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *rows[::2]]) + "\n")


def test_half_of_the_items_are_refused_before_anything_is_imported(shop: Shop) -> None:
    published, jobs = shop.read_published(), shop.count_jobs()
    halve(shop.project.root / "items.csv")
    result = shop.run()
    assert not result.success
    assert "gate.max_shrink" in why(result)
    assert "200 to 100" in why(result)
    # Another run does not take these data for the current data either.
    assert not shop.run("raw_items", "items").success
    assert (shop.read_published(), shop.count_jobs()) == (published, jobs)


def test_a_column_that_lost_its_values_is_refused_by_its_setting(shop: Shop) -> None:
    shop.write_items(with_years=False)
    refused = shop.run("raw_items")
    assert not refused.success
    assert "items.columns.numbers.YEAR" in why(refused)
    shop.write_items()
    assert shop.run("raw_items").success


def test_half_of_the_ratings_are_refused_before_anything_is_imported(shop: Shop) -> None:
    published, jobs = shop.read_published(), shop.count_jobs()
    halve(shop.project.root / "ratings.csv")
    result = shop.run()
    assert not result.success
    assert "gate.max_shrink" in why(result)
    assert (shop.read_published(), shop.count_jobs()) == (published, jobs)


def test_settings_that_leave_out_rows_are_not_taken_for_lost_rows(shop: Shop) -> None:
    shop.declare(interactions={"min_rating": 5})
    assert shop.run("raw_ratings", "interactions").success
    shop.declare()


def test_a_model_that_learned_from_broken_data_is_refused_and_infers_nothing(shop: Shop) -> None:
    published, (_, inferences) = shop.read_published(), shop.count_jobs()
    shop.write_ratings()
    shop.shuffle_users()
    result = shop.run()
    assert not result.success
    assert "gate.max_drop allows 30%" in why(result)
    assert "--publish-anyway" in why(result)
    verdict = checks(result)["quality_gate"]
    assert (verdict.passed, verdict.blocking) == (False, True)
    # The training was paid for, but the lists have not changed.
    assert shop.count_jobs()[1] == inferences
    assert shop.read_published() == published


def test_once_the_data_are_good_they_are_compared_with_the_last_good_lists(shop: Shop) -> None:
    shop.write_ratings(USERS + 1)
    result = shop.run()
    assert result.success, why(result)
    assert table(shop.project, "shop")["user_id"].n_unique() == USERS + 1


def test_data_that_end_long_ago_are_refused_if_that_is_declared(shop: Shop) -> None:
    published, jobs = shop.read_published(), shop.count_jobs()
    shop.declare(gate={"max_age_days": 30})
    result = shop.run()
    assert not result.success
    assert "gate.max_age_days allows 30" in why(result)
    assert "2017" in why(result)
    shop.declare()
    assert (shop.read_published(), shop.count_jobs()) == (published, jobs)


def test_a_person_may_publish_anyway_and_the_lists_stay_published(shop: Shop) -> None:
    before = table(shop.project, "shop")
    shop.write_ratings()
    shop.shuffle_users()
    assert not shop.run().success
    anyway = shop.run(publish_anyway=True)
    assert anyway.success, why(anyway)
    assert not table(shop.project, "shop").equals(before)
    # The model is live now, and stays so.
    next_run = shop.run()
    assert next_run.success, why(next_run)
    # The person's decision stays visible.
    verdict = checks(next_run)["quality_gate"]
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "published anyway" in (verdict.description or "")


def test_a_floor_refuses_a_model_that_could_not_be_measured_and_says_so(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declaration("shop", "ratings.csv", gate={"min_ndcg_at_25": 0.001}))
    ratings = pl.read_csv(write_ratings(project.root / "ratings.csv"))
    # All later interactions repeat earlier ones, so no model can be tested on them.
    later = ratings.with_columns(pl.col("timestamp") + 20_000_000)
    pl.concat([ratings, later]).write_csv(project.root / "ratings.csv")
    result = refresh(project, "shop", instance)
    assert not result.success
    assert "gate.min_ndcg_at_25 is 0.001, which needs a measurement" in why(result)
    night = (project.storage / "shop/records").rglob("*")
    reasons = "".join(file.read_text() for file in night if file.suffix == ".json")
    assert "NDCG@25 could not be measured" in reasons
    assert "0.0000" not in reasons + why(result)
    write_ratings(project.root / "ratings.csv", seed=1)
    next_night = refresh(project, "shop", instance)
    assert next_night.success, why(next_night)
    assert checks(next_night)["quality_gate"].passed


def write_events(path: Path, *, orders: int) -> None:
    """Write clicks of 60 people and this many orders."""
    lines = ["user,item,time,kind"]
    for user in range(60):
        lines += [
            f"{user},{(7 * user + step) % 80},{1_500_000_000 + step},click" for step in range(40)
        ]
    lines += [f"{order % 60},{order % 77},{1_500_000_100 + order},buy" for order in range(orders)]
    path.write_text("\n".join(lines) + "\n")


def test_half_of_the_orders_are_missed_where_clicks_are_most_of_the_rows(
    project: Project, instance: dg.DagsterInstance
) -> None:
    columns = {"user": "user", "item": "item", "timestamp": "time", "event_type": "kind"}
    ratings = {"source": "events.csv", "columns": columns}
    project.declare({"name": "shop", "ratings": ratings, "gate": {"max_drop": 1}})
    write_events(project.root / "events.csv", orders=180)
    first = refresh(project, "shop", instance, {"publish_anyway": True})
    assert first.success, why(first)
    before = count_created(project)
    write_events(project.root / "events.csv", orders=90)
    second = refresh(project, "shop", instance)
    assert "interactions of the type buy fell from 180 to 90 (50% fewer)" in why(second)
    assert count_created(project) == before
