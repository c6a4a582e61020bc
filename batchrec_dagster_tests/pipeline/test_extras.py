"""Without any extra, a pipeline runs on a Personalize and an S3 elsewhere, as on AWS."""

from __future__ import annotations

from pathlib import Path

from batchrec_dagster.cli.init import DEFINITIONS_MODULE
from batchrec_dagster.storage.extras import EXTRAS
from batchrec_dagster_tests.guard.servers.night import night
from batchrec_dagster_tests.guard.servers.s3 import S3Server

# Python imports this at its start: the packages of the extras are not to be found.
ABSENT = f"""\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {sorted({module for modules in EXTRAS.values() for module in modules})!r}:
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


def test_without_extras_a_pipeline_runs_and_is_shown(tmp_path: Path, s3: S3Server) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(ABSENT)
    with night(tmp_path, s3) as shop:
        shop.start_personalize()
        project = shop.project
        # In one process: to start one for each step takes longer than the steps.
        (project.package / "definitions.py").write_text(
            f"{DEFINITIONS_MODULE}\ndg.multiprocess_executor = dg.in_process_executor\n"
        )
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
