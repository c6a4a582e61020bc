"""What loading pipelines imports: every start of Dagster, and every step in its own process, waits
for it."""

import subprocess
import sys
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.support import Project, declaration, definitions

# Each is imported where it is used.
HEAVY = {
    *("alembic", "dagster_aws", "implicit", "numpy", "pandas", "pyarrow", "pyspark", "requests"),
    *("scipy", "sqlalchemy", "starlette", "threadpoolctl", "uvicorn", "vl_convert"),
}


def test_loading_pipelines_imports_nothing_that_only_steps_use() -> None:
    code = (
        "import sys; from batchrec_dagster import BatchRecommendations, definitions;"
        "definitions.defs(); print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert set(done.stdout.split()) & HEAVY == set()


def test_a_project_is_walked_through_once_however_many_pipelines_it_has(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []
    walk = dg.ComponentTree.find_root_decl

    def counted(tree: dg.ComponentTree) -> Any:
        walks.append(tree)
        return walk(tree)

    monkeypatch.setattr(dg.ComponentTree, "find_root_decl", counted)
    numbers = []
    for name in ("one", "two", "three", "four"):
        project.declare(declaration(name, "ratings.csv"))
        walks.clear()
        with definitions(project):
            numbers.append(len(walks))
    assert numbers == [numbers[0]] * 4
