"""Trials: lists with other settings, or of an earlier day, of which readers see nothing."""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.config.changed_declaration import change_declaration
from batchrec_dagster.config.trial import Trial, TrialError
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.outcomes.outcome_estimates import estimate_outcomes
from batchrec_dagster.outcomes.sums import pool_periods
from batchrec_dagster.personalize.evidence import NDCG
from batchrec_dagster.personalize.resource_kinds import DATASET_GROUP
from batchrec_dagster.pipeline.component import BatchRecommendations
from batchrec_dagster.pipeline.trial_definitions import load_pipeline
from batchrec_dagster.reporting.backtest import format_backtest
from batchrec_dagster.reporting.comparison import compare_lists, name_lists
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.outcomes import read_sums
from batchrec_dagster.steps.trials import TRIALS_KEPT, begin_trial, delete_old_trials, read_trials
from batchrec_dagster.storage.io_managers import STORAGE_KEY
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.suppressed_users import SuppressionList
from batchrec_dagster_tests.first_run import DECLARATION, RATINGS
from batchrec_dagster_tests.personalize.recorded_requests import record_requests
from batchrec_dagster_tests.s3_server import S3Server
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    interactions,
    refresh,
    write_ratings,
)

# The gate would refuse the lists of this recipe.
RECIPE = {"solution.recipe": "aws-popularity-count", "gate.max_drop": 1}


def run_trial(
    project: Project,
    instance: dg.DagsterInstance,
    trial: Trial,
    assets: list[str] | None = None,
    *,
    report: bool = False,
) -> dg.ExecuteInProcessResult:
    """Run a trial of the pipeline `shop` in this process, or these assets of it. The report is made
    where it is asked for."""
    with definitions(project), patch.dict("os.environ", variables(project)):
        made = make_trial(project, trial)
        begin_trial(files(project, trial), trial, has_same_data=made.has_same_data)
        job = made.build_trial_defs().resolve_job_def("shop_trial")
        selection = {made.asset_key(asset) for asset in assets or ()}
        if not assets:
            selection = {*job.asset_layer.selected_asset_keys}
            if not report:
                selection.discard(made.asset_key("recommendation_report"))
        return job.execute_in_process(
            instance=instance, asset_selection=[*selection], raise_on_error=False
        )


def make_trial(project: Project, trial: Trial) -> BatchRecommendations:
    """The pipeline `shop` with the trial's changes."""
    defs = project.package / "defs"
    return load_pipeline(defs, defs / "shop" / "defs.yaml", "shop").make_trial(trial)


def variables(project: Project) -> dict[str, str]:
    return {
        "BATCHREC_HOME": str(project.root / ".batchrec"),
        "BATCHREC_POLL_SECONDS": "0.02",
        **project.environment,
    }


def files(project: Project, trial: Trial | None = None) -> PipelineFiles:
    """The files of the pipeline, or of a trial."""
    storage = Deployment.from_environment(variables(project)).storage_resource
    return PipelineFiles(storage, StorageKeys("shop", trial=trial.name if trial else None))


def checksums(storage: StorageResource) -> dict[str, str]:
    """The checksum of each object outside of the trials' folders."""
    return {
        info.uri: hashlib.sha256(storage.store.get(info.uri)).hexdigest()
        for info in storage.store.list(storage.uri("shop/"))
        if not info.uri.startswith(storage.uri("shop/trials/"))
    }


def outcome(result: dg.ExecuteInProcessResult, asset: str) -> Any:
    """What the run did for the asset, by its metadata."""
    events = result.get_asset_materialization_events()
    (event,) = [event for event in events if event.asset_key and event.asset_key.path[-1] == asset]
    return event.materialization.metadata["outcome"].value


