"""Tests of which runs belong to a pipeline in a team's project, and after a process died."""

from __future__ import annotations

import logging
from datetime import timedelta

import dagster as dg
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline import ended_runs
from batchrec_dagster.pipeline.automation.runs_under_way import (
    RUN_STORAGE_TAG,
    build_job_tags,
    describe_runs_under_way,
)
from batchrec_dagster.pipeline.ended_runs import read_ended_runs
from batchrec_dagster.steps.context import Run, StepContext
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import ListKeys
from batchrec_dagster.storage.lock import hold_lock
from batchrec_dagster_tests.guard.builders import Project, declaration, definitions, write_ratings

OF_THE_TEAM = """\
import dagster as dg

@dg.asset(key_prefix="shop", group_name="shop", deps=[dg.AssetKey(["shop", "recommendations"])])
def mailing() -> None: ...
"""
MAILING = dg.AssetKey(["shop", "mailing"])


def test_a_run_is_under_way_if_it_makes_the_pipelines_assets_in_its_storage(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    (project.package / "defs" / "mailing.py").write_text(OF_THE_TEAM)
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv"))
    step = StepContext(pipeline, Storage(str(project.storage)), Run("run", "run"))
    with definitions(project) as defs:
        refresh = defs.resolve_job_def("shop_refresh")
        all_assets = defs.resolve_implicit_global_asset_job_def()
        jobs = [dg.define_asset_job("nightly", "*"), dg.define_asset_job("mails", [MAILING])]
        theirs = dg.Definitions.merge(defs, dg.Definitions(jobs=jobs))
        nightly, mails = (theirs.resolve_job_def(job.name) for job in jobs)

    def start(job: dg.JobDefinition, storage: str = "", *keys: dg.AssetKey) -> str:
        return instance.create_run_for_job(
            job,
            asset_selection={*keys} or None,
            status=dg.DagsterRunStatus.STARTED,
            tags={RUN_STORAGE_TAG: storage} if storage else {},
        ).run_id

    ours = {
        start(all_assets, "", dg.AssetKey(step.pipeline.asset_key("recommendations"))),
        start(nightly),
        start(refresh, step.storage.absolute_root),
    }
    # The team's own runs, and runs of another code location's pipeline with the same name.
    for job, storage, keys in (
        (all_assets, "", [MAILING]),
        (mails, "", []),
        (refresh, "s3://another/place", []),
    ):
        start(job, storage, *keys)
    assets = {*refresh.asset_layer.executable_asset_keys}
    said = describe_runs_under_way(step, assets, instance)
    assert {line.split()[1] for line in said} == ours
    assert all(line.endswith(" is under way") for line in said)


def test_a_run_that_was_killed_is_known_from_dagster(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ListFiles(Storage(str(project.storage)), ListKeys("shop"))

    @dg.op
    def shop__raw_ratings() -> None:
        raise UserError("no disk")

    @dg.job(name="shop_refresh", tags=build_job_tags(files.storage))
    def refresh() -> None:
        shop__raw_ratings()

    failed = refresh.execute_in_process(instance=instance, raise_on_error=False).run_id
    (run,) = read_ended_runs(instance, files)
    assert (run.run, run.ended, run.steps) == (failed, "failed", ("raw_ratings",))
    # Another code location has a pipeline with the same name and another storage.
    theirs = Storage(f"{files.storage.root}-of-others")
    for other in (ListFiles(theirs, files.keys), ListFiles(files.storage, ListKeys("club"))):
        assert read_ended_runs(instance, other) == []
    # A run under way counts only if it has logged nothing and held no lock for an hour.
    started = instance.create_run_for_job(
        refresh, tags=refresh.tags, status=dg.DagsterRunStatus.STARTED
    ).run_id
    assert [run.run for run in read_ended_runs(instance, files)] == [failed]
    monkeypatch.setattr(ended_runs, "SILENCE", timedelta(minutes=-1))
    assert {run.run for run in read_ended_runs(instance, files)} == {failed, started}
    log = logging.getLogger("test")
    for key in ("shop/locks/recommendations.lock", "shop/lists/home/locks/recommendations.lock"):
        with hold_lock(files.storage.store, files.uri(key), started, log, 0):
            assert [run.run for run in read_ended_runs(instance, files)] == [failed]


def test_a_killed_run_is_a_failed_night_whoever_started_it(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    files = ListFiles(Storage(str(project.storage)), ListKeys("shop"))
    table, ratings = (dg.AssetKey(["shop", name]) for name in ("recommendations", "raw_ratings"))
    with definitions(project) as defs:
        all_assets = defs.resolve_implicit_global_asset_job_def()
        nightly = dg.define_asset_job("nightly", "*")
        of_the_team = dg.Definitions.merge(defs, dg.Definitions(jobs=[nightly]))
        nightly_job = of_the_team.resolve_job_def("nightly")

    def fail(job: dg.JobDefinition, storage: str = "", *keys: dg.AssetKey) -> str:
        return instance.create_run_for_job(
            job,
            asset_selection={*keys} or None,
            status=dg.DagsterRunStatus.FAILURE,
            tags={RUN_STORAGE_TAG: storage} if storage else {},
        ).run_id

    # "Materialize" and automation conditions start runs of the job of all assets.
    failed = {fail(all_assets, "", table), fail(nightly_job)}
    fail(all_assets, "", ratings)
    fail(all_assets, "s3://another/place", table)
    nights = read_ended_runs(instance, files)
    assert {night.run for night in nights} == failed
    assert {night.ended for night in nights} == {"failed"}
