"""Tests that without extras, a pipeline runs on a remote Personalize and S3, as on AWS."""

from __future__ import annotations

from pathlib import Path

from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.night import night
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
        assert "recommendation_report" not in run_process.stdout
        user, _, item = shop.lists().row(0)
        lists = project.run("batchrec", "show", user)
        assert lists.returncode == 0, lists.stderr
        assert item in lists.stdout
        show_process = project.run("batchrec", "show", "--experiment")
        assert show_process.returncode == 1
        assert "pip install 'batchrec-dagster[report]'" in show_process.stderr
