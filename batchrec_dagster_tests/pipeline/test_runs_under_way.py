"""Which runs are a pipeline's, where a team has assets and jobs of its own."""

from __future__ import annotations

import dagster as dg
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.runs import STORAGE_TAG, describe_runs_under_way
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    write_ratings,
)

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


def make_work(project: Project) -> Work:
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv"))
    return Work(pipeline, Storage(str(project.storage)))


def test_a_run_of_the_teams_own_assets_is_none_of_the_pipelines(
    team: Project, instance: dg.DagsterInstance
) -> None:
    work = make_work(team)
    with definitions(team) as defs:
        job = defs.resolve_job_def("shop_refresh")
        ours = set(job.asset_layer.executable_asset_keys)
        all_assets = defs.resolve_implicit_global_asset_job_def()

    def start_run(key: dg.AssetKey) -> dg.DagsterRun:
        return instance.create_run_for_job(
            all_assets, asset_selection={key}, status=dg.DagsterRunStatus.STARTED
        )

    start_run(MAILING)
    assert describe_runs_under_way(work, ours, instance) == []
    lists = start_run(dg.AssetKey(work.pipeline.asset_key("recommendations")))
    assert describe_runs_under_way(work, ours, instance) == [
        f"run {lists.run_id} of __ASSET_JOB is under way"
    ]


def test_a_run_of_the_teams_own_job_with_our_assets_is_one_of_the_pipelines(
    team: Project, instance: dg.DagsterInstance
) -> None:
    work = make_work(team)
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
    assert describe_runs_under_way(work, ours, instance) == [
        f"run {nightly_run.run_id} of nightly is under way"
    ]


def test_a_run_of_another_code_location_with_a_pipeline_of_this_name_is_none_of_it(
    team: Project, instance: dg.DagsterInstance
) -> None:
    work = make_work(team)
    with definitions(team) as defs:
        job = defs.resolve_job_def("shop_refresh")
    ours = set(job.asset_layer.executable_asset_keys)
    others = instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={STORAGE_TAG: "s3://another/place"}
    )
    assert others.tags[STORAGE_TAG] == "s3://another/place"
    assert describe_runs_under_way(work, ours, instance) == []
    own = instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={STORAGE_TAG: work.storage.place}
    )
    assert describe_runs_under_way(work, ours, instance) == [
        f"run {own.run_id} of shop_refresh is under way"
    ]
