"""The whole graph, from a ratings file to the table, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.support import (
    COLUMNS,
    Project,
    declaration,
    module_project,
    real_data,
    refresh,
    write_ratings,
)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return module_project(tmp_path)


def table(project: Project, name: str) -> pl.DataFrame:
    return pl.read_parquet(
        project.storage / name / "curated/recommendations/recommendations.parquet"
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None and event.asset_key.path[-1] == asset
    ]
    return {key: value.value for key, value in event.materialization.metadata.items()}


def test_a_ratings_file_becomes_recommendations_for_every_user(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declaration("shop", write_ratings(project.root / "ratings.csv")))
    result = refresh(project, "shop", instance)
    assert result.success
    lists = table(project, "shop")
    assert lists.columns == ["user_id", "rank", "item_id", "score"]
    assert lists.get_column("user_id").n_unique() == 60


def test_real_movielens_by_yaml_alone(project: Project, instance: dg.DagsterInstance) -> None:
    ratings = real_data("ml-latest-small") / "ratings.csv"
    project.declare(declaration("small", ratings))
    result = refresh(project, "small", instance)
    assert result.success
    frame = pl.read_csv(ratings, schema_overrides={"userId": pl.String}).filter(
        pl.col("rating") >= 3.5
    )
    assert metadata(result, "interactions")["dagster/row_count"] == frame.height
    lists = table(project, "small")
    assert set(lists.get_column("user_id")) == set(frame.get_column("userId"))

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
    assert refresh(project, "twin", instance).success
    assert table(project, "twin").equals(lists)
