"""Tests of several pipelines, and other people's assets, in a project."""

from __future__ import annotations

import re

import dagster as dg
import polars as pl
import pytest

# Dagster has no public function for the status that its UI shows.
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    REPOSITORY,
    Project,
    declaration,
    definitions,
    interactions,
    open_personalize,
    real_data,
    refresh,
    table,
)
from batchrec_dagster_tests.guard.repeats import nightly

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("first_run_of_shop")
def test_two_pipelines_share_nothing(project: Project, instance: dg.DagsterInstance) -> None:
    shop, client = table(project, "shop"), open_personalize(project)
    attributes = {"recommendations": {"num_results": 3}, "interactions": {}}
    project.declare(declaration("club", "ratings.csv", **attributes))
    assert refresh(project, "club", instance).success
    assert table(project, "club").get_column("rank").max() == 3
    assert table(project, "shop").equals(shop)
    groups = client.list_dataset_groups()["datasetGroups"]
    assert len({group["datasetGroupArn"] for group in groups}) == 2
    assert len(client.list_dataset_import_jobs()["datasetImportJobs"]) == 2
    assert {path.name for path in project.storage.iterdir()} == {"shop", "club"}


def stale(project: Project, instance: dg.DagsterInstance) -> dict[str, str]:
    """Return the UI's status of each asset that is not up to date."""
    with definitions(project) as defs:
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        statuses = {key.path[-1]: resolver.get_status(key) for key in graph.get_all_asset_keys()}
    return {name: status.value for name, status in statuses.items() if status.value != "FRESH"}


@pytest.mark.usefixtures("first_run_of_shop")
def test_dagster_calls_exactly_those_assets_stale_that_a_run_would_change(
    project: Project, instance: dg.DagsterInstance
) -> None:
    declared = declaration("shop", "ratings.csv")
    assert stale(project, instance) == {}
    project.declare({**declared, "interactions": {"min_rating": 4}})
    assert stale(project, instance) == {"interactions": "STALE"}
    project.declare({**declared, "recommendations": {"num_results": 5}})
    assert stale(project, instance) == {"recommendations": "STALE"}


@pytest.mark.usefixtures("first_run_of_shop")
def test_an_analysts_own_asset_gets_the_table_by_its_name(
    project: Project, instance: dg.DagsterInstance
) -> None:
    page = (REPOSITORY / "docs/plug-in.md").read_text()
    (code,) = re.findall(r"`defs/top10.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    (project.package / "defs" / "top10.py").write_text(code.replace("movielens", "shop"))
    with definitions(project) as defs:
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("top10")])
    top = result.output_for_node("top10")
    assert list(top["count"]) == sorted(top["count"], reverse=True)
    item, count = top.iloc[0]
    assert table(project, "shop").filter(pl.col("item_id") == item).height == count


@nightly("real data take seconds")
def test_real_movielens_by_yaml_alone(project: Project, instance: dg.DagsterInstance) -> None:
    ratings = real_data("ml-latest-small") / "ratings.csv"
    project.declare(declaration("small", ratings))
    result = refresh(project, "small", instance)
    assert result.success
    frame = pl.read_csv(ratings, schema_overrides={"userId": pl.String}).filter(
        pl.col("rating") >= 3.5
    )
    assert interactions(project, "small").height == frame.height
    assert set(table(project, "small")["user_id"]) == set(frame["userId"])

    # Files with different columns, separators and units have the same interactions.
    twin = project.root / "twin.dat"
    pl.read_csv(ratings).with_columns(pl.col("timestamp") * 1000).rename(
        {"userId": "userID", "movieId": "movieID"}
    ).write_csv(twin, separator="\t")
    project.declare(
        declaration(
            "twin",
            twin,
            ratings={
                "source": str(twin),
                "delimiter": "\t",
                "columns": {**COLUMNS, "user": "userID", "item": "movieID"},
            },
        )
    )
    assert refresh(project, "twin", instance, assets=["raw_ratings", "interactions"]).success
    assert interactions(project, "twin").equals(interactions(project, "small"))
