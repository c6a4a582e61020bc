"""A pipeline in a team's code location: jobs, alerts and teardown are about what it made itself,
whatever group or key prefix the team's own assets have."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from click.testing import CliRunner

import batchrec_dagster
from batchrec_dagster.cli import main
from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.runs import describe_runs_under_way
from batchrec_dagster_tests.first_run import FirstRun
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    why,
    write_ratings,
)

# Downstream of the lists, under the pipeline's prefix and in its group.
OF_THE_TEAM = """\
import dagster as dg

@dg.asset(key_prefix="shop", group_name="shop", deps=[dg.AssetKey(["shop", "recommendations"])])
def mailing() -> None: ...
"""
MAILING = dg.AssetKey(["shop", "mailing"])


@pytest.fixture
def team(project: Project) -> Project:
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    (project.package / "defs" / "mailing.py").write_text(OF_THE_TEAM)
    return project


def post_process(project: Project, **attributes: Any) -> None:
    """Let the team change all assets of the pipeline, by Dagster's own means."""
    file = project.package / "defs" / "shop" / "defs.yaml"
    change = {"assets": [{"target": "*", "attributes": attributes}]}
    declared = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**declared, "post_processing": change}))


OF_ANALYSTS = """\
from typing import Optional
import dagster as dg
import pandas as pd
import polars as pl
import batchrec_dagster

shop = batchrec_dagster.published("shop")

@dg.asset(ins={"lists": dg.AssetIn(key=shop.key, metadata={"columns": ["user_id", "rank"]})})
def few(lists: pl.DataFrame) -> list[str]:
    return lists.columns

@dg.asset(ins={"lists": dg.AssetIn(key=shop.key)})
def whole(lists: pd.DataFrame) -> int:
    return len(lists)

other = batchrec_dagster.published("other")

@dg.asset(ins={"lists": dg.AssetIn(key=other.key)})
def none(lists: Optional[pl.DataFrame]) -> bool:
    return lists is None
"""


def select_assets(defs: dg.Definitions, job: str) -> set[str]:
    keys = defs.resolve_job_def(job).asset_layer.executable_asset_keys
    return {key.to_user_string() for key in keys}


@pytest.mark.parametrize("group", [None, "marketing"])
def test_jobs_select_what_the_pipeline_made(team: Project, group: str | None) -> None:
    if group:
        post_process(team, group_name=group)
    with definitions(team) as defs:
        refreshed_assets = select_assets(defs, "shop_refresh")
        rolled_back_assets = select_assets(defs, "shop_rollback")
    assert {"shop/recommendations", "shop/recommendation_report"} <= rolled_back_assets
    assert {"shop/raw_ratings", *rolled_back_assets} <= refreshed_assets
    assert "shop/mailing" not in refreshed_assets


def test_a_run_of_the_teams_own_assets_is_none_of_the_pipelines(
    team: Project, instance: dg.DagsterInstance
) -> None:
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv"))
    with definitions(team) as defs:
        job = defs.resolve_job_def("shop_refresh")
        ours = set(job.asset_layer.executable_asset_keys)
        all_assets = defs.resolve_implicit_global_asset_job_def()

    def start_run(key: dg.AssetKey) -> dg.DagsterRun:
        return instance.create_run_for_job(
            all_assets, asset_selection={key}, status=dg.DagsterRunStatus.STARTED
        )

    start_run(MAILING)
    assert describe_runs_under_way(pipeline, ours, instance) == []
    lists = start_run(pipeline.asset_key("recommendations"))
    assert describe_runs_under_way(pipeline, ours, instance) == [
        f"run {lists.run_id} of __ASSET_JOB is under way"
    ]


def test_a_run_of_the_teams_own_job_with_our_assets_is_one_of_the_pipelines(
    team: Project, instance: dg.DagsterInstance
) -> None:
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv"))
    with definitions(team) as defs:
        ours = set(defs.resolve_job_def("shop_refresh").asset_layer.executable_asset_keys)
        jobs = [dg.define_asset_job("nightly", "*"), dg.define_asset_job("mails", [MAILING])]
        theirs = dg.Definitions.merge(defs, dg.Definitions(jobs=jobs))
        runs_by_job = {
            name: instance.create_run_for_job(
                theirs.resolve_job_def(name), status=dg.DagsterRunStatus.STARTED
            )
            for name in ("nightly", "mails")
        }
    nightly_run = runs_by_job["nightly"]
    assert nightly_run.asset_selection is None
    assert describe_runs_under_way(pipeline, ours, instance) == [
        f"run {nightly_run.run_id} of nightly is under way"
    ]


