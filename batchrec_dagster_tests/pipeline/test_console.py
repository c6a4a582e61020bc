"""The console's log in a code location of pipelines alone, and in a team's."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from batchrec_dagster.definitions import load
from batchrec_dagster_tests.guard.builders import Project, declaration, definitions

RAW = dg.AssetKey(["shop", "raw_ratings"])


def fail(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """A run that fails: the name of the only column has a mark that turns text round."""
    result = defs.resolve_job_def("shop_refresh").execute_in_process(
        instance=instance, asset_selection=[RAW], raise_on_error=False
    )
    assert not result.success


def test_it_is_in_json_or_in_lines_without_control_characters(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (project.root / "ratings.csv").write_text("bell\u202e\n1\n")
    project.declare(declaration("shop", "ratings.csv"))
    monkeypatch.syspath_prepend(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    fail(load(project.package), instance)
    text = "".join(capfd.readouterr())
    assert "bell" in text
    assert "\u202e" not in text
    monkeypatch.setenv("BATCHREC_LOG_FORMAT", "json")
    fail(load(project.package), instance)
    lines = [json.loads(line) for line in "".join(capfd.readouterr()).splitlines()]
    assert any("bell" in line["msg"] for line in lines)


def test_a_teams_console_is_dagsters(
    project: Project, instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    project.environment["BATCHREC_LOG_FORMAT"] = "json"
    (project.root / "ratings.csv").write_text("bell\u202e\n1\n")
    project.declare(declaration("shop", "ratings.csv"))
    with definitions(project) as defs:
        fail(defs, instance)
    text = "".join(capfd.readouterr())
    assert "bell" in text
    assert not text.startswith("{")
