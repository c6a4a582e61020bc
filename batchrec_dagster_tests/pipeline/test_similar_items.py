"""similar_items: what goes with each item, found by a recipe or counted, as a published table."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.first_run import RATINGS, FirstRun
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    why,
)

BOUGHT_TOGETHER = {"within_days": 30, "num_results": 4}


def read_lists(project: Project) -> pl.DataFrame:
    folder = project.storage / "shop/lists/similar_items/curated/similar_items"
    return pl.read_parquet(folder / "similar_items.parquet")


@pytest.mark.slow  # a copied run and three small ones
def test_items_bought_together_are_published_kept_and_rolled_back(
    project: Project, instance: dg.DagsterInstance, first_run: FirstRun
) -> None:
    first_run.copy_to(project, instance)

    def run(**settings: Any) -> dg.ExecuteInProcessResult:
        similar_items = {**BOUGHT_TOGETHER, **settings}
        project.declare(declaration("shop", RATINGS, similar_items=similar_items))
        return refresh(project, "shop", instance, assets=["similar_items"])

    first = run()
    assert first.success, why(first)
    lists = read_lists(project)
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