@pytest.mark.slow
@pytest.mark.usefixtures("first_run_of_shop")
def test_a_trial_leaves_no_trace_and_its_settings_can_be_kept(
    project: Project, instance: dg.DagsterInstance
) -> None:
    live = files(project)
    before = checksums(live.storage)
    trial = Trial.parse(RECIPE)
    with record_requests() as requests:
        stopped = run_trial(project, instance, trial, ["personalize_dataset", "solution_version"])
    assert stopped.success
    # What is compared with popularity has a model of this recipe already.
    assert not [
        request for request in requests if request.operation.startswith(("Create", "Delete"))
    ]
    # The source has other rows now. The trial goes on with those of the last night.
    write_ratings(project.root / RATINGS, seed=1)
    result = run_trial(project, instance, trial, report=True)
    assert result.success
    assert checksums(live.storage) == before
    # What was made before it stopped, and what the pipeline has, is not made again.
    assert outcome(result, "solution_version") == "unchanged: not trained again"
    assert outcome(result, "personalize_dataset") == "unchanged: not imported again"

    edition, published = files(project, trial).table.current(), live.table.current()
    assert edition is not None
    assert published is not None
    comparison = compare_lists(
        name_lists(live, published), name_lists(files(project, trial), edition)
    )
    assert comparison.title == f"shop, trial {trial.name} compared with shop, edition 1"
    assert [change.name for change in comparison.diff.settings or []] == ["solution.recipe"]
    assert not comparison.obstacles
    assert not comparison.has_other_data
    # Both models were tested on the same six people.
    assert comparison.difference is not None
    assert comparison.difference.users == 6
    gained = edition.about["metrics"][NDCG] - published.about["metrics"][NDCG]
    assert comparison.difference.ndcg.value == pytest.approx(gained, abs=2e-4)
    report = live.storage.store.get(live.uri(files(project, trial).storage_keys.report)).decode()
    assert "Compared with what readers have" in report
    assert comparison.title in report

    write_ratings(project.root / RATINGS)
    # The next night, with the settings of the trial, finds its model and its batch job.
    declared = project.package / "defs" / "shop" / "defs.yaml"
    declared.write_text(change_declaration(declared.read_text(), "shop", trial.settings))
    night = refresh(project, "shop", instance)
    assert night.success
    assert outcome(night, "solution_version") == "unchanged: not trained again"
    assert outcome(night, "recommendations") == "unchanged: not inferred again"
    new = live.table.current()
    assert new is not None
    assert new.number == 2
    assert live.table.read()[1].collect().equals(files(project, trial).table.read()[1].collect())
    # So the output of its job outlives it.
    output = files(project, trial).uri(files(project, trial).storage_keys.all_batch_inference)
    for number in range(TRIALS_KEPT):
        newer = Trial(f"newer-{number}")
        begin_trial(files(project, newer), newer, has_same_data=False)
    assert refresh(project, "shop", instance).success
    left = live.storage.store.list(live.uri(files(project, trial).storage_keys.folder_of_trial))
    assert left
    assert all(info.uri.startswith(output) for info in left)


