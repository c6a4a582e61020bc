"""Going back to lists that were published before, and what a refresh does after it."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from dagster._core.storage.tags import ROOT_RUN_ID_TAG

from batchrec_dagster.cli import main
from batchrec_dagster.pipeline.run_history import DagsterRuns
from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.publishing import (
    PREVIOUS,
    Rollbacks,
    build_rollback_config,
)
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.publications import Publications
from batchrec_dagster.storage.published_table import Edition, TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    declaration,
    definitions,
    killed_at,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.editions import complete_about

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> PipelineFiles:
    storage = StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())
    return PipelineFiles(storage, StorageKeys("shop"))


def publish(
    files: PipelineFiles, folder: Path, model: str, users: str = "all", version: str = ""
) -> None:
    """Lists made by this model for these users; the name of what made them is as the pipeline's."""
    table = files.table
    number = table.next_number()
    with TableWriter(folder / "lists.parquet") as writer:
        writer.write(pa.table({"user_id": ["1"]}))
        made_by = [model, f"{model} for {users}"]
        writer.finish(
            complete_about(
                {"edition": number, "version": version or f"v{number}", "made_by": made_by}
            )
        )
    table.publish(writer.path, keep=9)


def is_rolled_back(files: PipelineFiles, *keys: str) -> bool:
    """Whether lists with one of these keys were rolled back."""
    return bool(Publications(files).read().find_withdrawn(keys=keys))


def allow(files: PipelineFiles, *keys: str) -> None:
    """As a run that publishes such lists anyway."""
    record = Publications(files).read()
    Publications(files).write(record.allow(record.find_withdrawn(keys=keys)))


def is_withdrawn_live(files: PipelineFiles) -> bool:
    """Whether the published lists were rolled back."""
    current = files.table.current()
    return current is not None and Publications(files).read().is_withdrawn(current)


def chosen(files: PipelineFiles, to: str, run: str) -> Edition:
    """What a run chooses that is killed afterwards, or is no longer known."""
    with dg.DagsterInstance.ephemeral() as instance:
        return Rollbacks(files).roll_back(to, run, DagsterRuns(instance)).edition


def goes_back(files: PipelineFiles, to: str, run: str) -> int:
    """As the asset and its IO manager do; the number of what is published then."""
    table = files.table
    table.put_back(chosen(files, to, run), keep=9)
    current = table.current()
    assert current is not None
    return current.number


def test_each_time_it_goes_one_further_back_and_to_any_by_its_number(
    files: PipelineFiles, tmp_path: Path
) -> None:
    for model in "ABCD":
        publish(files, tmp_path, model)
    assert goes_back(files, PREVIOUS, "run 1") == 3
    assert goes_back(files, PREVIOUS, "run 2") == 2
    assert [is_rolled_back(files, model) for model in "ABCD"] == [
        False,
        False,
        True,
        True,
    ]
    # What somebody goes forward to is good.
    assert goes_back(files, "4", "run 3") == 4
    assert not is_rolled_back(files, "D")
    # And what was found to be bad is passed over.
    assert [is_rolled_back(files, model) for model in "BC"] == [True, True]
    assert goes_back(files, PREVIOUS, "run 4") == 1
    with pytest.raises(StepError, match=r"no earlier edition to roll back to. Kept: edition 4, "):
        chosen(files, PREVIOUS, "run 5")
    with pytest.raises(StepError, match="no edition '7' to roll back to"):
        chosen(files, "7", "run 5")


