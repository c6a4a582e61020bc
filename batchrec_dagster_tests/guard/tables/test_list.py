"""Tests of `batchrec list` on pipelines and nights that the tests write without a run."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project, declaration
from batchrec_dagster_tests.guard.seams.editions import (
    Files,
    make_finding,
    make_groups,
    make_popularity,
    open_list,
    publish_rows,
    record_night,
    restore_edition,
)
from batchrec_dagster_tests.texts import assert_texts

pytestmark = pytest.mark.slow

START = datetime(2026, 11, 20, 3, 10, tzinfo=UTC)
TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}
COLOURS = re.compile("\x1b\\[[0-9;]*m")
REASON = "the model is 12% worse than the one of edition 1: NDCG@25 0.1848, before 0.2100"


@pytest.fixture
def home(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a project with the pipelines `shop` and `club`."""
    for name in ("shop", "club"):
        project.declare(declaration(name, "ratings.csv"))
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(project.root)
    return project.root / ".batchrec"


def publish(files: Files, night: int, **facts: Any) -> None:
    """Publish the next edition in this night, like a run."""
    rows = pl.DataFrame({"user_id": ["1"], "rank": [1], "item_id": [f"item {night}"]})
    ndcg = 0.21 + night / 100
    stated = {
        "made_at": (START + timedelta(days=night)).isoformat(),
        "run": f"run {night}",
        "root_run": f"run {night}",
        "seconds": 185.0,
        "cost_usd": 1.5,
        "metrics": {"normalized_discounted_cumulative_gain_at_25": 0.21},
        "ndcg": {"value": ndcg, "low": ndcg - 0.02, "high": ndcg + 0.03},
        "groups": make_groups(ndcg, users=50),
        "measured_popularity": make_popularity(0.15, users=50),
        "counts": {"rows": 25 * 1234, "subjects": 1234},
    }
    publish_rows(files, rows, **{**stated, **facts})


def live_through_a_week(files: Files) -> None:
    """Record a week with all kinds of nights."""

    def record(night: int, ended: str, step: str, **facts: Any) -> None:
        time = START + timedelta(days=night, minutes=3)
        record_night(files, time, ended, step, f"run {night}", seconds=180.0, cost_usd=0.0, **facts)

    publish(files, 0)
    record(1, "refused", "recommendations", checks=("quality_gate",), reason=REASON, ndcg=0.1848)
    record(2, "failed", "raw_ratings", reason="orders.csv: there is no such file")
    publish(files, 3)
    restore_edition(files, 1, START + timedelta(days=4))
    record(5, "unchanged", "recommendations")
    publish(files, 6)
    # A sink failed after the publication.
    record(6, "failed", "recommendations_in_postgres", reason="connection refused")


def type_command(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(main, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return COLOURS.sub("", result.stdout)


def test_each_night_is_a_line_that_fits(home: Path) -> None:
    live_through_a_week(open_list(home, "shop"))
    titles = ("in a terminal of 80 columns", "in a pipe")
    outputs = [type_command("list", "shop", "--editions", **env) for env in (TERMINAL, {})]
    assert max(map(len, outputs[0].splitlines())) <= 80
    assert "…" not in outputs[0]
    never = type_command("list", "club", "--editions")
    assert_texts("nights", [*zip(titles, outputs, strict=True), ("no night yet", never)])
    (shop,) = json.loads(type_command("list", "shop", "--editions", "--json"))
    newest = shop["nights"][0]
    assert (newest["time"], newest["edition"]) == ("2026-11-26T03:10:00+00:00", 3)
    assert newest["is_live"]
    assert len(shop["nights"]) == 7


def test_a_list_has_its_own_nights_and_those_in_which_all_lists_failed(
    home: Path, project: Project
) -> None:
    project.declare(declaration("club", "ratings.csv", lists={"home": {}, "app": {}}))
    record_night(open_list(home, "club"), START, "failed", "raw_ratings", "run 1")
    for day, name in enumerate(("home", "app"), 1):
        files, time = open_list(home, f"club/{name}"), START + timedelta(days=day)
        record_night(files, time, "refused", "recommendations", f"run of {name}")
    lists = json.loads(type_command("list", "club", "--editions", "--json"))
    assert {
        pipeline_nights["pipeline"]: [night["run"] for night in pipeline_nights["nights"]]
        for pipeline_nights in lists
    } == {f"club/{name}": [f"run of {name}", "run 1"] for name in ("app", "home")}


def test_each_list_has_its_verdict_and_how_its_last_night_ended(home: Path) -> None:
    files = open_list(home, "shop")
    poor = make_finding("no_user_dominates", "watch", headline="one user has 12% of all rows")
    publish(files, 0, findings=[poor])
    time = START + timedelta(days=1)
    checks = ("quality_gate",)
    record_night(files, time, "refused", "recommendations", "run 1", checks=checks, reason=REASON)
    titles = ("in a terminal of 80 columns", "in a pipe")
    outputs = [type_command("list", **env) for env in (TERMINAL, {})]
    assert max(map(len, outputs[0].splitlines())) <= 80
    shown = type_command("show", **TERMINAL).replace(str(home), "HOME")
    assert_texts("list", [*zip(titles, outputs, strict=True), ("batchrec show", shown)])
    club, shop = json.loads(type_command("list", "--json"))
    assert (club["pipeline"], club["edition"], club["last_night"]) == ("club", None, None)
    assert shop["edition"]["verdict"].startswith("Look before you send: one user has 12%")
    assert (shop["last_night"]["status"], shop["last_night"]["reason"]) == ("refused", REASON)