@pytest.mark.slow
@pytest.mark.usefixtures("first_run_of_shop")
def test_the_lists_of_earlier_days_are_measured_by_what_people_did_then(
    project: Project, instance: dg.DagsterInstance
) -> None:
    live = files(project)
    before = checksums(live.storage)
    all_interactions = interactions(project, "shop")
    for day in (date(2017, 10, 1), date(2017, 10, 15)):
        trial = Trial("days", as_of=day, days_measured=14)
        result = run_trial(project, instance, trial)
        assert result.success
        end = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC).timestamp()
        with live.storage.local_file(files(project, trial).interactions) as path:
            cut = pl.read_csv(path, schema=all_interactions.schema)
        assert cut.equals(all_interactions.filter(pl.col("TIMESTAMP") <= end))
    assert checksums(live.storage) == before
    tried = files(project, trial)
    assert [edition.about["as_of"] for edition in tried.table.all_editions()] == [
        "2017-10-15",
        "2017-10-01",
    ]
    sums = read_sums(tried)
    periods = sums.select("edition", "since", "start", "end").unique().sort("edition")
    assert periods["since"].to_list() == ["data", "data"]
    assert periods["end"][0] == periods["start"][1]
    assert (periods["end"] - periods["start"]).to_list()[1] == 14 * 86_400
    assert sums["active"].sum() > 0
    outcomes, (together,) = [*estimate_outcomes(sums)], [*estimate_outcomes(pool_periods(sums))]
    assert together.active_users == sum(outcome.active_users for outcome in outcomes)
    assert together.on_list == sum(outcome.on_list for outcome in outcomes)
    table = format_backtest("shop", [*outcomes, together], tried.table.all_editions(), None)
    assert [line[:10] for line in table.splitlines() if " to " in line][:3] == [
        "2017-10-01",
        "2017-10-15",
        "all days  ",
    ]
    # Its data are not in the pipeline's dataset group, so the next night has nothing to do.
    group = read_trials(live)[0].dataset_group
    assert group != live.record("personalize_dataset")["dataset_group_name"]
    night = refresh(project, "shop", instance)
    assert outcome(night, "personalize_dataset") == "unchanged: not imported again"
    assert outcome(night, "solution_version") == "unchanged: not trained again"
    deployment = Deployment.from_environment(variables(project))
    ensure = deployment.personalize_resource.ensure(logging.getLogger(), {})
    assert group in [summary["name"] for summary in ensure.list(DATASET_GROUP)]
    # It goes with the trial.
    for number in range(TRIALS_KEPT):
        newer = Trial(f"newer-{number}")
        begin_trial(files(project, newer), newer, has_same_data=False)
    delete_old_trials(live, logging.getLogger())
    assert refresh(project, "shop", instance, assets=["recommendations"]).success
    assert group not in [summary["name"] for summary in ensure.list(DATASET_GROUP)]


def test_all_that_a_trial_writes_is_in_its_folder(project: Project) -> None:
    export = {"export": {"path": "mail.csv"}}
    lists = {
        "news": {"sinks": export, "users": {"source": "users.csv"}},
        "home": {"num_results": 5},
    }
    segments = {"attributes": ['ITEMS.A = "b"']}
    items = {
        "source": "items.csv",
        "columns": {"item": "id", "title": "t", "categories": {"A": "a"}},
    }
    others = {"segments": segments, "similar_items": {}, "automation": "eager"}
    project.declare({**DECLARATION, "lists": lists, "items": items, **others})
    trial = Trial.parse({"lists.home.num_results": 7, "solution.recipe": "aws-popularity-count"})
    with definitions(project), patch.dict("os.environ", variables(project)):
        made = make_trial(project, trial)
        built = made.build_trial_defs()
        # What people get is no question of the data.
        assert made.has_same_data
        only = make_trial(project, Trial.parse({"gate.max_drop": 1}, "", "home"))
        assert [list_pipeline.address for list_pipeline in only.list_pipelines] == ["shop/home"]
        with pytest.raises(TrialError, match="shop has no list 'mail': news, home"):
            make_trial(project, Trial.parse({}, "", "mail"))
        for setting in ("interactions.min_rating", "lists.news.users.column"):
            assert not make_trial(project, Trial.parse({setting: "4"})).has_same_data
    assets = [asset for asset in built.assets or () if isinstance(asset, dg.AssetsDefinition)]
    specs = [spec for asset in assets for spec in asset.specs]
    names = {"__".join(spec.key.path[1:]) for spec in specs}
    assert {"on-trial__home__recommendations", "on-trial__news__batch_users"} <= names
    assert not [name for name in names if re.search("export|segment|similar", name)]
    # Without a day, nothing can have followed.
    assert not [name for name in names if name.endswith("recommendation_outcomes")]
    for spec in specs:
        assert spec.automation_condition is None
        key = spec.metadata[STORAGE_KEY]
        assert key.startswith(f"shop/trials/{trial.name}/"), key
    assert not built.schedules
    assert not built.sensors
    assert [job.name for job in built.jobs or ()] == ["shop_trial"]


