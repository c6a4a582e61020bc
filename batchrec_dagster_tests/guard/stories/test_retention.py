"""Tests that retention keeps the declared editions, their jobs' outputs, and models in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    count_created,
    declaration,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import nightly

pytestmark = pytest.mark.slow

SHOP = declaration(
    "shop",
    "ratings.csv",
    retention={"editions": 1, "models": 1},
    solution={"recipe": "aws-user-personalization"},
    gate={"max_drop": 1},
)


def make_night(project: Project, instance: dg.DagsterInstance, seed: int, **changes: Any) -> None:
    """Refresh the pipeline with the ratings of this night."""
    write_ratings(project.root / "ratings.csv", seed=seed)
    project.declare({**SHOP, **changes})
    result = refresh(project, "shop", instance)
    assert result.success, why(result)


def list_outputs(project: Project) -> list[Path]:
    return [*(project.storage / "shop/curated/batch_inference").iterdir()]


def list_models(project: Project) -> list[Path]:
    """Return the folders of the embedded engine's models."""
    return [*(project.root / ".batchrec/personalize/models").iterdir()]


def test_sizes_level_off_and_nothing_is_deleted_that_is_needed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    for seed in range(3):
        make_night(project, instance, seed)
        assert len(list_models(project)) == 1
        # The models of the live edition, and of the edition before it, for a rollback.
        assert len(list_outputs(project)) == min(2, seed + 1)
    lists, jobs = table(project, "shop"), count_jobs(project)
    make_night(project, instance, seed=2)
    assert count_jobs(project) == jobs
    # Earlier settings, with a deleted output, are inferred again.
    for number in (5, 6):
        make_night(project, instance, seed=2, recommendations={"num_results": number})
    make_night(project, instance, seed=2)
    assert count_jobs(project) == jobs + 3
    assert table(project, "shop").equals(lists)


def count_jobs(project: Project) -> int:
    return count_created(project)["jobs"]


@nightly("three runs")
def test_removed_blocks_leave_nothing_and_may_come_back(
    project: Project, instance: dg.DagsterInstance
) -> None:
    rows = [f"{item},Title {item},{1900 + item}" for item in range(1, 81)]
    (project.root / "items.csv").write_text("\n".join(["sku,name,year", *rows]) + "\n")
    columns = {"item": "sku", "title": "name", "numbers": {"YEAR": "year"}}
    blocks = {
        "items": {"source": "items.csv", "columns": columns},
        "segments": {"items": ["1", "2"], "users_per_segment": 5},
    }
    segments = project.storage / "shop/curated/user_segments/user_segments.parquet"
    make_night(project, instance, 0, **blocks)
    assert segments.is_file()
    assert "title" in table(project, "shop").columns
    make_night(project, instance, 0)
    assert not segments.exists()
    files = [path for path in project.storage.rglob("*") if path.is_file()]
    # An edition that is kept for a rollback stays whole.
    left = [path for path in files if "history" not in path.parts]
    assert not [path for path in left if "Title 7" in read_text(path)]
    assert "title" not in table(project, "shop").columns
    make_night(project, instance, 0, **blocks)
    assert segments.is_file()
    assert "title" in table(project, "shop").columns


def read_text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")
