"""An experiment in a pipeline: two nights, its arms in the table, the sinks and the outcomes."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.outcomes.arms import CONTROL, MODEL, assign_arms
from batchrec_dagster.outcomes.outcome import Outcome
from batchrec_dagster.reporting.experiment import describe_control
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.published_table import Edition
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    module_project,
    outcomes_of,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server

HOLDOUT = Experiment(name="holdout", control_share=0.4)
LISTS = "curated/recommendations/recommendations.parquet"
OUTCOMES = "curated/recommendation_outcomes/recommendation_outcomes.parquet"


def test_a_control_with_popular_items_needs_no_model_of_them() -> None:
    for solution in ({}, {"recipe": "aws-user-personalization"}):
        for control in ("popular", "none"):
            experiment = {"name": "a", "control": control}
            attributes = declaration(
                "shop", "ratings.csv", solution=solution, experiment=experiment
            )
            Pipeline.model_validate(attributes)


class Shop:
    """A pipeline whose storage is a folder or a bucket."""

    def __init__(self, root: Path, control: str, s3: S3Server | None) -> None:
        root.mkdir()
        self.project = module_project(root)
        self.store = ObjectStore({"local": self.project.storage})
        self.root = "s3://local/shop"
        if s3 is not None:
            bucket = s3.create_bucket()
            self.store, self.root = s3.store(), f"s3://{bucket}/shop"
            self.project.environment = {**s3.environment(), "BATCHREC_STORAGE": f"s3://{bucket}"}
        experiment = {"name": "holdout", "control_share": 0.4, "control": control}
        sinks = {"export": {"rows": "per_user"}}
        settings = {"experiment": experiment, "sinks": sinks, "popularity": {"days": 10_000}}
        self.project.declare(declaration("shop", "ratings.csv", **settings))

    def run(self, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        result = refresh(self.project, "shop", instance, report=True)
        assert result.success
        return result

    def read_table(self, key: str) -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO(self.store.get(f"{self.root}/{key}")))

    def read_outcomes(self) -> list[Outcome]:
        return outcomes_of(self.read_table(OUTCOMES))


def write_night(project: Project, night: int) -> None:
    """Ratings until that night: what each user chose on the second comes after all of the first."""
    ratings = pl.read_csv(write_ratings(project.root / "ratings.csv"))
    order = pl.col("timestamp").rank("ordinal").over("userId")
    ratings_so_far = ratings.filter(order <= 22 + 4 * night)
    shift = pl.when(order > 26).then(20_000_000).otherwise(0)
    ratings_so_far.with_columns(pl.col("timestamp") + shift).write_csv(project.root / "ratings.csv")


def test_two_nights_of_an_experiment_in_a_folder_and_in_a_bucket(
    tmp_path: Path, s3: S3Server, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    shops = [Shop(tmp_path / "folder", "popular", None), Shop(tmp_path / "s3", "popular", s3)]
    outcomes_by_shop = [run_two_nights(shop, instance, "popular") for shop in shops]
    assert outcomes_by_shop[0] == outcomes_by_shop[1]
    check_night_after_publication(shops[0], instance)


@pytest.mark.slow
def test_two_nights_of_an_experiment_whose_control_gets_no_lists(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    shop = Shop(tmp_path / "shop", "none", None)
    assert run_two_nights(shop, instance, "none")


def check_night_after_publication(shop: Shop, instance: dg.DagsterInstance) -> None:
    """What comes after lists were published, counts from then on."""
    file = shop.project.root / "ratings.csv"
    ratings, time_ = pl.read_csv(file), pl.col("timestamp")
    is_last = time_ == time_.max().over("userId")
    shifted_times = pl.when(is_last).then(int(time.time()) + 60).otherwise(time_)
    ratings.with_columns(timestamp=shifted_times).write_csv(file)
    shop.run(instance)
    assert {(outcome.edition, outcome.since) for outcome in shop.read_outcomes()} == {
        (1, "publication"),
        (2, "publication"),
    }
    interactions_by_edition = {
        outcome.edition: outcome.interactions
        for outcome in shop.read_outcomes()
        if outcome.arm == MODEL
    }
    assert interactions_by_edition[1] == 0
    last_users = ratings.filter(is_last, pl.col("rating") >= 3.5)["userId"].cast(pl.String)
    assert interactions_by_edition[2] == int((assign_arms(last_users, HOLDOUT) == MODEL).sum())


def run_two_nights(shop: Shop, instance: dg.DagsterInstance, control: str) -> list[Outcome]:
    write_night(shop.project, 1)
    first = metadata(shop.run(instance), "recommendation_outcomes")
    assert first["dagster/row_count"] == 0
    assert "no later interactions yet" in first["preview"]
    lists = shop.read_table(LISTS)
    assert_arms(lists, control)
    export = shop.store.get(f"{shop.root}/curated/exports/recommendations.csv").decode()
    assert export.splitlines()[0].startswith('"user_id","arm","item_1"')

    write_night(shop.project, 2)
    second = metadata(shop.run(instance), "recommendation_outcomes")
    # Users who were in the control on the first night are still in it.
    second_lists = shop.read_table(LISTS)
    users_of_both = lists.unique("user_id").join(second_lists.unique("user_id"), on="user_id")
    assert (users_of_both["arm"] == users_of_both["arm_right"]).all()

    outcomes = shop.read_outcomes()
    assert [(outcome.edition, outcome.arm, outcome.since) for outcome in outcomes] == [
        (1, CONTROL, "data"),
        (1, MODEL, "data"),
    ]
    outcome_by_arm = {outcome.arm: outcome for outcome in outcomes}
    everyone = pl.Series([str(user) for user in range(1, 61)])
    for arm, outcome in outcome_by_arm.items():
        assert outcome.users == int((assign_arms(everyone, HOLDOUT) == arm).sum())
        assert outcome.interactions > 0
    assert (outcome_by_arm[CONTROL].hit_rate is None) == (control == "none")
    if control == "popular":
        # The lists of popular items reach what the outcomes say that popular items would reach.
        control_outcome = outcome_by_arm[CONTROL]
        assert control_outcome.gain is not None
        assert control_outcome.gain.value == 0
        assert control_outcome.recall is not None
        assert control_outcome.recall.value == control_outcome.popular_recall
    assert second["hit_rate"] == outcome_by_arm[MODEL].hit_rate.value  # type: ignore[union-attr]

    report = shop.store.get(f"{shop.root}/curated/report/index.html").decode()
    assert "In the experiment holdout, " in report
    window = "these are the most popular items of the last 10000 days"
    assert (window in report) == (control == "popular")
    # A user to whom the control gives no list does not count as missing.
    assert "requested users got no list" not in report
    assert (
        f"{outcome_by_arm[MODEL].active_users} of {outcome_by_arm[MODEL].users} users chose items"
        in report
    )
    assert_shown(shop)

    # A run on the same data makes and changes nothing.
    sums = shop.store.head(f"{shop.root}/curated/recommendation_outcomes/sums.parquet")
    shop.run(instance)
    assert shop.store.head(f"{shop.root}/curated/recommendation_outcomes/sums.parquet") == sums
    assert shop.read_outcomes() == outcomes
    assert shop.read_table(LISTS).equals(second_lists)
    return outcomes


def assert_shown(shop: Shop) -> None:
    """`batchrec show --experiment` says what the report says."""
    environment = {
        "BATCHREC_HOME": str(shop.project.root / ".batchrec"),
        **shop.project.environment,
    }
    result = CliRunner().invoke(main, ["show", "--experiment", "--json"], env=environment)
    assert result.exit_code == 0, result.output
    (pipeline,) = json.loads(result.output)["pipelines"]
    assert (pipeline["pipeline"], pipeline["result"]["name"]) == ("shop", "holdout")
    assert pipeline["published"] == "holdout"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchrec_dagster.outcomes.experiment.summarize_experiment", lambda _: None)
        result = CliRunner().invoke(main, ["show", "--experiment", "--json"], env=environment)
    (pipeline,) = json.loads(result.output)["pipelines"]
    assert pipeline["result"] is None
    text = CliRunner().invoke(main, ["show", "--experiment"], env=environment).output
    assert "In the experiment holdout, " in text
    result = CliRunner().invoke(main, ["show", "--experiment", "1"], env=environment)
    assert result.exit_code == 2
    lists = shop.read_table(LISTS)
    for user, has_popular in lists.select("user_id", pl.col("arm") == CONTROL).unique().iter_rows():
        if has_popular:
            text = CliRunner().invoke(main, ["show", user], env=environment).output
            assert "popular in the last 10000 days" in text
            assert "in the control of the experiment, which gets popular items" in text
            assert "audience overlaps most" not in text
            break


def assert_arms(lists: pl.DataFrame, control: str) -> None:
    users = lists.unique("user_id")
    assert users["arm"].to_list() == assign_arms(users["user_id"], HOLDOUT).to_list()
    control_lists = lists.filter(arm=CONTROL)
    if control == "none":
        assert control_lists.is_empty()
        return
    assert control_lists["score"].null_count() == control_lists.height
    model_lists = lists.filter(arm=MODEL)
    assert model_lists["score"].null_count() == 0


def test_an_experiment_says_which_popular_items_its_control_gets() -> None:
    def make_edition(number: int, name: str = "holdout", **about: Any) -> Edition:
        experiment = {"name": name, "control": "popular"}
        return Edition({"edition": number, "experiment": experiment, **about}, "")

    old, new = (make_edition(number, popularity={"days": 30}) for number in (1, 2))
    assert [*describe_control([new, old, make_edition(3, "other")], "holdout")] == [
        "In edition 2 these are the most popular items of the last 30 days."
    ]
    assert not [*describe_control([], "holdout")]
