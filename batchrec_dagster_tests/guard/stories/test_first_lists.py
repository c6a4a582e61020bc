"""Tests of a pipeline with ratings alone: full lists of new items that fit each user's taste."""

from __future__ import annotations

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    interactions,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.seams.runs import short_filter_history

pytestmark = pytest.mark.slow


def test_nobody_gets_an_item_again_that_personalizes_filter_forgot(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """On AWS, a filter sees the last 100 interactions of a user. Here it sees the last 20."""
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv", recommendations={"num_results": 10}))
    with short_filter_history(20):
        result = refresh(project, "shop", instance)
    assert result.success, why(result)
    lists = table(project, "shop")
    assert lists.height == 60 * 10
    had = interactions(project, "shop").select(user_id="USER_ID", item_id="ITEM_ID")
    assert lists.join(had, on=["user_id", "item_id"], how="semi").is_empty()


def test_a_ratings_file_becomes_a_list_of_their_taste_for_every_user(first_run: FirstRun) -> None:
    lists = pl.read_parquet(first_run.lists)
    assert lists.schema == {
        "user_id": pl.String,
        "rank": pl.Int32,
        "item_id": pl.String,
        "score": pl.Float64,
    }
    had = interactions(Project(first_run.folder), "shop")
    assert {*lists["user_id"]} == {*had["USER_ID"]}
    assert lists.height == 60 * 25
    had = had.select(user_id="USER_ID", item_id="ITEM_ID")
    assert lists.join(had, on=["user_id", "item_id"], how="semi").is_empty()
    # Users and items have two tastes, odd and even. A trained model separates the tastes.
    first = lists.filter(pl.col("rank") <= 5)
    is_own_taste = (first["user_id"].cast(int) - first["item_id"].cast(int)) % 2 == 0
    assert is_own_taste.sum() > 0.9 * first.height


def test_requests_filter_seen_items(first_run: FirstRun) -> None:
    """Without the filter, lists would be short for users who have most of the model's items."""
    requests = {request.operation: request.params for request in first_run.requests}
    filtered = requests["CreateFilter"]
    assert filtered["filterExpression"] == 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
    filter_arn = requests["CreateBatchInferenceJob"]["filterArn"]
    assert filter_arn.endswith(f"/{filtered['name']}")