def test_the_yaml_says_how_the_assets_fit_into_the_project(team: Project) -> None:
    settings = {
        "key_prefix": "marketing/shop-eu",
        "group": "marketing",
        "tags": {"domain": "marketing"},
        "op_tags": {"size": "large"},
        "pool": "personalize",
        "retries": {"max_retries": 1, "delay_seconds": 5},
    }
    team.declare(declaration("shop", "ratings.csv", assets=settings, automation="eager"))
    (team.package / "defs" / "mailing.py").unlink()
    with definitions(team) as defs:
        (lists,) = (
            asset
            for asset in defs.resolve_asset_graph().assets_defs
            if asset.key == dg.AssetKey(["marketing", "shop-eu", "recommendations"])
        )
        sensor = defs.resolve_sensor_def("shop_automation")
        assert select_assets(defs, "shop_rollback") >= {"marketing/shop-eu/recommendation_report"}
    (spec,) = lists.specs
    assert spec.group_name == "marketing"
    assert spec.tags["domain"] == "marketing"
    assert spec.automation_condition == dg.AutomationCondition.eager()
    assert lists.op.tags["size"] == "large"
    assert lists.op.pool == "personalize"
    assert lists.op.retry_policy == dg.RetryPolicy(1, 5, dg.Backoff.EXPONENTIAL)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_automation_by_cron_has_a_time_zone(team: Project) -> None:
    zone = {"automation": "0 3 * * *", "automation_timezone": "Europe/Berlin"}
    team.declare(declaration("shop", "ratings.csv", **zone))
    with definitions(team) as defs:
        (spec,) = defs.resolve_assets_def(dg.AssetKey(["shop", "raw_ratings"])).specs
    expected = dg.AutomationCondition.on_cron("0 3 * * *", "Europe/Berlin")
    assert spec.automation_condition == expected


@pytest.mark.slow
def test_lists_are_loaded_in_another_code_location(
    first_run: FirstRun, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = pl.read_parquet(first_run.lists).height
    monkeypatch.setenv("BATCHREC_HOME", str(first_run.folder / ".batchrec"))
    scope: dict[str, Any] = {}
    exec(OF_ANALYSTS, scope)
    theirs = dg.Definitions(
        assets=[scope[name] for name in ("shop", "other", "few", "whole", "none")],
        resources={**batchrec_dagster.resources(), "io_manager": dg.mem_io_manager},
    )
    loaded = theirs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
    assert loaded.output_for_node("few") == ["user_id", "rank"]
    assert loaded.output_for_node("whole") == count
    assert loaded.output_for_node("none") is True


def test_partitions_that_mean_nothing_are_refused(
    team: Project, instance: dg.DagsterInstance
) -> None:
    daily = {"type": "daily", "start_date": "2026-01-01"}
    post_process(team, partitions_def=daily)
    with definitions(team) as defs:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["shop", "raw_ratings"])],
            partition_key="2026-01-02",
            raise_on_error=False,
        )
    assert why(result).startswith("shop has no partitions: each run makes the lists of all ratings")


@pytest.mark.slow
def test_check_judges_by_the_projects_own_definitions(
    team: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They load with those of the team: a key of ours is taken there."""
    monkeypatch.chdir(team.root)
    monkeypatch.setenv("BATCHREC_HOME", str(team.root / ".batchrec"))
    own = team.package / "definitions.py"
    own.write_text(
        "from pathlib import Path\nimport dagster as dg\n\n@dg.definitions\ndef defs():\n"
        "    ours = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
        "    return dg.Definitions.merge(ours, dg.Definitions(resources={KEY: 7}))\n"
    )
    outputs = {}
    for key in ("theirs", "batchrec_storage"):
        own.write_text(own.read_text().replace("KEY", repr(key)).replace("'theirs'", repr(key)))
        sys.modules.pop(f"{team.package.name}.definitions", None)
        importlib.invalidate_caches()
        outputs[key] = CliRunner().invoke(main, ["check"])
    assert outputs["theirs"].exit_code == 0, outputs["theirs"].output
    assert outputs["batchrec_storage"].exit_code == 1
    conflict = "different resources with same key 'batchrec_storage'"
    assert conflict in outputs["batchrec_storage"].output
