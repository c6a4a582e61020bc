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

from batchrec_dagster.reporting.lookup import find_user
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.show import format_text
from batchrec_dagster.reporting.summary import describe_run_result, describe_similar_items
from batchrec_dagster.steps import similar_items as steps_of_similar_items
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster.storage.unpublished_runs import UnpublishedRuns
from batchrec_dagster_tests.first_run import RATINGS, FirstRun
from batchrec_dagster_tests.repeats import IS_LONG
from batchrec_dagster_tests.support import (
    Project,
    copied_project,
    declaration,
    definitions,
    interactions,
    killed_at,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.unpacked_page import unpack_page_data

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
    data = unpack_page_data(page.partition('id="people-data">')[2].partition("</script>")[0])
    ids = [item[0] for item in data["items"]]
    similar = [ids[place] for place in data["similar"][str(ids.index("7"))]]
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
    similar_items = {
        "num_results": 5,
        "items": {"source": str(project.root / "pages.csv")},
        "rules": {"pin": [{"item": "1", "rank": 2}]},
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
    pinned = lists.filter(similar_item_id="1")
    # The pinned item is on all lists but its own.
    assert {*pinned.get_column("item_id")} == {"2", "3", "99", "unknown"}
    assert {*pinned.get_column("rank")} == {2}
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


def {function}(work, *others, **settings):
    import time

    work.ensure.log.info("before the publication")
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(not IS_LONG, reason="make test-long: three processes for each kill")
@pytest.mark.parametrize(
    ("module", "function", "unpublished"),
    [
        # Its job is finished.
        ("similar_items", "build_item_lists", "similar_items/curated/similar_items"),
        ("after_order", "build_table", "thanks/curated/recommendations"),
    ],
)
def test_a_run_killed_before_lists_of_similar_items_are_published_goes_on(
    tmp_path: Path, module: str, function: str, unpublished: str
) -> None:
    project = copied_project(tmp_path)
    write_ratings(tmp_path / "ratings.csv")
    lists = {"home": {}, "thanks": {"about": "last_order"}}
    project.declare(declaration("shop", "ratings.csv", similar_items={}, lists=lists))
    step = tmp_path / "batchrec_dagster" / "steps" / f"{module}.py"
    code = step.read_text()
    step.write_text(code + WAITING.format(function=function))
    killed_at(project, REFRESH, "before the publication")
    step.write_text(code)
    assert not (project.storage / "shop/lists" / unpublished).exists()
    jobs = [*(project.storage / "shop/curated/batch_similar_items").iterdir()]
    assert len(jobs) == 1

    second_run = project.run(*REFRESH)
    assert second_run.returncode == 0, second_run.stdout + second_run.stderr
    assert [*(project.storage / "shop/curated/batch_similar_items").iterdir()] == jobs
    assert read_lists(project).get_column("item_id").n_unique() == 80
    thanks = project.storage / "shop/lists/thanks/curated/recommendations/recommendations.parquet"
    assert pl.read_parquet(thanks).get_column("user_id").n_unique() == 60


@pytest.mark.slow  # a copied run, and lists that no job makes
def test_a_list_about_the_last_order_is_made_of_similar_items(
    project: Project, instance: dg.DagsterInstance, first_run: FirstRun
) -> None:
    first_run.copy_to(project, instance)
    lists = {
        "home": {},
        "post_purchase": {
            "about": "last_order",
            "num_results": 3,
            "rules": {"pin": [{"item": "1", "rank": 3}]},
            "sinks": {"export": {}},
        },
    }
    project.declare(declaration("shop", RATINGS, similar_items=BOUGHT_TOGETHER, lists=lists))
    jobs = [*(project.storage / "shop/curated/batch_inference").iterdir()]

    def run(*assets: str) -> dg.ExecuteInProcessResult:
        with definitions(project) as defs:
            job = defs.resolve_job_def("shop_refresh")
            selection = [dg.AssetKey(["shop", *asset.split("/")]) for asset in assets]
            return job.execute_in_process(
                instance=instance, asset_selection=selection, raise_on_error=False
            )

    lists_alone = ("similar_items", "post_purchase/recommendations")
    first = run(*lists_alone, "post_purchase/recommendations_export")
    assert first.success, why(first)
    folder = project.storage / "shop/lists/post_purchase/curated"
    table = pl.read_parquet(folder / "recommendations/recommendations.parquet")
    assert table.columns == ["user_id", "rank", "item_id", "score", "reason"]
    assert table.get_column("user_id").n_unique() == 60
    history = interactions(project, "shop").select("USER_ID", "ITEM_ID").unique()
    seen = table.join(history, left_on=["user_id", "item_id"], right_on=["USER_ID", "ITEM_ID"])
    assert not seen.height
    # Users of one taste bought items of one half mostly, and get more of it.
    own = table.filter(pl.col("reason").is_null())
    is_own_half = own.select(pl.col("user_id").cast(int) % 2 == pl.col("item_id").cast(int) % 2)
    assert is_own_half.to_series().sum() > 0.8 * own.height
    assert (folder / "exports/recommendations.csv").exists()
    assert [*(project.storage / "shop/curated/batch_inference").iterdir()] == jobs
    repeated = run(*lists_alone)
    assert metadata(repeated, "recommendations")["outcome"] == "unchanged: not made again"
    with definitions(project) as defs:
        assert "shop__post_purchase_rollback" in {job.name for job in defs.resolve_all_job_defs()}
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    published = PublishedResults(storage, "shop/post_purchase")
    (heading, counts, *_) = describe_run_result(published, "another", "1 s")
    assert "shop/post_purchase: the lists are unchanged" in heading
    assert counts.endswith(f"{table.height} recommendations for 60 users")
    first_user = own.item(0, "user_id")
    user = find_user(published, first_user)
    assert user is not None
    listed = table.filter(user_id=first_user).get_column("item_id").to_list()
    assert [entry.item for entry in user.recommendations] == listed
    # What explains the list is of the last order, not of the whole history.
    assert user.last_order
    ordered = {item.item for item in user.last_order}
    explaining = {entry.because for entry in user.recommendations if entry.because is not None}
    assert explaining
    assert explaining <= ordered
    text = format_text(user, None, with_runs=False)
    assert f"last order: {user.last_order[0].item}" in text
    assert "because of: the item in the last order" in text
    # Later, some people choose what is on their list.
    with (project.root / RATINGS).open("a") as ratings:
        for listed_user, item in (
            own.filter(rank=1).select("user_id", "item_id").head(20).iter_rows()
        ):
            ratings.write(f"{listed_user},{item},5,1600000000\n")
    later = run(
        *("raw_ratings", "interactions", "post_purchase/recommendation_outcomes"),
        *("post_purchase/recommendation_report", "recommendation_report"),
    )
    assert later.success, why(later)
    outcome = metadata(later, "recommendation_outcomes")
    assert (outcome["edition"], outcome["hit_rate"], outcome["active_users"]) == (1, 1, 20)
    page = (folder / "report/index.html").read_text()
    data = json.loads(page.partition('id="people-data">')[2].partition("</script>")[0])
    assert "No model made these lists, so there is no quality to measure" in page
    assert "The lists were made from earlier data" in page
    # What explains a list is the order that it was made from, also on the page.
    place = [row[0] for row in data["people"]].index(first_user)
    names, listed_places = data["items"]["id"], data["people"][place][3]
    assert {names[item] for item in data["orders"][place]} == ordered
    assert {names[item] for item in listed_places[1::3] if item >= 0} == explaining
    assert (
        "lists/post_purchase/curated/report/index.html"
        in (project.storage / "shop/curated/report/index.html").read_text()
    )
    (_, address, number) = describe_similar_items(published, "another")
    assert address == "shop/similar_items: unchanged: edition 1"
    assert number.endswith("similar items of 80 items")

    # Rules that leave nothing are refused, and that night has no quality of another list's model.
    (project.root / "blocked.csv").write_text("\n".join(["item", *map(str, range(1, 81))]))
    lists["post_purchase"] = {"about": "last_order", "rules": {"block": {"source": "blocked.csv"}}}
    project.declare(declaration("shop", RATINGS, similar_items=BOUGHT_TOGETHER, lists=lists))
    assert not run("post_purchase/recommendations").success
    nights = {night.ending: night for night in UnpublishedRuns(published.files).read()}
    assert nights.keys() == {"unchanged", "refused"}
    assert nights["refused"].checks == ("lists_not_emptied",)
    assert nights["refused"].ndcg is None
