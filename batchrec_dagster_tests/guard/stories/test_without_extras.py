"""Tests that without extras, a pipeline runs on a remote Personalize and S3, as on AWS."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
from pyarrow import parquet as pq

from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.night import TABLE, night
from batchrec_dagster_tests.guard.servers.s3 import S3Server

# The packages that pyproject.toml's extras install for a pipeline.
MODULES = (
    *("apprise", "dagster_webserver", "implicit", "psycopg2", "pyspark", "scipy"),
    *("starlette", "threadpoolctl", "uvicorn"),
)
# All steps run in one process, because starting processes takes longer than the steps.
DEFINITIONS = """\
from pathlib import Path

import dagster as dg
from batchrec_dagster.definitions import load


@dg.definitions
def defs() -> dg.Definitions:
    return load(Path(__file__).parent)


dg.multiprocess_executor = dg.in_process_executor
"""
# Python imports this module at its start, which hides the packages of the extras.
ABSENT = f"""\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {MODULES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
find_spec = importlib.util.find_spec

def absent(name, package=None):
    try:
        return find_spec(name, package)
    except ModuleNotFoundError:
        return None

importlib.util.find_spec = absent
"""


@nightly("steps in processes take seconds")
def test_without_extras_a_pipeline_runs_and_is_shown(tmp_path: Path, s3: S3Server) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(ABSENT)
    with night(tmp_path, s3) as shop:
        shop.start_personalize()
        project = shop.project
        (project.package / "definitions.py").write_text(DEFINITIONS)
        project.environment |= shop.environment | {
            "PYTHONPATH": f"{tmp_path / 'python'}:{project.root}"
        }
        run_process = project.run("batchrec", "run", "shop")
        assert run_process.returncode == 0, run_process.stdout + run_process.stderr
        assert "published edition 1" in run_process.stdout
        first_lists = shop.lists()
        user, _, item = first_lists.row(0)
        lists = project.run("batchrec", "show", user)
        assert lists.returncode == 0, lists.stderr
        assert item in lists.stdout

        # The next night judges what people chose from the lists, as it does with all extras.
        with (project.root / "ratings.csv").open("a") as ratings:
            for user, _, item in first_lists.filter(pl.col("rank") <= 3).iter_rows():
                ratings.write(f"{user},{item},5,1600000000\n")
        second_run = project.run("batchrec", "run", "shop")
        assert second_run.returncode == 0, second_run.stdout + second_run.stderr
        assert "published edition 2" in second_run.stdout
        file = s3.store().get(f"s3://{shop.bucket}/{TABLE}")
        metadata = pq.read_metadata(io.BytesIO(file)).metadata
        assert any(b"those who chose something new" in value for value in metadata.values())
        experiment = project.run("batchrec", "show", "--experiment")
        assert experiment.returncode == 0, experiment.stderr
