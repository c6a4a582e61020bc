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

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.personalize.api import BATCH_INFERENCE_JOB, ResourceKind
from batchrec_dagster.personalize.resources import Ensure
from batchrec_dagster.personalize.waiting import ReadyResource
from batchrec_dagster.steps.arms import MODEL, assign_arms
from batchrec_dagster.steps.outcomes import measure_outcomes
from batchrec_dagster.steps.users_without_lists import read_users_without_lists
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.builders import Project, refresh, table, why
from batchrec_dagster_tests.guard.first_run import DECLARATION

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first_run_of_shop")]

Lines = list[dict[str, Any]]
OUTPUTS = "shop/curated/batch_inference"


def fail_users(lines: Lines, count: int) -> Lines:
    """The same lines with an error in place of the first lists."""
    failed = [
        {**line, "output": None, "error": "Service error: try again"} for line in lines[:count]
    ]
    return [*failed, *lines[count:]]


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
        Storage(root=str(project.storage), s3=S3Connection()),
    )
    (published,) = work.pipeline.user_lists
    files = work.files_of(published)
    edition = files.editions.live()
    assert edition is not None
    assert read_users_without_lists(files, edition).to_list() == [failed_user]
    # Later, each user chooses what the list before had first.
    interactions = project.storage / work.pipeline.keys.interactions
    with interactions.open("a") as file:
        for user, item in good.filter(rank=1).select("user_id", "item_id").iter_rows():
            cells = {"USER_ID": user, "ITEM_ID": item, "TIMESTAMP": "1600000000"}
            header = interactions.read_text().splitlines()[0].split(",")
            file.write(",".join(cells.get(column, "") for column in header) + "\n")
    outcomes = {outcome.arm: outcome for outcome in measure_outcomes(work, published).outcomes}
    model = outcomes[MODEL]
    everyone = pl.Series(good["user_id"].unique())
    assert (
        model.users == model.active_users == int((assign_arms(everyone, experiment) == MODEL).sum())
    )
    assert model.on_list == model.users - 1
