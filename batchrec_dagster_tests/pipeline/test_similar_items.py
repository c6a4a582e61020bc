"""similar_items: what goes with each item, found by a recipe or counted, as a published table."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    copied_project,
    declaration,
    killed_at,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import IS_LONG

REFRESH = ("dagster", "job", "execute", "-m", "batchrec_dagster.definitions", "-j", "shop_refresh")


def read_lists(project: Project) -> pl.DataFrame:
    folder = project.storage / "shop/lists/similar_items/curated/similar_items"
    return pl.read_parquet(folder / "similar_items.parquet")


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
