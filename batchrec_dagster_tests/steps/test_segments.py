"""Segments: the users who belong to an item, or to what items have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.pipeline.test_pipeline import stale
from batchrec_dagster_tests.preparation.test_items import COLUMNS, QUICK, write_items
from batchrec_dagster_tests.preparation.test_own_filter import accept_filter

pytestmark = pytest.mark.slow

ITEMS = ["1", "2", "3"]


def declare_segments(
    project: Project, segments: dict[str, Any], **attributes: Any
) -> dict[str, Any]:
    source = write_ratings(project.root / "ratings.csv")
    return declaration("shop", source, segments=segments, solution=QUICK, **attributes)


def read_items(project: Project) -> dict[str, Any]:
    source = write_items(project.root / "items.csv")
    return {"source": str(source), "columns": COLUMNS, "separator": ";"}


def find_newest_output(project: Project) -> Path:
    outputs = (project.storage / "shop/curated/batch_segments").glob("*/*.out")
    return max(outputs, key=lambda file: file.stat().st_mtime_ns)


def count_jobs(project: Project) -> int:
    client = embedded_client(project.root / ".batchrec/personalize", ObjectStore())
    return len(client.list_batch_segment_jobs()["batchSegmentJobs"])


def read_segments(project: Project) -> pl.DataFrame:
    return pl.read_parquet(project.storage / "shop/curated/user_segments/user_segments.parquet")


def test_each_item_gets_the_users_who_belong_to_it(
    project: Project, instance: dg.DagsterInstance
) -> None:
    settings = declare_segments(project, {"items": ITEMS, "users_per_segment": 10})
    project.declare(settings)
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    table = read_segments(project)
    assert table.schema == {"segment": pl.String, "rank": pl.Int32, "user_id": pl.String}
    assert table.get_column("segment").to_list() == [item for item in ITEMS for _ in range(10)]
    assert table.get_column("rank").to_list() == [*range(1, 11)] * 3
    # Users and items have two tastes, odd and even.
    is_same_parity = (
        table.get_column("segment").cast(int) - table.get_column("user_id").cast(int)
    ) % 2 == 0
    assert is_same_parity.sum() > 0.9 * is_same_parity.len()
    version = metadata(result, "segment_solution_version")
    assert version["recipe"] == "aws-item-affinity"
    assert {"coverage", "hits_at_1_percent", "recall_at_1_percent"} <= set(version)
    segments_metadata = metadata(result, "user_segments")
    assert (
        segments_metadata["outcome"],
        segments_metadata["segments"],
        segments_metadata["empty_segments"],
    ) == ("segmented", 3, 0)
    cost = Prices().price_segments(3, users=60).usd
    assert (segments_metadata["cost_usd"], segments_metadata["cost_usd_on_aws"]) == (
        0,
        pytest.approx(cost),
    )
    lists = Prices().price_recommendations(str(QUICK["recipe"]), 60).usd
    checks = [
        e for e in result.get_asset_check_evaluations() if "user_segments" in e.asset_key.path
    ]
    assert len(checks) == 3
    assert all(check.passed for check in checks)

    second_result = refresh(project, "shop", instance, report=True)
    assert (
        metadata(second_result, "segment_solution_version")["outcome"]
        == "unchanged: not trained again"
    )
    assert metadata(second_result, "user_segments")["outcome"] == "unchanged: not segmented again"
    assert metadata(second_result, "user_segments")["cost_usd_on_aws"] == 0
    estimate = metadata(second_result, "personalize_dataset")["estimated_usd_on_aws"]
    assert estimate == pytest.approx(lists + cost)
    assert read_segments(project).equals(table)

    settings["segments"]["items"] = ["4"]
    project.declare(settings)
    assert stale(project, instance) == {"user_segments": "STALE"}
    other = refresh(project, "shop", instance)
    assert metadata(other, "segment_solution_version")["outcome"] == "unchanged: not trained again"
    assert metadata(other, "user_segments")["outcome"] == "segmented"
    table = read_segments(project)
    assert set(table.get_column("segment")) == {"4"}

    # An output that is not right fails the run, and the next one starts a new job.
    output = find_newest_output(project)
    line = json.loads(output.read_text())
    line["output"]["usersList"][1] = line["output"]["usersList"][0]
    for jobs, content in enumerate([json.dumps(line), "[", f"{output.read_text()}" * 2], start=3):
        find_newest_output(project).write_text(content)
        failed = refresh(project, "shop", instance, assets=["user_segments"])
        assert why(failed).endswith("Run again: the next run starts a new job")
        assert count_jobs(project) == jobs - 1
        result = refresh(project, "shop", instance, assets=["user_segments"])
        assert result.success, why(result)
        assert metadata(result, "user_segments")["cost_usd_on_aws"] > 0
        assert read_segments(project).equals(table)
        assert count_jobs(project) == jobs


def test_attributes_of_items_get_users_and_items_titles(
    project: Project, instance: dg.DagsterInstance
) -> None:
    comedy = 'ITEMS.genres = "Comedy" AND Items.GENRES = "Romance"'
    settings = declare_segments(
        project,
        {"attributes": [comedy, 'ITEMS.GENRES = "Drama"'], "users_per_segment": 10},
        items=read_items(project),
    )
    project.declare(settings)
    result = refresh(project, "shop", instance)
    assert result.success
    table = read_segments(project)
    assert table.columns == ["segment", "rank", "user_id"]
    assert table.height == 20
    odd = table.select(pl.col("user_id").cast(int) % 2 == (pl.col("segment") == comedy))
    assert odd.to_series().sum() >= 16  # 10 by chance
    assert metadata(result, "segment_solution_version")["recipe"] == "aws-item-attribute-affinity"

    project.declare({**settings, "segments": {"items": ITEMS, "users_per_segment": 2}})
    assert refresh(project, "shop", instance).success
    table = read_segments(project)
    assert table.columns == ["segment", "title", "rank", "user_id"]
    assert table.get_column("title").to_list() == [
        f"Film, no. {item}" for item in ITEMS for _ in range(2)
    ]


def test_what_cannot_be_answered_is_reported_and_not_published(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = 'EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("*")'
    settings = declare_segments(project, {"items": ITEMS, "filter": nobody})
    project.declare(settings)
    result = refresh(project, "shop", instance)
    assert result.success
    assert metadata(result, "user_segments")["empty_segments"] == 3
    before = read_segments(project)
    assert before.is_empty()

    settings["segments"] = {"items": [*ITEMS, "no item"]}
    project.declare(settings)
    unknown = why(refresh(project, "shop", instance))
    assert unknown.startswith("no_failed_segments: 1 of 4 segments failed")
    assert unknown.endswith("; fix segments.items")
    # Another job would return the same error, and cost money. Another setting starts one.
    assert why(refresh(project, "shop", instance, assets=["user_segments"])) == unknown
    assert count_jobs(project) == 2
    settings["segments"] = {"items": [*ITEMS, "4"], "filter": nobody}
    project.declare(settings)
    assert refresh(project, "shop", instance, assets=["user_segments"]).success
    assert count_jobs(project) == 3

    monkeypatch.setattr(
        "batchrec_dagster.config.expression_problems.find_filter_problem", accept_filter
    )
    settings["segments"] = {"items": ITEMS, "filter": "EXCLUDE UserID WHERE Users.AGE < 18"}
    project.declare(settings)
    message = why(refresh(project, "shop", instance))
    assert message.startswith("segments.filter: Personalize rejected the filter shop-")
    assert read_segments(project).equals(before)
