"""similar_items: what goes with each item, found by a recipe or counted, as a published table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.summary import describe_similar_items
from batchrec_dagster.steps import similar_items as steps_of_similar_items
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    copied_project,
    declaration,
    definitions,
    killed_at,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import RATINGS, FirstRun
from batchrec_dagster_tests.guard.repeats import IS_LONG

REFRESH = ("dagster", "job", "execute", "-m", "batchrec_dagster.definitions", "-j", "shop_refresh")
BOUGHT_TOGETHER = {"within_days": 30, "num_results": 4}


def read_lists(project: Project) -> pl.DataFrame:
    folder = project.storage / "shop/lists/similar_items/curated/similar_items"
    return pl.read_parquet(folder / "similar_items.parquet")


@pytest.mark.slow  # a copied run and three small ones
def test_items_bought_together_are_published_kept_and_rolled_back(
    project: Project, instance: dg.DagsterInstance, first_run: FirstRun
) -> None:
    first_run.copy_to(project, instance)

    def run(assets: Sequence[str] = (), **settings: Any) -> dg.ExecuteInProcessResult:
        similar_items = {**BOUGHT_TOGETHER, **settings}
        project.declare(declaration("shop", RATINGS, similar_items=similar_items))
        return refresh(project, "shop", instance, assets=["similar_items", *assets])

    first = run(["recommendation_report"])
    assert first.success, why(first)
    lists = read_lists(project)
    page = (project.storage / "shop/curated/report/index.html").read_text()
    data = json.loads(page.partition('id="people-data">')[2].partition("</script>")[0])
    ids = [item[0] for item in data["items"]]
    similar = [ids[place] for place in data["similar_items"][str(ids.index("7"))]]
    assert similar == lists.filter(item_id="7").get_column("similar_item_id").to_list()
    assert "What people had together, counted by batchrec: edition 1 of" in page
    assert lists.columns == ["item_id", "rank", "similar_item_id", "score"]
    # People of one taste have the items of one half together.
    same_half = lists.select(
        (pl.col("item_id").cast(int) % 2) == pl.col("similar_item_id").cast(int) % 2
    )
    assert same_half.to_series().mean() == 1
    about = metadata(first, "similar_items")
    assert about["dagster/row_count"] == lists.height
    assert about["items"] == 80
    assert metadata(run(), "similar_items")["outcome"] == "unchanged: not counted again"
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    (_, address, number) = describe_similar_items(PublishedResults(storage, "shop"), "another")
    assert address == "shop/similar_items: unchanged: edition 1"
    assert number.endswith("similar items of 80 items")

    second = run(num_results=2)
    assert metadata(second, "similar_items")["edition"] == 2
    assert read_lists(project).get_column("rank").max() == 2
    with definitions(project) as defs:
        job = defs.resolve_job_def("shop__similar_items_rollback")
        assert job.execute_in_process(instance=instance).success
    assert read_lists(project).equals(lists)
    # What was rolled back is not published again.
    again = run(num_results=2)
    assert not again.success
    assert "its lists were rolled back" in why(again)


@pytest.mark.slow  # a copied run, and one with a training
def test_a_recipe_finds_similar_items_in_the_same_dataset_group(
    project: Project,
    instance: dg.DagsterInstance,
    first_run: FirstRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first_run.copy_to(project, instance)
    (project.root / "pages.csv").write_text("movieId\n1\n2\n3\n99\nunknown\n")
    (project.root / "blocked.csv").write_text("item\n1\n")
    similar_items = {
        "num_results": 5,
        "items": {"source": str(project.root / "pages.csv")},
        "rules": {"block": {"source": "blocked.csv"}},
        "sinks": {"export": {"format": "jsonl"}},
    }
    project.declare(declaration("shop", RATINGS, similar_items=similar_items))
    assets = ["similar_items_solution_version", "similar_items", "similar_items_export"]
    with monkeypatch.context() as patch:
        # It dies once the job has ended.
        patch.setattr(steps_of_similar_items, "build_item_lists", Mock(side_effect=MemoryError))
        assert not refresh(project, "shop", instance, assets=assets).success
    # The next run goes on from that job.
    result = refresh(project, "shop", instance, assets=assets)
    assert result.success, why(result)
    lists = read_lists(project)
    assert {*lists.get_column("item_id")} == {"1", "2", "3", "99", "unknown"}
    assert not lists.filter(similar_item_id="1").height
    about = metadata(result, "similar_items")
    assert (about["items"], about["dagster/row_count"]) == (5, 25)
    assert about["outcome"] == "unchanged: not inferred again"
    evaluations = {check.check_name: check for check in result.get_asset_check_evaluations()}
    known = evaluations["requested_items_known"]
    assert not known.passed
    assert "2 are neither in the interactions nor in the items file: '99', 'unknown'" in str(
        known.description
    )
    exports = project.storage / "shop/lists/similar_items/curated/exports"
    line = json.loads((exports / "similar_items.jsonl").read_text().splitlines()[0])
    first = [row["similar_item_id"] for row in line["items"]]
    assert (line["item_id"], first) == ("1", lists.head(5).get_column("similar_item_id").to_list())
    # The lists of users have their job's output, and similar items theirs.
    folders = project.storage / "shop/curated"
    for folder in ("batch_inference", "batch_similar_items"):
        assert len([*(folders / folder).iterdir()]) == 1


# What the steps of a copied project have in the place of a function: it waits to be killed.
WAITING = """


def build_item_lists(work, *others, **settings):
    import time

    work.ensure.log.info("before the publication")
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(not IS_LONG, reason="make test-long: three processes for each kill")
def test_a_run_killed_before_lists_of_similar_items_are_published_goes_on(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    write_ratings(tmp_path / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv", similar_items={}))
    step = tmp_path / "batchrec_dagster" / "steps" / "similar_items.py"
    code = step.read_text()
    # The job is finished by then.
    step.write_text(code + WAITING)
    killed_at(project, REFRESH, "before the publication")
    step.write_text(code)
    assert not (project.storage / "shop/lists/similar_items/curated/similar_items").exists()
    jobs = [*(project.storage / "shop/curated/batch_similar_items").iterdir()]
    assert len(jobs) == 1

    second_run = project.run(*REFRESH)
    assert second_run.returncode == 0, second_run.stdout + second_run.stderr
    assert [*(project.storage / "shop/curated/batch_similar_items").iterdir()] == jobs
    assert read_lists(project).get_column("item_id").n_unique() == 80
