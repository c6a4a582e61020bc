"""Tests of the table of similar items, counted by batchrec or found by a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    checks,
    count_created,
    declaration,
    definitions,
    module_project,
    open_personalize,
    refresh,
    why,
)
from batchrec_dagster_tests.guard.first_run import RATINGS, FirstRun

pytestmark = pytest.mark.slow


@dataclass
class Shop:
    """A pipeline that has run once without similar items."""

    project: Project
    instance: dg.DagsterInstance

    def run(self, assets: Sequence[str] = (), **settings: Any) -> dg.ExecuteInProcessResult:
        self.project.declare(declaration("shop", RATINGS, similar_items=settings))
        assets = [*assets, "similar_items"]
        return refresh(self.project, "shop", self.instance, assets=assets)

    @property
    def lists(self) -> pl.DataFrame:
        folder = self.project.storage / "shop/lists/similar_items/curated/similar_items"
        return pl.read_parquet(folder / "similar_items.parquet")

    def count_jobs(self) -> int:
        return count_created(self.project)["jobs"]


@pytest.fixture(scope="module")
def counted(
    tmp_path_factory: pytest.TempPathFactory, first_run: FirstRun
) -> Iterator[tuple[Shop, pl.DataFrame]]:
    """Return a shop that has counted items bought together, and its table."""
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        first_run.copy_to(shop.project, instance)
        result = shop.run(within_days=30, num_results=4)
        assert result.success, why(result)
        yield shop, shop.lists


def test_each_item_has_what_the_same_people_had(counted: tuple[Shop, pl.DataFrame]) -> None:
    shop, lists = counted
    assert lists.columns == ["item_id", "rank", "similar_item_id", "score"]
    assert lists["item_id"].n_unique() == 80
    assert lists["rank"].max() == 4
    assert lists.filter(pl.col("item_id") == pl.col("similar_item_id")).is_empty()
    # People of a taste have the items of one half.
    half = pl.col("item_id").cast(int) % 2 == pl.col("similar_item_id").cast(int) % 2
    assert lists.select(half).to_series().all()
    # Counting costs nothing.
    assert shop.count_jobs() == 1


def test_they_are_kept_shown_and_rolled_back_as_other_lists(
    counted: tuple[Shop, pl.DataFrame],
) -> None:
    shop, first = counted
    environment = {"BATCHREC_HOME": str(shop.project.root / ".batchrec")}
    shown = CliRunner().invoke(main, ["show", "--item", "7", "--json"], env=environment)
    assert shown.exit_code == 0, shown.output
    for item in first.filter(item_id="7")["similar_item_id"]:
        assert f'"{item}"' in shown.output
    assert shop.run(within_days=30, num_results=2).success
    assert shop.lists["rank"].max() == 2
    with definitions(shop.project) as defs:
        job = defs.resolve_job_def("shop__similar_items_rollback")
        assert job.execute_in_process(instance=shop.instance).success
    assert shop.lists.equals(first)


def test_nights_of_other_lists_are_separate(
    counted: tuple[Shop, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, _ = counted
    (shop.project.root / "pages.csv").write_text("movieId\n")
    assert not shop.run(within_days=30, items={"source": "pages.csv"}).success
    for name, value in shop.project.process_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(shop.project.root)
    listed = CliRunner().invoke(main, ["list", "shop", "--editions", "--json"])
    assert listed.exit_code == 0, listed.output
    nights = {listing["pipeline"]: listing["nights"] for listing in json.loads(listed.stdout)}
    assert [night["status"] for night in nights["shop"]] == ["published"]
    assert nights["shop/similar_items"][0]["status"] == "failed"
    assert nights["shop/similar_items"][0]["steps"] == ["similar_items"]


def test_a_recipe_finds_similar_items_for_listed_items_without_blocked_ones(
    project: Project, instance: dg.DagsterInstance, first_run: FirstRun
) -> None:
    first_run.copy_to(project, instance)
    (project.root / "pages.csv").write_text("movieId\n1\n2\n3\n99\n")
    (project.root / "blocked.csv").write_text("item\n1\n")
    shop = Shop(project, instance)
    result = shop.run(
        ["similar_items_solution_version", "similar_items_export"],
        num_results=5,
        items={"source": "pages.csv"},
        rules={"block": {"source": "blocked.csv"}},
        sinks={"export": {"format": "jsonl"}},
    )
    assert result.success, why(result)
    lists = shop.lists
    assert {*lists["item_id"]} == {"1", "2", "3", "99"}
    assert lists.height == 4 * 5
    assert lists.filter(similar_item_id="1").is_empty()
    known = checks(result)["requested_items_known"]
    assert (known.passed, known.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "'99'" in (known.description or "")
    exports = project.storage / "shop/lists/similar_items/curated/exports"
    line = json.loads((exports / "similar_items.jsonl").read_text().splitlines()[0])
    similar = [row["similar_item_id"] for row in line["items"]]
    assert (
        similar == lists.filter(item_id=line["item_id"]).sort("rank")["similar_item_id"].to_list()
    )
    # Lists of users and similar items have separate jobs in the same dataset group.
    assert shop.count_jobs() == 2
    assert len(open_personalize(project).list_dataset_groups()["datasetGroups"]) == 1


def test_lists_of_items_are_sources_as_others_are(counted: tuple[Shop, pl.DataFrame]) -> None:
    shop, _ = counted
    project = shop.project
    (project.root / "pages.csv").write_text("sku,shown\n1,yes\n2,no\n3,yes\n")
    (project.root / "recalled.csv").write_text("Recalled since May\nsku\n3\n")
    result = shop.run(
        within_days=30,
        items={"source": "pages.csv", "query": "SELECT sku FROM source WHERE shown = 'yes'"},
        rules={"block": {"source": "recalled.csv", "header": 2, "deps": ["recalls"]}},
    )
    assert result.success, why(result)
    assert {*shop.lists["item_id"]} == {"1", "3"}
    assert shop.lists.filter(similar_item_id="3").is_empty()
    with definitions(project) as defs:
        graph = defs.resolve_asset_graph()
    assert dg.AssetKey("recalls") in graph.get(dg.AssetKey(["shop", "similar_items"])).parent_keys


def test_an_item_with_nothing_similar_in_stock_has_no_list_and_keeps_no_other_from_its_own(
    counted: tuple[Shop, pl.DataFrame],
) -> None:
    shop, _ = counted
    items = [f"{item},{1 - item % 2}" for item in range(80)]
    (shop.project.root / "stock.csv").write_text("\n".join(["id,stock", *items]) + "\n")
    of_items = {"source": "stock.csv", "columns": {"item": "id", "numbers": {"STOCK": "stock"}}}
    in_stock = {"within_days": 30, "num_results": 4, "rules": {"only": "ITEMS.STOCK > 0"}}
    shop.project.declare(declaration("shop", RATINGS, items=of_items, similar_items=in_stock))
    assets = ["raw_items", "items", "similar_items"]
    result = refresh(shop.project, "shop", shop.instance, assets=assets)
    assert result.success, why(result)
    listed = shop.lists.select(pl.col("item_id", "similar_item_id").cast(int) % 2)
    # Similar items are from the same half, and only one half is in stock.
    assert listed.unique().rows() == [(0, 0)]
    assert "40 of 80 items have a list" in (checks(result)["items_have_lists"].description or "")
