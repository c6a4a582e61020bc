"""Jobs that take as long as on AWS, to rehearse waiting."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.local_personalize.catalog.kinds import JobQueue
from batchrec_dagster.local_personalize.jobs import job, transitions
from batchrec_dagster.local_personalize.jobs.pace import JobPace
from batchrec_dagster_tests.local_personalize.support import (
    RECIPE,
    Local,
    build_taste_rows,
    describe,
    poll_until_deadline,
)


def test_by_default_jobs_are_not_delayed() -> None:
    for queue in JobQueue:
        assert JobPace().pending_seconds(queue) == JobPace().in_progress_seconds(queue) == 0


@pytest.mark.parametrize(
    ("queue", "minutes"),
    [(JobQueue.QUICK, 1), (JobQueue.IMPORT, 8), (JobQueue.TRAINING, 20), (JobQueue.INFERENCE, 30)],
)
def test_at_the_pace_of_aws_work_takes_minutes(queue: JobQueue, minutes: int) -> None:
    pace = JobPace(1.0)
    assert pace.pending_seconds(queue) > 0
    assert pace.pending_seconds(queue) + pace.in_progress_seconds(queue) == 60 * minutes


class Clock:
    """Tests set it ahead between two looks, so that a status is seen on a busy machine too."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.real = time.time

    def tell(self) -> float:
        return self.real() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock.tell)
    own = SimpleNamespace(time=clock.tell, monotonic=clock.tell, sleep=time.sleep)
    for module in (job, transitions):
        monkeypatch.setattr(module, "time", own)
    return clock


def test_a_delayed_group_or_update_is_pending_then_in_progress(
    tmp_path: Path, clock: Clock
) -> None:
    local = Local(tmp_path)
    pace = JobPace(1.0)
    local.client = client = embedded_client(tmp_path / "paced", local.store, pace=pace)

    def time_statuses(arn: str, update: str | None = None) -> dict[str, float]:
        times: dict[str, float] = {}
        for _ in poll_until_deadline():
            description = describe(client, arn)
            times.setdefault(
                (description[update] if update else description)["status"], clock.tell()
            )
            if "ACTIVE" in times:
                break
            clock.ahead += 4
        assert list(times) == ["CREATE PENDING", "CREATE IN_PROGRESS", "ACTIVE"]
        return times

    arn = client.create_dataset_group(name="films")["datasetGroupArn"]
    times = time_statuses(arn)
    creation_time = describe(client, arn)["creationDateTime"].timestamp()
    assert times["CREATE IN_PROGRESS"] - creation_time >= pace.pending_seconds(JobQueue.QUICK)
    assert times["ACTIVE"] - creation_time >= 60
    solution = client.create_solution(
        name="films", datasetGroupArn=arn, recipeArn=f"{RECIPE}aws-popularity-count"
    )["solutionArn"]
    time_statuses(solution)
    client.update_solution(solutionArn=solution, performAutoTraining=True)
    time_statuses(solution, "latestSolutionUpdate")


def test_a_delayed_training_can_be_stopped(tmp_path: Path, clock: Clock) -> None:
    local = Local(tmp_path)
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group)
    local.client = local.open_client(pace=JobPace(1.0))
    version = local.create_version(solution)
    assert local.describe(version)["status"] == "CREATE PENDING"
    local.client.stop_solution_version_creation(solutionVersionArn=version)
    assert local.describe(version)["status"] == "CREATE STOPPED"
    version = local.create_version(solution)
    while local.describe(version)["status"] == "CREATE PENDING":
        clock.ahead += 60
    local.client.stop_solution_version_creation(solutionVersionArn=version)
    assert local.wait(version)["status"] == "CREATE STOPPED"
