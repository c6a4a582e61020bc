"""Tests of the console's log in a code location with pipelines alone, and in a team's project."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from batchrec_dagster.definitions import load
from batchrec_dagster_tests.guard.builders import Project, declaration, definitions


@pytest.fixture(autouse=True)
def in_the_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))


def test_it_is_in_json_or_in_lines_without_control_characters_but_for_a_teams(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The name of the only column has a bidirectional control character, so that the run fails."""
    (project.root / "ratings.csv").write_text("bell\u202e\n1\n")
    project.declare(declaration("shop", "ratings.csv"))

    def log(defs: dg.Definitions) -> str:
        result = defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["shop", "raw_ratings"])],
            raise_on_error=False,
        )
        assert not result.success
        text = "".join(capfd.readouterr())
        assert "bell" in text
        return text

    assert "\u202e" not in log(load(project.package))
    monkeypatch.setenv("BATCHREC_LOG_FORMAT", "json")
    lines = [json.loads(line) for line in log(load(project.package)).splitlines()]
    assert any("bell" in line["msg"] for line in lines)
    project.environment["BATCHREC_LOG_FORMAT"] = "json"
    with definitions(project) as defs:
        assert not log(defs).startswith("{")


def test_a_rollback_logs_in_the_chosen_format(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (project.root / "ratings.csv").write_text("user_id,item_id,timestamp\n1,2,1500000000\n")
    project.declare(declaration("shop", "ratings.csv"))
    monkeypatch.setenv("BATCHREC_LOG_FORMAT", "json")
    job = load(project.package).resolve_job_def("shop_rollback")
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    lines = [json.loads(line) for line in "".join(capfd.readouterr()).splitlines()]
    assert any("shop" in line["msg"] for line in lines)
