"""A whole team's project on the oldest and the newest Python, in `make test-long`.

The project has dbt, a partitioned upstream asset, pipelines in Python and its history in
PostgreSQL. `dg` runs it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml

from batchrec_dagster_tests.guard.builders import REPOSITORY, write_ratings
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer, postgres_server
from batchrec_dagster_tests.pipeline.fresh_environment import (
    DBT,
    Environment,
    make_environment,
    remember_the_version,
)

pytestmark = [
    pytest.mark.slow,
    nightly("a whole team's project on two Pythons"),
]

PYTHONS = ["3.11", "3.13"]
# The team's clicks by day, which two pipelines read, next to the project of examples/dbt.
CLICKS = """\
import dagster as dg
import polars as pl

days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")

@dg.asset(partitions_def=days, io_manager_key="theirs")
def clicks(context: dg.AssetExecutionContext) -> pl.DataFrame:
    day = days.get_partition_keys().index(context.partition_key)
    frame = pl.read_csv("clicks.csv")
    return frame.filter(pl.col("userId") % 3 == day)

@dg.asset(ins={"lists": dg.AssetIn(key=["all_days", "recommendations"])}, io_manager_key="theirs")
def mailing(lists: pl.DataFrame) -> int:
    return lists["user_id"].n_unique()

defs = dg.Definitions(
    assets=[clicks, mailing],
    resources={"theirs": dg.FilesystemIOManager(base_dir="theirs")},
)
"""
PIPELINES = """\
import dagster as dg
from batchrec_dagster import BatchRecommendations

def make(name):
    columns = {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}
    return BatchRecommendations.model_validate({
        "name": name,
        "ratings": {"source": "asset://clicks", "columns": columns},
        "interactions": {"min_rating": 3.5},
        "recommendations": {"num_results": 5},
    })

@dg.component_instance
def all_days(context: dg.ComponentLoadContext) -> BatchRecommendations:
    return make("all_days")

class Shops(dg.Component, dg.Model, dg.Resolvable):
    names: list[str]

    def build_defs(self, context):
        made = [make(name) for name in self.names]
        return dg.Definitions.merge(*[pipeline.build_defs(context) for pipeline in made])

@dg.component_instance
def shops(context):
    return Shops(names=["of_shops"])
"""
TESTS = """\
pytest_plugins = ["batchrec_dagster.testing"]

def test_shop(run_pipeline):
    columns = {"user": "userId", "item": "movieId", "timestamp": "timestamp"}
    run = run_pipeline("shop", {"ratings.source": "clicks.csv", "ratings.columns": columns})
    assert run.lists["user_id"].n_unique() == 60
"""


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module", params=PYTHONS)
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Return the environment of a Python version. Skips the tests if it is not installed."""
    wanted = request.param
    python = find_python(wanted)
    if python is None:
        pytest.skip(f"Python {wanted} is not installed: apt-get install python{wanted}-venv")
    environment = make_environment(
        tmp_path_factory.mktemp("fresh"),
        *DBT,
        "pytest",
        extras="local,postgres,serve",
        python=python,
    )
    remember_the_version(environment.bin / "dbt")
    return environment


def find_python(wanted: str) -> str | None:
    """Return this version's interpreter; None if it is not installed, or only as a shim."""
    for name in (sys.executable, f"/usr/bin/python{wanted}", shutil.which(f"python{wanted}")):
        if name is not None and Path(name).exists():
            question = "import sys, venv; print('{}.{}'.format(*sys.version_info))"
            answer = subprocess.run(
                [name, "-c", question], capture_output=True, text=True, check=False
            )
            if answer.stdout.strip() == wanted:
                return name
    return None


def test_a_teams_project_runs_as_a_whole(
    environment: Environment, database: PostgresServer, tmp_path: Path
) -> None:
    folder = tmp_path / "team"
    shutil.copytree(REPOSITORY / "examples" / "dbt", folder)
    (folder / "data").mkdir()
    write_ratings(folder / "clicks.csv")
    defs = folder / "shop_dbt" / "defs"
    (defs / "clicks.py").write_text(CLICKS)
    (defs / "pipelines.py").write_text(PIPELINES)
    url = database.create_database(f"team_{environment.bin.parent.parent.name}")
    storage = {"storage": {"postgres": {"postgres_url": url}}}
    home = environment.home(folder)
    (home / "dagster.yaml").write_text(yaml.safe_dump(storage))

    def published(name: str) -> pl.DataFrame:
        lists = f".batchrec/storage/{name}/curated/recommendations/recommendations.parquet"
        return pl.read_parquet(folder / lists)

    assert "All definitions loaded" in environment.run(folder, "dg", "check", "defs")
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        environment.run(folder, "dg", "launch", "--assets", "clicks", "--partition", day)
    # One run makes dbt's models, the pipeline on dbt's model, and the two pipelines on the clicks.
    environment.run(folder, "dg", "launch", "--assets", "not key:clicks")
    assert published("shop")["user_id"].n_unique() == 100
    # A model of dbt reads the lists, too.
    count = "import duckdb; print(duckdb.connect('data/shop.duckdb').sql("
    count += "'select sum(lists) from most_recommended').fetchall()[0][0])"
    assert environment.run(folder, "python", "-c", count).split()[-1] == "1000"
    assert published("all_days")["user_id"].n_unique() == 60
    assert published("of_shops")["user_id"].n_unique() == 60
    # Dagster's history is in PostgreSQL alone.
    assert not list(home.rglob("*.db"))
    assert database.query("SELECT count(*) FROM runs", url=url) == [(4,)]
    assert "shop" in environment.run(folder, "batchrec", "list")
    (folder / "test_shop.py").write_text(TESTS)
    assert "1 passed" in environment.run(folder, "python", "-m", "pytest", "-q", "test_shop.py")
