"""Tests of segments: the users to tell about an item, or about items with a common attribute.

The tests share a shop that changes its segments night by night, and run in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    count_created,
    declaration,
    module_project,
    open_personalize,
    refresh,
    why,
)
from batchrec_dagster_tests.guard.first_run import RATINGS, FirstRun

pytestmark = pytest.mark.slow

ITEMS = ["1", "2", "3"]
COMEDY = 'ITEMS.genres = "Comedy" AND Items.GENRES = "Romance"'
DRAMA = 'ITEMS.GENRES = "Drama"'


@dataclass
class Shop:
    """A pipeline that has run once without segments. Users like items of their own parity."""

    project: Project
    instance: dg.DagsterInstance

    def run(
        self, segments: dict[str, Any], *assets: str, **attributes: Any
    ) -> dg.ExecuteInProcessResult:
        self.project.declare(declaration("shop", RATINGS, segments=segments, **attributes))
        return refresh(self.project, "shop", self.instance, assets=assets)

    @property
    def segments(self) -> pl.DataFrame:
        return pl.read_parquet(
            self.project.storage / "shop/curated/user_segments/user_segments.parquet"
        )

    def count_jobs(self) -> int:
        return len(open_personalize(self.project).list_batch_segment_jobs()["batchSegmentJobs"])

    def count_models(self) -> int:
        return count_created(self.project)["models"]

    def find_output(self) -> Path:
        """Return the output file of the newest job."""
        outputs = (self.project.storage / "shop/curated/batch_segments").glob("*/*.out")
        return max(outputs, key=lambda file: file.stat().st_mtime_ns)


STEPS = ("segment_solution_version", "user_segments")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, first_run: FirstRun) -> Iterator[Shop]:
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        first_run.copy_to(shop.project, instance)
        result = shop.run({"items": ITEMS, "users_per_segment": 10}, *STEPS)
        assert result.success, why(result)
        yield shop


def test_each_item_gets_the_users_who_belong_to_it(shop: Shop) -> None:
    table = shop.segments
    assert table.schema == {"segment": pl.String, "rank": pl.Int32, "user_id": pl.String}
    assert table["segment"].to_list() == [item for item in ITEMS for _ in range(10)]
    assert table["rank"].to_list() == [*range(1, 11)] * 3
    is_own_taste = (table["segment"].cast(int) - table["user_id"].cast(int)) % 2 == 0
    assert is_own_taste.sum() > 0.9 * table.height


def test_without_changes_nothing_is_trained_or_segmented_again(shop: Shop) -> None:
    before, models, jobs = shop.segments, shop.count_models(), shop.count_jobs()
    assert shop.run({"items": ITEMS, "users_per_segment": 10}, *STEPS).success
    assert (shop.count_models(), shop.count_jobs()) == (models, jobs)
    assert shop.segments.equals(before)


def test_an_output_that_is_not_right_is_not_published_and_the_next_run_starts_another_job(
    shop: Shop,
) -> None:
    assert shop.run({"items": ["4"], "users_per_segment": 10}, *STEPS).success
    before, output = shop.segments, shop.find_output()
    line = json.loads(output.read_text())
    line["output"]["usersList"][1] = line["output"]["usersList"][0]
    for content in (json.dumps(line), "["):
        jobs = shop.count_jobs()
        shop.find_output().write_text(content)
        refused = shop.run({"items": ["4"], "users_per_segment": 10}, "user_segments")
        assert "Run again: the next run starts a new job" in why(refused)
        assert shop.count_jobs() == jobs
        assert shop.segments.equals(before)
        result = shop.run({"items": ["4"], "users_per_segment": 10}, "user_segments")
        assert result.success, why(result)
        assert shop.count_jobs() == jobs + 1
        assert shop.segments.equals(before)


def test_an_item_that_personalize_does_not_know_is_named_with_the_setting(shop: Shop) -> None:
    before = shop.segments
    refused = shop.run({"items": [*ITEMS, "no item"]}, *STEPS)
    assert "segments.items" in why(refused)
    assert "1 of 4 segments" in why(refused)
    assert shop.segments.equals(before)
    # Another job would have the same error, and cost money.
    jobs = shop.count_jobs()
    assert not shop.run({"items": [*ITEMS, "no item"]}, "user_segments").success
    assert shop.count_jobs() == jobs


def test_attributes_of_items_get_users_too(shop: Shop) -> None:
    rows = [
        f"{item},{'Comedy;Romance' if item % 2 else 'Drama'},Film {item}" for item in range(1, 81)
    ]
    file = shop.project.root / "items.csv"
    file.write_text("\n".join(["movieId,genres,title", *rows]) + "\n")
    columns = {"item": "movieId", "title": "title", "categories": {"GENRES": "genres"}}
    items = {"source": "items.csv", "columns": columns, "separator": ";"}
    steps = ("raw_items", "items", "item_titles", "personalize_dataset", *STEPS)
    segments = {"attributes": [COMEDY, DRAMA], "users_per_segment": 10}
    result = shop.run(segments, *steps, items=items)
    assert result.success, why(result)
    table = shop.segments
    assert {*table["segment"]} == {COMEDY, DRAMA}
    assert table.height == 20
    is_own_taste = table.select(pl.col("user_id").cast(int) % 2 == (pl.col("segment") == COMEDY))
    assert is_own_taste.to_series().sum() >= 16  # 10 by chance
