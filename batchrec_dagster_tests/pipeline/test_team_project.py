"""batchrec from outside: its wheel in a fresh environment with dagster-dbt and s3fs, in projects of
Dagster's own tools. Only what the docs say is typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster_tests.repeats import IS_LONG
from batchrec_dagster_tests.repository.typed_pages import clone_project, type_commands
from batchrec_dagster_tests.support import REPOSITORY, write_ratings

pytestmark = pytest.mark.slow

# Pinned, as is what they have in common with this environment: a release by others fails no test.
# dbt-core 1.12 builds a part of it from what GitHub has.
PACKAGES = ("create-dagster", "dagster-dg-cli", "dagster-webserver", "s3fs==2026.9.0")
DBT = ("dagster-dbt", "dbt-duckdb==1.11.1", "dbt-core==1.11.16")
# Of which they need older ones.
UNPINNED = ("batchrec", "boto", "pathspec", "s3transfer")
NO_REGISTRY = re.compile(
    "dns error|client error|server error|sending request|timed out|failed to (fetch|download)",
    re.IGNORECASE,
)
UV = (sys.executable, "-m", "uv")
LISTS = ".batchrec/storage/shop/curated/recommendations/recommendations.parquet"
# Of the team: an asset upstream, and one downstream in the pipeline's group; IO managers, S3 and
# loggers of its own, under the usual keys.
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


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment with the wheel."""

    bin: Path
    pins: Path

    def install(self, *packages: str) -> None:
        """Install them by the uv of these tests. Skips where no package registry can be reached."""
        command = [*UV, "pip", "install", "-q", "--python", str(self.bin / "python")]
        installation = subprocess.run(
            [*command, "--constraints", str(self.pins), *packages],
            capture_output=True,
            text=True,
            check=False,
        )
        if installation.returncode and NO_REGISTRY.search(installation.stderr):
            pytest.skip(f"no package registry can be reached: {installation.stderr}")
        assert installation.returncode == 0, installation.stderr

    def run(self, folder: Path, *command: str, fails: bool = False) -> str:
        """The output of a command that is typed in the folder."""
        inherited_variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BATCHREC_", "DAGSTER_", "VIRTUAL_ENV", "PYTHONPATH"))
        }
        # Dagster's own commands remember what was materialized only where this is set.
        history = self.bin.parent / "history" / folder.name
        history.mkdir(parents=True, exist_ok=True)
        process = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=folder,
            env={
                **inherited_variables,
                "PATH": f"{self.bin}:{inherited_variables['PATH']}",
                "PWD": str(folder),
                "SHOP_ROOT": str(folder),
                "DAGSTER_HOME": str(history),
                "COLUMNS": "200",
                "PYTHONWARNINGS": "ignore",
            },
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        output = process.stdout + process.stderr
        assert (process.returncode != 0) == fails, output
        return output


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Skips where no package registry can be reached."""
    root = tmp_path_factory.mktemp("fresh")
    venv = root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pins = root / "pins.txt"
    pins.write_text(
        "".join(
            f"{package.name}=={package.version}\n"
            for package in distributions()
            if not package.name.startswith(UNPINNED)
        )
    )
    environment = Environment(venv / "bin", pins)
    clone = clone_project(root / "clone")
    hint = type_commands(["make wheel"], clone)
    (wheel,) = (clone / "dist").iterdir()
    assert f"pip install '{wheel.relative_to(clone)}[local,report,serve]'" in hint
    assert not (clone / "build").exists()
    environment.install(f"{wheel}[local,report]", *PACKAGES)
    return environment


@pytest.fixture(scope="module")
def team(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of create-dagster with assets of its own, and the pipeline by `dg scaffold`."""
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
    # The refresh ran none of theirs.
    assert not (team / "theirs").exists()