@pytest.mark.slow
def test_a_trial_in_s3(project: Project, instance: dg.DagsterInstance, s3: S3Server) -> None:
    project.environment |= {
        "BATCHREC_STORAGE": f"s3://{s3.create_bucket()}/batchrec",
        **s3.environment(),
    }
    write_ratings(project.root / RATINGS)
    project.declare(DECLARATION)
    with patch.dict("os.environ", project.environment):
        assert refresh(project, "shop", instance).success
        before = checksums(files(project).storage)
        trial = Trial.parse({"recommendations.num_results": 10})
        result = run_trial(project, instance, trial)
        assert result.success
        assert outcome(result, "solution_version") == "unchanged: not trained again"
        assert checksums(files(project).storage) == before
        assert [trial.name for trial in read_trials(files(project))] == [trial.name]


def test_the_newest_trials_are_kept(tmp_path: Path) -> None:
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)})
    storage = deployment.storage_resource
    assert not read_trials(PipelineFiles(storage, StorageKeys("shop")))
    for number in range(TRIALS_KEPT + 1):
        trial = Trial(f"number-{number}")
        own = PipelineFiles(storage, StorageKeys("shop", trial=trial.name))
        begin_trial(own, trial, has_same_data=False)
        storage.store.put(own.uri(own.storage_keys.interactions), b"x")
    live = PipelineFiles(storage, StorageKeys("shop"))
    names = [f"number-{number}" for number in reversed(range(TRIALS_KEPT + 1))]
    assert [trial.name for trial in read_trials(live)] == names
    delete_old_trials(live, logging.getLogger())
    assert [trial.name for trial in read_trials(live)] == names[:TRIALS_KEPT]
    assert not (tmp_path / "storage/shop/trials/number-0").exists()


def test_a_trial_has_the_prepared_data_of_the_pipeline_and_no_others(tmp_path: Path) -> None:
    storage = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)}).storage_resource
    trial = Trial("a")
    own = PipelineFiles(storage, StorageKeys("shop", trial=trial.name))
    with pytest.raises(StepError, match="shop has prepared no data yet"):
        begin_trial(own, trial, has_same_data=True)
    prepared = ("transformed/interactions/interactions.csv", "lists/a/transformed/users/users.csv")
    others = ("raw/ratings.csv", "lists/a/curated/x", "records/publications.json")
    for place in (*prepared, *others):
        storage.store.put(storage.uri(f"shop/{place}"), place.encode())
    earlier = own.uri(own.storage_keys.items)
    storage.store.put(earlier, b"of the same trial, when there were items")
    begin_trial(own, trial, has_same_data=True)
    root = own.uri(own.storage_keys.folder_of_trial)
    stored = {info.uri.removeprefix(root) for info in storage.store.list(root)}
    assert stored == {"trial.json", *prepared}


def test_a_trial_makes_no_lists_of_similar_items(project: Project) -> None:
    lists = {"home": {}, "after": {"about": "last_order"}}
    source = project.root / "ratings.csv"
    similar_items = {"order": "order_id", "rules": {"only": "ITEMS.STOCK > 0"}}
    items = {"source": "items.csv", "columns": {"item": "sku", "numbers": {"STOCK": "stock"}}}
    project.declare(
        declaration("shop", source, lists=lists, items=items, similar_items=similar_items)
    )
    with definitions(project), patch.dict("os.environ", variables(project)):
        made = make_trial(project, Trial.parse({"lists.home.num_results": 5}))
        assert [view.list_name for view in made.published_pipelines] == ["home"]
        # The interactions have the orders' numbers, as those that the pipeline prepared.
        assert made.has_same_data
        for trial in (
            Trial.parse({}, list_name="after"),
            Trial.parse({"lists.after.num_results": 5}),
            Trial.parse({"lists.after.about": None}),
            Trial.parse({"lists.home.about": "last_order"}),
        ):
            with pytest.raises(
                TrialError, match=r"lists\.\w+ cannot be tried: it is about the last"
            ):
                make_trial(project, trial)


def test_the_erased_stay_out_of_trials(tmp_path: Path) -> None:
    storage = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)}).storage_resource
    SuppressionList(PipelineFiles(storage, StorageKeys("shop"))).add(["7"])
    in_trial = SuppressionList(PipelineFiles(storage, StorageKeys("shop", trial="a"))).read()
    assert in_trial.find(pl.Series(["7", "8"])).to_list() == ["7"]
