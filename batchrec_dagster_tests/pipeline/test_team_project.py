"""Tests of batchrec's wheel in projects that Dagster's own tools made.

The environment is fresh and has dagster-dbt and s3fs. Only the docs' commands are run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import write_ratings
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.pipeline.fresh_environment import (
    Environment,
    make_environment,
)

pytestmark = [
    pytest.mark.slow,
    nightly("a fresh environment takes minutes"),
]

LISTS = ".batchrec/storage/shop/curated/recommendations/recommendations.parquet"
# The team has an upstream asset, a downstream asset in the pipeline's group, and its own IO
# managers, S3 resource and loggers under the usual keys.
TEAM = """\
import dagster as dg
import pandas as pd
from dagster_aws.s3 import S3Resource

@dg.asset
def orders() -> pd.DataFrame:
    return pd.read_csv("orders.csv")

@dg.asset(group_name="shop", key_prefix="shop",
          ins={"lists": dg.AssetIn(key=["shop", "recommendations"])})
def mailing(lists: pd.DataFrame) -> int:
    return len(lists)

defs = dg.Definitions(
    assets=[orders, mailing],
    resources={"io_manager": dg.FilesystemIOManager(base_dir="theirs"), "s3": S3Resource()},
    loggers={"json": dg.json_console_logger},
    executor=dg.in_process_executor,
)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return the environment. Skips the tests if no package registry answers."""
    return make_environment(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def team(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of create-dagster with the team's assets and a pipeline by `dg scaffold`."""
    folder = tmp_path_factory.mktemp("team") / "acme"
    environment.run(folder.parent, "create-dagster", "project", "acme", "--no-uv-sync")
    environment.install("--no-deps", "--editable", str(folder))
    (folder / "src" / "acme" / "defs" / "team.py").write_text(TEAM)
    ratings = write_ratings(folder / "ratings.csv")
    text = ratings.read_text().replace("userId,movieId,rating", "user_id,item_id,rating")
    (folder / "orders.csv").write_text(text)
    return folder


def test_five_lines_of_shell_make_lists_in_a_teams_project(
    environment: Environment, team: Path
) -> None:
    assert "batchrec_dagster.BatchRecommendations" in environment.run(
        team, "dg", "list", "components"
    )
    scaffold = ("dg", "scaffold", "defs", "batchrec_dagster.BatchRecommendations", "shop")
    environment.run(team, *scaffold, "--ratings", "orders.csv")
    declaration_file = team / "src" / "acme" / "defs" / "shop" / "defs.yaml"
    assert str(environment.bin.parent) not in declaration_file.read_text()
    assert "site-packages" not in declaration_file.read_text()
    assert "All definitions loaded" in environment.run(team, "dg", "check", "defs")
    environment.run(team, "dg", "launch", "--job", "shop_refresh")
    assert pl.read_parquet(team / LISTS)["user_id"].n_unique() == 60
    # The refresh ran none of the team's assets.
    assert not (team / "theirs").exists()


def test_the_pipeline_is_between_their_assets(environment: Environment, team: Path) -> None:
    declaration_file = team / "src" / "acme" / "defs" / "shop" / "defs.yaml"
    declaration_file.write_text(
        declaration_file.read_text().replace("orders.csv", "asset://orders")
    )
    # The team's group has another name than the pipeline.
    declaration_file.write_text(
        f"{declaration_file.read_text()}\npost_processing:\n  assets:\n"
        "    - {target: '*', attributes: {group_name: marketing}}\n"
    )
    log = environment.run(team, "dg", "launch", "--assets", "+key:shop/mailing")
    # The pipeline reads the team's upstream asset, and the team's other asset reads the pipeline.
    steps = re.findall(r"STEP_SUCCESS - Finished execution of step \"(\w+)\"", log)
    assert {"orders", "shop__raw_ratings", "shop__recommendations"} <= set(steps)
    assert steps.index("orders") < steps.index("shop__raw_ratings")
    assert (team / "theirs" / "shop" / "mailing").exists()


def test_an_empty_folder_becomes_a_report_in_five_commands(
    environment: Environment, tmp_path: Path
) -> None:
    write_ratings(tmp_path / "ratings.csv")
    environment.run(tmp_path, "batchrec", "init", "lists")
    project = tmp_path / "lists"
    environment.run(project, "batchrec", "new", "shop", "--ratings", "../ratings.csv")
    environment.run(project, "batchrec", "run", "shop")
    report = environment.run(project, "batchrec", "open").splitlines()[0]
    assert (project / report).is_file()
    assert "passed: settings, pipelines" in environment.run(project, "batchrec", "check")
    # A colleague types this in a copy of the project's repository.
    environment.install("--editable", str(project))
    environment.run(tmp_path, "python", "-c", "import lists.definitions")


def test_pip_installs_the_wheel_and_a_colleagues_project(
    environment: Environment, tmp_path: Path
) -> None:
    write_ratings(tmp_path / "ratings.csv")
    environment.run(tmp_path, "batchrec", "init", "lists")
    project = tmp_path / "lists"
    colleague = Environment(tmp_path / "venv/bin", environment.pins)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    dist = environment.bin.parent.parent / "clone/dist"
    colleague.run(project, "pip", "install", "-q", "--find-links", str(dist), "-e", ".")
    colleague.run(project, "batchrec", "new", "shop", "--ratings", "../ratings.csv")
    assert "passed: settings, pipelines" in colleague.run(project, "batchrec", "check")
    # An extra is installed as the message about its absence says.
    colleague.run(project, "pip", "install", "-q", "batchrec-dagster[sql]")
    colleague.run(project, "python", "-c", "import duckdb")