def test_a_damaged_edition_is_refused_before_anything_is_recorded(
    files: PipelineFiles, tmp_path: Path
) -> None:
    for model in "AB":
        publish(files, tmp_path, model)
    (older,) = files.table.older()
    content = files.storage.store.get(older.uri)
    files.storage.store.put(older.uri, content[: len(content) // 2])
    before = Publications(files).read()
    with pytest.raises(StepError, match="there is no earlier edition to roll back to"):
        chosen(files, PREVIOUS, "run 1")
    assert Publications(files).read() == before


def test_a_run_that_is_killed_and_started_again_goes_no_further_back(
    files: PipelineFiles, tmp_path: Path
) -> None:
    for model in "ABC":
        publish(files, tmp_path, model)
    assert chosen(files, PREVIOUS, "run 1").number == 2  # And is killed.
    assert goes_back(files, PREVIOUS, "run 1") == 2  # And is killed once more.
    assert goes_back(files, PREVIOUS, "run 1") == 2
    assert [is_rolled_back(files, model) for model in "ABC"] == [False, False, True]
    assert goes_back(files, PREVIOUS, "run 2") == 1
    # Each rollback is noted once, so that outcomes know who got which lists when.
    publications = Publications(files).read().publications
    first, second = [past for past in publications if past.why == "rolled back"]
    assert (first.edition, first.replaced, first.run) == (2, 3, "run 1")
    assert (second.edition, second.replaced, second.run) == (1, 2, "run 2")
    assert first.since is not None
    assert second.since is not None
    assert first.since <= second.since


def test_a_new_run_finishes_a_rollback_whose_run_was_killed(
    files: PipelineFiles, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    for model in "ABC":
        publish(files, tmp_path, model)

    def run(status: dg.DagsterRunStatus) -> str:
        """A run of the rollback job, which Dagster last saw in this status."""
        return instance.add_run(dg.DagsterRun("shop_rollback", status=status)).run_id

    def goes_back(run: str) -> int:
        edition = Rollbacks(files).roll_back(PREVIOUS, run, DagsterRuns(instance)).edition
        files.table.put_back(edition, keep=9)
        return edition.number

    killed_run = run(dg.DagsterRunStatus.STARTED)
    assert (
        Rollbacks(files).roll_back(PREVIOUS, killed_run, DagsterRuns(instance)).edition.number == 2
    )
    # Killed before the lists were replaced: what is still there was rolled back.
    assert is_withdrawn_live(files)
    failed_run = run(dg.DagsterRunStatus.FAILURE)
    assert goes_back(failed_run) == 2  # And a sink fails.
    assert not is_withdrawn_live(files)
    finished_run = run(dg.DagsterRunStatus.SUCCESS)
    assert goes_back(finished_run) == 2
    assert goes_back(run(dg.DagsterRunStatus.FAILURE)) == 1


def test_a_retry_of_the_run_finishes_its_rollback_too(
    files: PipelineFiles, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    for model in "ABC":
        publish(files, tmp_path, model)
    failed_run = instance.add_run(
        dg.DagsterRun("shop_rollback", status=dg.DagsterRunStatus.FAILURE)
    )
    edition = Rollbacks(files).roll_back(PREVIOUS, failed_run.run_id, DagsterRuns(instance)).edition
    files.table.put_back(edition, keep=9)
    assert Rollbacks(files).read_unfinished_edition(DagsterRuns(instance)) == 2
    retry = dg.DagsterRun(
        "shop_rollback",
        root_run_id=failed_run.run_id,
        parent_run_id=failed_run.run_id,
        tags={ROOT_RUN_ID_TAG: failed_run.run_id},
        status=dg.DagsterRunStatus.SUCCESS,
    )
    instance.add_run(retry)
    assert Rollbacks(files).read_unfinished_edition(DagsterRuns(instance)) == 0
    assert (
        Rollbacks(files).roll_back(PREVIOUS, "another", DagsterRuns(instance)).edition.number == 1
    )


def test_where_the_model_stays_the_users_and_titles_are_what_was_rolled_back(
    files: PipelineFiles, tmp_path: Path
) -> None:
    publish(files, tmp_path, "A", "all")
    publish(files, tmp_path, "A", "nobody")
    assert goes_back(files, PREVIOUS, "run 1") == 1
    assert is_rolled_back(files, "A", "A for nobody")
    assert not is_rolled_back(files, "A", "A for some")
    allow(files, "A", "A for nobody")
    assert not is_rolled_back(files, "A", "A for nobody")


def test_the_same_lists_published_twice_are_gone_back_from_at_once(
    files: PipelineFiles, tmp_path: Path
) -> None:
    """As when somebody has lists published anyway that had been rolled back."""
    publish(files, tmp_path, "A")
    publish(files, tmp_path, "B", version="same")
    assert goes_back(files, PREVIOUS, "run 1") == 1
    allow(files, "B", "B for all")
    publish(files, tmp_path, "B", version="same")
    assert goes_back(files, PREVIOUS, "run 2") == 1
    assert is_rolled_back(files, "B")


def test_before_anything_is_published_there_is_nothing(files: PipelineFiles) -> None:
    assert not is_rolled_back(files, "A")
    with pytest.raises(StepError, match="Kept: nothing"):
        chosen(files, PREVIOUS, "run 1")


def read_published(project: Project) -> tuple[dict[str, Any], pl.DataFrame]:
    """What the one path says of itself, and its rows."""
    path = project.storage / "shop/curated/recommendations/recommendations.parquet"
    return json.loads(pl.read_parquet_metadata(path)["batchrec"]), pl.read_parquet(path)


def test_the_job_publishes_the_lists_before_and_refreshes_go_on_from_there(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ratings = project.root / "ratings.csv"
    project.declare(declaration("shop", ratings, gate={"max_drop": 1}))
    for users in (60, 61):
        write_ratings(ratings, users=users)
        result = refresh(project, "shop", instance, report=True)
        assert result.success
    about, rows = read_published(project)
    assert about["edition"] == 2
    assert (about["rows"], about["users"]) == (rows.height, 61)
    assert about["metrics"]["coverage"] == metadata(result, "solution_version")["coverage"]
    assert about["run_id"] == result.run_id
    newest = about["solution_version_arn"]

    with definitions(project) as defs:
        back = defs.resolve_job_def("shop_rollback").execute_in_process(instance=instance)
    assert metadata(back, "recommendations")["outcome"].startswith("rolled back to edition 1, made")
    about, rows = read_published(project)
    assert (about["edition"], rows.get_column("user_id").n_unique()) == (1, 60)
    event = instance.get_latest_materialization_event(dg.AssetKey(["shop", "recommendations"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert (event.asset_materialization.tags or {})["dagster/data_version"] == about["version"]
    # They are as old as they are, for whoever waits for new ones.
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    published = PublishedResults(storage, "shop")
    assert published.publication_time == datetime.fromisoformat(about["made_at"])
    # The report is of what is published, though the newest model is another.
    report = (project.storage / "shop/curated/report/index.html").read_text()
    assert about["solution_version_arn"] in report
    assert newest not in report
    assert "The lists were made from earlier data" in report
    # Readers know these lists. They are not compared with those that were rolled back.
    assert "Restored: readers have edition 1 again since" in report
    assert "in place of edition 2, which was rolled back" in report
    assert "compared with edition 2" not in report
    # The 61st user was not there when they were made.
    assert "requested users got no list" not in report
    assert '<span data-fact="requested"><data value="60">' in report

    # Nothing is new: the same lists are not published again by themselves.
    unchanged_result = refresh(project, "shop", instance, report=True)
    assert not unchanged_result.success
    assert "its lists were rolled back" in why(unchanged_result)
    assert read_published(project)[0]["edition"] == 1
    # What is new is, and is compared with what people have.
    write_ratings(ratings, users=62)
    new = refresh(project, "shop", instance, report=True)
    assert new.success
    assert read_published(project)[0]["edition"] == 3
    (gate,) = [e for e in new.get_asset_check_evaluations() if e.check_name == "quality_gate"]
    ndcg_before = about["metrics"]["normalized_discounted_cumulative_gain_at_25"]
    assert gate.metadata["published_ndcg_at_25"].value == ndcg_before
    report = (project.storage / "shop/curated/report/index.html").read_text()
    assert "Edition 3 compared with edition 1." in report
    # The data too are compared with those of the first, not of the one that was rolled back.
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    shop = PipelineFiles(storage, StorageKeys("shop"))
    third = shop.table.current()
    assert third is not None
    inputs = EditionHistory(shop).read_inputs(third)
    assert inputs is not None
    assert inputs.drift is not None
    assert (inputs.drift.before.users, inputs.drift.now.users) == (60, 62)
    # Somebody finds that the second was good after all.
    shutil.copy(REPOSITORY / "batchrec_dagster/definitions.py", project.package)
    for name, value in project.process_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.root)
    difference = CliRunner().invoke(main, ["diff"])
    assert difference.output.startswith("shop: edition 3 compared with edition 1\n")
    refused_command = CliRunner().invoke(main, ["rollback", "shop", "--to", "2"], input="n\n")
    assert (refused_command.exit_code, read_published(project)[0]["edition"]) == (1, 3)
    assert "published: edition 3, made 2" in refused_command.output
    assert "kept:      edition 2, made 2" in refused_command.output
    assert " 61 users (rolled back) <-\n" in refused_command.output
    # The process dies when they are published, and the report is still of the third.
    config = project.root / "rollback.json"
    config.write_text(json.dumps(build_rollback_config("shop__recommendations", "2")))
    job = ("dagster", "job", "execute", "-m", f"{project.package.name}.definitions")
    command = (*job, "-j", "shop_rollback", "-c", str(config))
    killed_at(project, command, "published again: edition 2")
    page = project.storage / "shop/curated/report/index.html"
    assert read_published(project)[0]["edition"] == 2
    assert newest not in page.read_text()
    # The same command goes on, and no further back.
    rollback = CliRunner().invoke(main, ["rollback", "shop", "--yes"])
    stages = re.findall(r"^(\w+) +done ", rollback.output, re.MULTILINE)
    assert stages[0] == "recommendations"
    assert "recommendation_report" in stages
    assert "superseded" not in rollback.output
    assert (rollback.exit_code, read_published(project)[0]["edition"]) == (0, 2)
    assert "The rollback to edition 2 was not finished" in rollback.output
    assert rollback.output.endswith("shop: edition 2 is published\n")
    assert newest in page.read_text()
    repeated_command = CliRunner().invoke(main, ["rollback", "shop"], input="n\n")
    assert "Publish edition 1 again?" in repeated_command.output
    (summary,) = json.loads(CliRunner().invoke(main, ["show", "--json"]).output)["pipelines"]
    assert summary["earlier_data"]
    assert summary["live_because"] == "rolled back"
    assert summary["live"].endswith("rolled back to from edition 3")
    assert "rolled back to from edition 3" in " ".join(
        CliRunner().invoke(main, ["show"]).output.split()
    )
    (overview,) = json.loads(CliRunner().invoke(main, ["list", "--json"]).output)
    assert overview["edition"]["live_because"] == "rolled back"
    assert CliRunner().invoke(main, ["rollback", "shop", "--to", "9"]).exit_code == 3
    assert CliRunner().invoke(main, ["rollback", "club"]).exit_code == 3
