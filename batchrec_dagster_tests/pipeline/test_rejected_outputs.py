"""Outputs of batch inference jobs that are not right: marked, or published in part.

Personalize here is the real one of this machine, whose finished jobs' files a test changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.outcomes.arms import MODEL, assign_arms
from batchrec_dagster.personalize.ensure import Ensure, ReadyResource
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2
from batchrec_dagster.personalize.resource_kinds import BATCH_INFERENCE_JOB, ResourceKind
from batchrec_dagster.steps.batches import read_users_without_lists
from batchrec_dagster.steps.outcomes import measure_outcomes
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import Project, metadata, refresh, table, why
from batchrec_dagster_tests.guard.first_run import DECLARATION

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first_run_of_shop")]

Lines = list[dict[str, Any]]
PRICE = Prices().price_recommendations(USER_PERSONALIZATION_V2, 60).usd
OUTPUTS = "shop/curated/batch_inference"


def fail_users(lines: Lines, count: int) -> Lines:
    """The same lines with an error in place of the first lists."""
    failed = [
        {**line, "output": None, "error": "Service error: try again"} for line in lines[:count]
    ]
    return [*failed, *lines[count:]]


def repeat_item(lines: Lines) -> Lines:
    """The same lines with an item twice in the first list."""
    items = lines[0]["output"]["recommendedItems"]
    lines[0]["output"]["recommendedItems"] = [items[0], *items[:-1]]
    return lines


def change_output(output: Path, change: Callable[[Lines], Lines]) -> None:
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    output.write_text("".join(f"{json.dumps(line)}\n" for line in change(lines)))


def find_newest_output(project: Project) -> Path:
    outputs = (project.storage / OUTPUTS).glob("*/*.out")
    return max(outputs, key=lambda file: file.stat().st_mtime_ns)


def count_jobs(project: Project) -> int:
    client = embedded_client(project.root / ".batchrec/personalize", ObjectStore())
    return len(client.list_batch_inference_jobs()["batchInferenceJobs"])


def make_lists(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return refresh(project, "shop", instance, assets=["recommendations"])


def test_a_rejected_output_fails_the_run_and_the_next_one_starts_a_new_job(
    project: Project, instance: dg.DagsterInstance
) -> None:
    good = table(project, "shop")
    changes: list[tuple[Callable[[Lines], Lines], str]] = [
        (lambda lines: fail_users(lines, 6), "no_failed_users"),
        (lambda lines: lines[1:], "every_user_answered"),
        (lambda lines: [*lines, lines[0]], "every_user_answered"),
        (repeat_item, "no_duplicates"),
    ]
    for jobs, (change, check) in enumerate(changes, start=1):
        output = find_newest_output(project)
        change_output(output, change)
        failed = make_lists(project, instance)
        reason = why(failed)
        assert f"{check}: {output.parent}" in reason
        assert "Run again: the next run starts a new job" in reason
        assert count_jobs(project) == jobs
        assert table(project, "shop").equals(good)

        result = make_lists(project, instance)
        assert result.success, why(result)
        assert count_jobs(project) == jobs + 1
        assert table(project, "shop").equals(good)
        lists = metadata(result, "recommendations")
        assert (lists["outcome"], lists["failed_users"]) == ("inferred", 0)
        assert lists["cost_usd_on_aws"] == pytest.approx(PRICE)
        assert all(check.passed for check in result.get_asset_check_evaluations())
    # The right one is used from then on.
    assert metadata(make_lists(project, instance), "recommendations")["outcome"].startswith("unch")
    assert count_jobs(project) == len(changes) + 1


def test_too_many_failed_users_are_named_with_the_setting(
    project: Project, instance: dg.DagsterInstance
) -> None:
    change_output(find_newest_output(project), lambda lines: fail_users(lines, 6))
    reason = why(make_lists(project, instance))
    assert "6 of 60 users failed (at most 0.1 % may: recommendations.max_failed_share)" in reason
    assert "Service error: try again" in reason


def test_an_output_without_files_fails_no_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    find_newest_output(project).unlink()
    assert make_lists(project, instance).success
    assert count_jobs(project) == 2


def test_few_failed_users_are_published_without_lists_and_named(
    project: Project, instance: dg.DagsterInstance
) -> None:
    good = table(project, "shop")
    change_output(find_newest_output(project), lambda lines: fail_users(lines, 3))
    project.declare({**DECLARATION, "recommendations": {"max_failed_share": 0.05}})
    result = refresh(
        project, "shop", instance, assets=["recommendations", "recommendation_report"], report=True
    )
    assert result.success, why(result)
    assert count_jobs(project) == 1
    lists = table(project, "shop")
    failed_users = set(good["user_id"]) - set(lists["user_id"])
    assert len(failed_users) == 3
    assert lists.equals(good.filter(~pl.col("user_id").is_in(failed_users)))
    assert metadata(result, "recommendations")["failed_users"] == 3
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert all(check.passed for check in checks.values())
    finding = checks["no_failed_users"].description or ""
    assert "at most 5 % may" in finding
    assert "they have no list in this edition" in finding
    report = (project.storage / "shop/curated/report/index.html").read_text()
    assert "3 of 60 requested users got no list, 3 of them because Personalize" in report

    user = min(failed_users)
    environment = {"BATCHREC_HOME": str(project.root / ".batchrec")}
    show_result = CliRunner().invoke(main, ["show", user], env=environment)
    assert "Personalize returned an error for this user: Service error: try again" in " ".join(
        show_result.output.split()
    )
    record = CliRunner().invoke(main, ["show", user, "--json"], env=environment)
    assert json.loads(record.output)["pipelines"][0]["failure"] == "Service error: try again"

    next_result = make_lists(project, instance)
    assert metadata(next_result, "recommendations")["outcome"] == "unchanged: not inferred again"
    assert metadata(next_result, "recommendations")["failed_users"] == 3
    assert all(check.passed for check in next_result.get_asset_check_evaluations())

    # With the stricter setting, the same output is not good enough.
    project.declare(DECLARATION)
    assert not make_lists(project, instance).success
    stricter = make_lists(project, instance)
    assert stricter.success, why(stricter)
    assert count_jobs(project) == 2
    assert table(project, "shop").equals(good)


def fail_a_user_of_the_next_output(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    """Give the first user of the job that the next run starts an error."""
    wait = Ensure.wait_until_all_ready

    def wait_and_change(ensure: Ensure, kind: ResourceKind, ready: Any) -> list[ReadyResource]:
        jobs = wait(ensure, kind, ready)
        if kind is BATCH_INFERENCE_JOB:
            change_output(find_newest_output(project), lambda lines: fail_users(lines, 1))
        return jobs

    monkeypatch.setattr(Ensure, "wait_until_all_ready", wait_and_change)


def test_in_an_experiment_a_failed_user_counts_as_one_without_a_list(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(name="holdout", control_share=0.4)
    good = table(project, "shop")

    fail_a_user_of_the_next_output(monkeypatch, project)
    settings = {
        **DECLARATION,
        "recommendations": {"max_failed_share": 0.05},
        "experiment": experiment.model_dump(),
    }
    project.declare(settings)
    result = make_lists(project, instance)
    assert result.success, why(result)
    # The control's lists need no job.
    assert count_jobs(project) == 1 + 1
    lists = table(project, "shop")
    (failed_user,) = set(good["user_id"]) - set(lists["user_id"])

    # The failed user counts in the outcomes, but not as one with a list.
    work = Work(
        Pipeline.model_validate(settings),
        StorageResource(root=str(project.storage), s3=S3Connection()),
    )
    edition = work.files.table.current()
    assert edition is not None
    assert read_users_without_lists(work, edition).to_list() == [failed_user]
    # Later, each user chooses what the list before had first.
    interactions = project.storage / work.pipeline.storage_keys.interactions
    with interactions.open("a") as file:
        for user, item in good.filter(rank=1).select("user_id", "item_id").iter_rows():
            cells = {"USER_ID": user, "ITEM_ID": item, "TIMESTAMP": "1600000000"}
            header = interactions.read_text().splitlines()[0].split(",")
            file.write(",".join(cells.get(column, "") for column in header) + "\n")
    outcomes = {outcome.arm: outcome for outcome in measure_outcomes(work).outcomes}
    model = outcomes[MODEL]
    everyone = pl.Series(good["user_id"].unique())
    assert (
        model.users == model.active_users == int((assign_arms(everyone, experiment) == MODEL).sum())
    )
    assert model.on_list == model.users - 1
