"""A pipeline in a team's code location: jobs, alerts and teardown are about what it made itself,
whatever group or key prefix the team's own assets have."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
import yaml

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.runs import is_of, running
from batchrec_dagster_tests.support import Project, declaration, definitions, write_ratings

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


def selected(defs: dg.Definitions, job: str) -> set[str]:
    keys = defs.resolve_job_def(job).asset_layer.executable_asset_keys
    return {key.to_user_string() for key in keys}


@pytest.mark.parametrize("group", [None, "marketing"])
def test_jobs_select_what_the_pipeline_made(team: Project, group: str | None) -> None:
    if group:
        post_process(team, group_name=group)
    with definitions(team) as defs:
        refreshed = selected(defs, "shop_refresh")
        rolled_back = selected(defs, "shop_rollback")
    assert {"shop/recommendations", "shop/recommendation_report"} <= rolled_back
    assert {"shop/raw_ratings", *rolled_back} <= refreshed
    assert "shop/mailing" not in refreshed


def test_a_run_of_the_teams_own_assets_is_none_of_the_pipelines(
    team: Project, instance: dg.DagsterInstance
) -> None:
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv"))
    with definitions(team) as defs:
        job = defs.resolve_job_def("shop_refresh")
        ours = set(job.asset_layer.executable_asset_keys)
        all_assets = defs.resolve_implicit_global_asset_job_def()

    def started(key: dg.AssetKey) -> dg.DagsterRun:
        return instance.create_run_for_job(
            all_assets, asset_selection={key}, status=dg.DagsterRunStatus.STARTED
        )

    theirs = started(MAILING)
    assert not is_of(pipeline, ours, theirs)
    assert running(pipeline, ours, instance) == []
    lists = started(pipeline.asset_key("recommendations"))
    assert running(pipeline, ours, instance) == [f"run {lists.run_id} of __ASSET_JOB is under way"]
