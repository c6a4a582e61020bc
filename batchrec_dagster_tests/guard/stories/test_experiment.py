"""Tests of an experiment over two nights: lists in the table and the export, and outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    interactions,
    module_project,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.seams.outcomes import assign_arm

pytestmark = pytest.mark.slow

HOLDOUT = {"name": "holdout", "control_share": 0.4}
USERS = [f"{user}" for user in range(1, 61)]
ARMS = {user: assign_arm(user, HOLDOUT) for user in USERS}


def write_night(file: Path, night: int) -> None:
    """Write ratings until this night; the second night's choices are after all of the first's."""
    ratings = pl.read_csv(write_ratings(file))
    order = pl.col("timestamp").rank("ordinal").over("userId")
    shift = pl.when(order > 26).then(20_000_000).otherwise(0)
    ratings = ratings.filter(order <= 22 + 4 * night)
    ratings.with_columns(pl.col("timestamp") + shift).write_csv(file)


def run(project: Project, instance: dg.DagsterInstance, control: str, night: int) -> None:
    write_night(project.root / "ratings.csv", night)
    settings: dict[str, Any] = {
        "experiment": {**HOLDOUT, "control": control},
        "sinks": {"export": {"rows": "per_user"}},
        "popularity": {"days": 10_000},
        "solution": {"recipe": "aws-user-personalization"},
        "gate": {"max_drop": 1},
    }
    project.declare(declaration("shop", "ratings.csv", **settings))
    result = refresh(project, "shop", instance)
    assert result.success, why(result)


def read_outcomes(project: Project) -> pl.DataFrame:
    folder = project.storage / "shop/curated/recommendation_outcomes"
    return pl.read_parquet(folder / "recommendation_outcomes.parquet")


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, pl.DataFrame]]:
    """Yield the project after two nights, and the lists of the first night."""
    with dg.DagsterInstance.ephemeral() as instance:
        project = module_project(tmp_path_factory.mktemp("shop"))
        run(project, instance, "popular", 1)
        first_lists = table(project, "shop")
        assert read_outcomes(project).is_empty()
        run(project, instance, "popular", 2)
        yield project, first_lists


def test_a_person_stays_in_an_arm_which_the_table_and_the_export_say(
    nights: tuple[Project, pl.DataFrame],
) -> None:
    project, first_lists = nights
    for lists in (first_lists, table(project, "shop")):
        assert dict(lists.select("user_id", "arm").iter_rows()) == ARMS
    export = (project.storage / "shop/curated/exports/recommendations.csv").read_text()
    assert export.replace('"', "").startswith("user_id,arm,item_1")


def test_the_control_gets_popular_items_that_the_person_did_not_have(
    nights: tuple[Project, pl.DataFrame],
) -> None:
    project, _ = nights
    lists = table(project, "shop")
    control = lists.filter(arm="control")
    assert control["score"].null_count() == control.height
    assert lists.filter(arm="model")["score"].null_count() == 0
    events = interactions(project, "shop")
    people = events.group_by("ITEM_ID").agg(people=pl.col("USER_ID").n_unique())
    popular = people.sort("people", "ITEM_ID", descending=[True, False])["ITEM_ID"].to_list()
    for user in control["user_id"].unique():
        had = {*events.filter(USER_ID=user)["ITEM_ID"]}
        expected = [item for item in popular if item not in had][:25]
        assert control.filter(user_id=user).sort("rank")["item_id"].to_list() == expected


def test_each_arm_has_its_outcomes(nights: tuple[Project, pl.DataFrame]) -> None:
    outcomes = read_outcomes(nights[0])
    assert {*outcomes.select("edition", "arm", "since").iter_rows()} == {
        (1, "control", "data"),
        (1, "model", "data"),
    }
    for row in outcomes.iter_rows(named=True):
        assert row["users"] == [*ARMS.values()].count(row["arm"])
        assert row["active_users"] > 0
    (control,) = outcomes.filter(arm="control").iter_rows(named=True)
    # The control's lists reach the figure that the outcomes report for popular items.
    assert control["gain"] == 0
    assert control["recall"] == control["popular_recall"]


def test_show_says_what_the_experiment_shows(nights: tuple[Project, pl.DataFrame]) -> None:
    project, _ = nights
    environment = {"BATCHREC_HOME": str(project.root / ".batchrec")}
    result = CliRunner().invoke(main, ["show", "--experiment"], env=environment)
    assert result.exit_code == 0, result.output
    assert "experiment holdout" in result.output
    controls = [*ARMS.values()].count("control")
    assert f"{controls} in the control" in " ".join(result.output.split())


def test_a_control_without_lists_has_no_rows_and_counts_all_the_same(
    project: Project, instance: dg.DagsterInstance
) -> None:
    for night in (1, 2):
        run(project, instance, "none", night)
        lists = table(project, "shop")
        assert {*lists["user_id"]} == {user for user in USERS if ARMS[user] == "model"}
    outcomes = read_outcomes(project)
    (control,) = outcomes.filter(arm="control").iter_rows(named=True)
    assert control["users"] == [*ARMS.values()].count("control")
    assert control["active_users"] > 0
    assert control["hit_rate"] is None
