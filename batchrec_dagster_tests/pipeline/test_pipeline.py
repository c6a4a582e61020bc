"""The whole graph, from a ratings file to the table, in this process."""

from __future__ import annotations

import re

import dagster as dg
import polars as pl
import pytest

# Dagster has no public way to ask what its UI shows.
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    REPOSITORY,
    Project,
    declaration,
    definitions,
    interactions,
    metadata,
    outcomes,
    real_data,
    refresh,
    table,
    write_ratings,
)

UNCHANGED = [
    f"unchanged: not {step} again" for step in ("copied", "imported", "trained", "inferred")
]


def test_a_ratings_file_becomes_recommendations_for_every_user(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declaration("shop", write_ratings(project.root / "ratings.csv")))
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    lists = table(project, "shop")
    assert lists.schema == {
        "user_id": pl.String,
        "rank": pl.Int32,
        "item_id": pl.String,
        "score": pl.Float64,
    }
    prepared = interactions(project, "shop")
    assert set(lists.get_column("user_id")) == set(prepared.get_column("USER_ID"))
    assert (
        lists.group_by("user_id").agg(pl.col("rank").sort()).get_column("rank").to_list()
        == [list(range(1, 26))] * lists.get_column("user_id").n_unique()
    )
    seen = prepared.select(user_id="USER_ID", item_id="ITEM_ID")
    assert lists.join(seen, on=["user_id", "item_id"], how="semi").is_empty()
    # Users and items have two tastes, odd and even: who has learned something keeps them apart.
    first = lists.filter(pl.col("rank") <= 5)
    is_own_taste = (
        first.get_column("user_id").cast(int) - first.get_column("item_id").cast(int)
    ) % 2 == 0
    assert is_own_taste.sum() > 0.9 * is_own_taste.len()

    counts = metadata(result, "interactions")
    assert counts["rows_read"] == 60 * 30
    assert counts["dagster/row_count"] == prepared.height
    assert counts["left_out_by_reason"] == {"rating below min_rating": 1800 - prepared.height}
    schema = metadata(result, "raw_ratings")["dagster/column_schema"]
    assert [column.name for column in schema.columns] == list(COLUMNS.values())
    version = metadata(result, "solution_version")
    assert version["ndcg_at_25"] > version["popularity_ndcg_at_25"] > 0
    assert outcomes(result) == ["copied", "imported", "trained", "inferred"]
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == 12
    assert all(evaluation.passed for evaluation in evaluations)
    # Each stands beside the materialization that it looked at, not the one before.
    assert all(evaluation.target_materialization_data for evaluation in evaluations)


@pytest.mark.slow
def test_the_same_run_twice_imports_and_trains_nothing(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.declare(declaration("shop", write_ratings(project.root / "ratings.csv")))
    first = refresh(project, "shop", instance, report=True)
    before = table(project, "shop")
    page = (project.storage / "shop/curated/report/index.html").read_text()
    # Nothing is built or counted again.
    monkeypatch.delattr("batchrec_dagster.steps.infer.build_table")
    monkeypatch.delattr("batchrec_dagster.pipeline.report.count_tallies")
    second_result = refresh(project, "shop", instance, report=True)
    assert second_result.success
    assert outcomes(second_result) == UNCHANGED
    assert table(project, "shop").equals(before)
    checks = [
        {check.check_name: check for check in result.get_asset_check_evaluations()}
        for result in (first, second_result)
    ]
    assert checks[0].keys() == checks[1].keys()
    for name in ("every_user_answered", "no_seen_items", "lists_full"):
        old, new = (evaluations[name] for evaluations in checks)
        assert (new.passed, new.metadata) == (old.passed, old.metadata)
        check_results = (
            rf"{re.escape(str(old.description))}; as checked 20\d\d-\d\d-\d\d, when edition 1 "
        )
        assert re.match(check_results, f"{new.description}")
    reused, inferred = (metadata(result, "recommendations") for result in (second_result, first))
    differing = {key for key in inferred if inferred[key] != reused.get(key)}
    assert differing == {"outcome", "seconds", "cost_usd_on_aws"}
    second_page = (project.storage / "shop/curated/report/index.html").read_text()
    assert re.findall("<script.*?</script>", second_page, re.S) == re.findall(
        "<script.*?</script>", page, re.S
    )


@pytest.mark.slow
def test_two_pipelines_share_nothing(project: Project, instance: dg.DagsterInstance) -> None:
    source = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", source))
    project.declare(
        declaration("club", source, recommendations={"num_results": 3}, interactions={})
    )
    shop, club = refresh(project, "shop", instance), refresh(project, "club", instance)
    assert shop.success
    assert club.success
    assert outcomes(club) == ["copied", "imported", "trained", "inferred"]
    assert table(project, "shop").get_column("rank").max() == 25
    assert table(project, "club").get_column("rank").max() == 3
    arns = [metadata(run, "personalize_dataset")["dataset_arn"] for run in (shop, club)]
    assert len(set(arns)) == 2
    assert {path.name for path in project.storage.iterdir()} == {"shop", "club"}


def stale(project: Project, instance: dg.DagsterInstance) -> dict[str, str]:
    """What the UI says of each asset that is not up to date."""
    with definitions(project) as defs:
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        statuses = {key.path[-1]: resolver.get_status(key) for key in graph.get_all_asset_keys()}
    return {name: status.value for name, status in statuses.items() if status.value != "FRESH"}


@pytest.mark.slow
def test_what_the_ui_calls_stale_is_what_a_run_would_change(
    project: Project, instance: dg.DagsterInstance
) -> None:
    declared = declaration("shop", write_ratings(project.root / "ratings.csv"))
    project.declare(declared)
    assert set(stale(project, instance).values()) == {"MISSING"}
    refresh(project, "shop", instance, report=True)
    assert stale(project, instance) == {}
    refresh(project, "shop", instance, report=True)
    assert stale(project, instance) == {}
    project.declare({**declared, "interactions": {"min_rating": 4}})
    assert stale(project, instance) == {"interactions": "STALE"}
    project.declare({**declared, "recommendations": {"num_results": 5}})
    assert stale(project, instance) == {"recommendations": "STALE"}


@pytest.mark.slow
def test_an_analysts_own_asset_gets_the_table_by_its_name(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declaration("movielens", write_ratings(project.root / "ratings.csv")))
    page = (REPOSITORY / "docs/publishing.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (project.package / "defs" / "top10.py").write_text(code)
    assert refresh(project, "movielens", instance).success
    with definitions(project) as defs:
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("top10")])
    top = result.output_for_node("top10")
    lists = table(project, "movielens")
    assert list(top["count"]) == sorted(top["count"], reverse=True)
    item, count = top.iloc[0]
    assert lists.filter(pl.col("item_id") == item).height == count


@pytest.mark.slow
def test_real_movielens_by_yaml_alone(project: Project, instance: dg.DagsterInstance) -> None:
    ratings = real_data("ml-latest-small") / "ratings.csv"
    project.declare(declaration("small", ratings))
    result = refresh(project, "small", instance)
    assert result.success
    frame = pl.read_csv(ratings, schema_overrides={"userId": pl.String}).filter(
        pl.col("rating") >= 3.5
    )
    assert metadata(result, "interactions")["dagster/row_count"] == frame.height
    assert set(table(project, "small")["user_id"]) == set(frame["userId"])
    version = metadata(result, "solution_version")
    assert version["ndcg_at_25"] > 1.5 * version["popularity_ndcg_at_25"] > 0

    # Other columns, separators and units are the same interactions.

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
