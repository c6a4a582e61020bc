"""solution.success in a pipeline: the same model and lists, judged by purchases."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    module_project,
    refresh,
)
from batchrec_dagster_tests.guard.stories.test_success import COLUMNS, write_events


def declare(project: Project, *events: str, **attributes: Any) -> None:
    solution = {"success": [*events]} if events else {}
    project.declare(
        declaration(
            "shop",
            "events.csv",
            ratings={"source": "events.csv", "columns": COLUMNS},
            interactions={},
            solution=solution,
            # Purchases are what few people do, so popular items are better or worse by chance.
            gate={"min_coverage": 0},
            **attributes,
        )
    )


def run(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    skip = {"ops": {"shop__recommendations": {"config": {"skip_quality_gate": True}}}}
    return refresh(project, "shop", instance, skip, report=True)


def read_gate(result: dg.ExecuteInProcessResult) -> str:
    [gate] = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "quality_gate"
    ]
    return (gate.description or "").replace("\\", "")


def test_a_model_is_judged_by_purchases_without_another_training(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = module_project(tmp_path)
    write_events(project.root / "events.csv")
    declare(project)
    all_events = run(project, instance)
    declare(project, "purchase")
    purchases = run(project, instance)
    again = run(project, instance)
    before, after = (metadata(result, "solution_version") for result in (all_events, purchases))
    assert after["solution_version_arn"] == before["solution_version_arn"]
    assert "success" not in before
    assert after["success"] == ["purchase"]
    assert before["ndcg_at_25"] != after["ndcg_at_25"]
    assert after["popularity_ndcg_at_25"] != before["popularity_ndcg_at_25"]
    assert after["counted_events"] == "The metrics count purchase alone."

    editions = [
        metadata(result, "recommendations")["edition"] for result in (all_events, purchases)
    ]
    assert [*editions, metadata(again, "recommendations")["edition"]] == [1, 2, 2]
    arns = {
        metadata(result, "recommendations")["batch_inference_job_arn"]
        for result in (all_events, purchases)
    }
    assert len(arns) == 1
    assert read_gate(all_events).startswith("NDCG@25 ")
    gate = read_gate(purchases)
    assert gate.startswith(f"NDCG@25 for purchase {after['ndcg_at_25']:.4f}, compared with ")
    assert f"{after['popularity_ndcg_at_25']:.4f} for the most popular items" in gate

    monkeypatch.chdir(project.root)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shown = CliRunner().invoke(main, ["show"]).output
    text = " ".join(shown.split())
    assert "shop, edition 2" in text
    nights = CliRunner().invoke(main, ["list", "shop", "--editions"]).output
    assert "NDCG@25 counts purchase from edition 2 on; before that, all events." in nights
    [listed] = json.loads(CliRunner().invoke(main, ["list", "shop", "--editions", "--json"]).output)
    assert [night["success"] for night in listed["nights"] if night["edition"]] == [
        ["purchase"],
        [],
    ]
    [page] = project.storage.glob("shop/curated/report/index.html")
    assert "for purchase" in re.sub("<[^>]*>", "", page.read_text())

    # Later each of 40 people buys something for 10, and clicks on two things.
    file, later = project.root / "events.csv", 1_700_000_000
    lines = [f"u{user},new,{later + user},purchase,10" for user in range(40)]
    lines += [
        f"u{user},i{user % 9},{later + 100 * n},click,99" for user in range(40) for n in (1, 2)
    ]
    file.write_text(file.read_text() + "\n".join(lines) + "\n")
    steps = ["raw_ratings", "interactions", "recommendation_outcomes"]
    numbers = metadata(refresh(project, "shop", instance, assets=steps), "recommendation_outcomes")
    days = (later + 200 - 1_600_000_000) / 86_400
    assert numbers["active_users"] == 40
    assert numbers["event_value"] == pytest.approx(40 * 10 / 300 / days, rel=0.01)
    assert numbers["list_event_value"] == 0
    assert "40 of 300 users chose items that they did not have, by purchase alone." in (
        numbers["preview"].replace("\\", "")
    )
