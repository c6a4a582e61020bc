"""Tests that each night is recorded with its edition, its refusing check, or its failure."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project, definitions, refresh, write_ratings
from batchrec_dagster_tests.guard.first_run import DECLARATION, RATINGS
from batchrec_dagster_tests.guard.repeats import nightly

pytestmark = pytest.mark.slow


def list_nights(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(main, ["list", "--editions", "--json", *arguments])
    assert result.exit_code == 0, result.output
    (pipeline,) = json.loads(result.stdout)
    assert pipeline["pipeline"] == "shop"
    nights: list[dict[str, Any]] = pipeline["nights"]
    return nights


def show(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["show", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    (pipeline,) = json.loads(result.stdout)["pipelines"]
    assert isinstance(pipeline, dict)
    return pipeline


@nightly("five runs")
def test_the_nights_of_a_pipeline_are_listed(
    project: Project,
    first_run_of_shop: None,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in project.process_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.root)
    ratings = project.root / RATINGS
    content = ratings.read_bytes()

    ratings.unlink()
    assert not refresh(project, "shop", instance).success
    ratings.write_bytes(content)
    assert refresh(project, "shop", instance).success
    write_ratings(ratings, users=61)
    project.declare({**DECLARATION, "gate": {"min_ndcg_at_25": 1.0}})
    assert not refresh(project, "shop", instance).success
    project.declare(DECLARATION)
    assert refresh(project, "shop", instance, report=True).success
    with definitions(project) as defs:
        rollback = defs.resolve_job_def("shop_rollback").execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(["shop", "recommendations"])]
        )
    assert rollback.success

    nights = [*reversed(list_nights())]
    assert [(night["edition"], night["status"]) for night in nights] == [
        (1, "published"),
        (None, "failed"),
        (None, "unchanged"),
        (None, "refused"),
        (2, "rolled back"),
        (1, "restored"),
    ]
    first, failed, _, refused, second, restored = nights
    assert (failed["steps"], refused["checks"]) == (["raw_ratings"], ["quality_gate"])
    # Each night has a line with the reason.
    assert "there is no such file" in failed["reason"]
    assert "gate.min_ndcg_at_25 is 1" in refused["reason"]
    assert not any("\n" in night["reason"] for night in nights)
    # The refused model is published next.
    assert refused["ndcg"] == second["ndcg"] > 0
    assert (first["users"], second["users"], restored["users"]) == (60, 61, 60)
    assert second["cost_usd"] == 0
    assert second["seconds"] > 0
    assert (second["until"], restored["is_live"]) == (restored["time"], True)

    # A person's list at that time is the list of that time's edition.
    first_list = show("1", "--edition", "1")
    assert first_list["recommendations"] == show("1")["recommendations"]
    assert show("61", "--edition", "2")["edition"] == 2
    assert show("61", "--edition", "1")["recommendations"] == []