def test_the_pipeline_is_between_their_assets(environment: Environment, team: Path) -> None:
    declaration_file = team / "src" / "acme" / "defs" / "shop" / "defs.yaml"
    declaration_file.write_text(
        declaration_file.read_text().replace("orders.csv", "asset://orders")
    )
    # Their group has another name than the pipeline.
    declaration_file.write_text(
        f"{declaration_file.read_text()}\npost_processing:\n  assets:\n"
        "    - {target: '*', attributes: {group_name: marketing}}\n"
    )
    log = environment.run(team, "dg", "launch", "--assets", "+key:shop/mailing")
    assert "asset://orders: copied" in log
    assert (team / "theirs" / "shop" / "mailing").exists()


def test_a_mistake_in_the_yaml_is_one_line_there_too(environment: Environment, team: Path) -> None:
    declaration_file = team / "src" / "acme" / "defs" / "shop" / "defs.yaml"
    declaration_before = declaration_file.read_text()
    declaration_file.write_text(declaration_before.replace("num_results: 25", "num_results: 0"))
    try:
        output = environment.run(team, "batchrec", "check", fails=True)
    finally:
        declaration_file.write_text(declaration_before)
    assert f"{declaration_file.relative_to(team)}, line " in output
    assert "recommendations.num_results" in output
    assert "Traceback" not in output


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
    assert "All pipelines" in environment.run(project, "batchrec", "check")
    # What a colleague types in a copy of the project's repository.
    environment.install("--editable", str(project))
    environment.run(tmp_path, "python", "-c", "import lists.definitions")


@pytest.mark.skipif(not IS_LONG, reason="make test-long: pip takes a minute")
def test_pip_installs_the_wheel_and_a_colleagues_project(
    environment: Environment, tmp_path: Path
) -> None:
    write_ratings(tmp_path / "ratings.csv")
    environment.run(tmp_path, "batchrec", "init", "lists")
    project = tmp_path / "lists"
    # Before its first pipeline.
    assert "All definitions loaded" in environment.run(project, "dg", "check", "defs")
    colleague = Environment(tmp_path / "venv/bin", environment.pins)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    dist = environment.bin.parent.parent / "clone/dist"
    colleague.run(project, "pip", "install", "-q", "--find-links", str(dist), "-e", ".")
    colleague.run(project, "batchrec", "new", "shop", "--ratings", "../ratings.csv")
    assert "All pipelines" in colleague.run(project, "batchrec", "check")
    # A further part of it, as the messages say that ask for one.
    colleague.run(project, "pip", "install", "-q", "batchrec-dagster[sql]")
    colleague.run(project, "python", "-c", "import duckdb")


def remember_the_version(dbt: Path) -> None:
    """dagster-dbt asks for it before each of dbt's commands; dbt takes seconds of CPU to say it."""
    version = subprocess.run([dbt, "--version"], capture_output=True, check=True).stdout
    Path(f"{dbt}.version").write_bytes(version)
    dbt.rename(f"{dbt}.real")
    remembered = f'[ "$*" = --version ] && exec cat "{dbt}.version"'
    dbt.write_text(f'#!/bin/sh\n{remembered}\nexec "{dbt}.real" "$@"\n')
    dbt.chmod(0o755)


def test_a_dbt_model_feeds_the_pipeline_and_another_reads_its_lists(
    environment: Environment, tmp_path: Path
) -> None:
    folder = tmp_path / "dbt"
    shutil.copytree(REPOSITORY / "examples" / "dbt", folder)
    (folder / "data").mkdir()
    # Not before: every `dg` command imports it then, which takes two seconds of CPU.
    environment.install(*DBT)
    remember_the_version(environment.bin / "dbt")
    environment.run(folder, "dg", "launch", "--assets", "*")
    assert pl.read_parquet(folder / LISTS)["user_id"].n_unique() == 100
    count = "import duckdb; print(duckdb.connect('data/shop.duckdb').sql("
    count += "'select sum(lists) from most_recommended').fetchall()[0][0])"
    assert environment.run(folder, "python", "-c", count).split()[-1] == "1000"
