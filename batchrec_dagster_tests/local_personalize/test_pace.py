"""Jobs that take as long as on AWS, to rehearse waiting."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.local_personalize.catalog.kinds import Lane
from batchrec_dagster.local_personalize.jobs.worker import Pace
from batchrec_dagster_tests.local_personalize.support import Local, describe, taste_rows


def test_by_default_jobs_are_not_delayed() -> None:
    for lane in Lane:
        assert Pace().pending_seconds(lane) == Pace().in_progress_seconds(lane) == 0


@pytest.mark.parametrize(
    ("lane", "minutes"),
    [(Lane.QUICK, 1), (Lane.IMPORT, 8), (Lane.TRAINING, 20), (Lane.INFERENCE, 30)],
)
def test_at_the_pace_of_aws_work_takes_minutes(lane: Lane, minutes: int) -> None:
    pace = Pace(1.0)
    assert pace.pending_seconds(lane) > 0
    assert pace.pending_seconds(lane) + pace.in_progress_seconds(lane) == 60 * minutes


def test_a_delayed_group_or_update_is_pending_then_in_progress(tmp_path: Path) -> None:
    local = Local(tmp_path)
    pace = Pace(0.005)
    local.client = client = embedded_client(tmp_path / "paced", local.store, pace=pace)

    def seen(arn: str, update: str | None = None) -> dict[str, float]:
        times: dict[str, float] = {}
        while "ACTIVE" not in times:
            found = describe(client, arn)
            times.setdefault((found[update] if update else found)["status"], time.time())
            time.sleep(0.005)
        assert list(times) == ["CREATE PENDING", "CREATE IN_PROGRESS", "ACTIVE"]
        return times

    arn = client.create_dataset_group(name="films")["datasetGroupArn"]
    times = seen(arn)
    created = describe(client, arn)["creationDateTime"].timestamp()
    assert times["CREATE IN_PROGRESS"] - created >= pace.pending_seconds(Lane.QUICK)
    assert times["ACTIVE"] - created >= 60 * 0.005
    solution = local.solution(arn)
    client.update_solution(solutionArn=solution, performAutoTraining=True)
    seen(solution, "latestSolutionUpdate")


def test_a_delayed_training_can_be_stopped(tmp_path: Path) -> None:
    local = Local(tmp_path)
    group, _ = local.imported(taste_rows())
    solution = local.solution(group)
    slow = local.another_client(pace=Pace(0.02))  # 6 seconds pending, 18 in progress
    local.client = slow
    version = local.version(solution)
    assert local.describe(version)["status"] == "CREATE PENDING"
    slow.stop_solution_version_creation(solutionVersionArn=version)
    assert local.describe(version)["status"] == "CREATE STOPPED"
    local.client = local.another_client(pace=Pace(0.0005))  # 0.15 seconds pending, 0.45 then
    version = local.version(solution)
    while local.describe(version)["status"] == "CREATE PENDING":
        time.sleep(0.005)
    local.client.stop_solution_version_creation(solutionVersionArn=version)
    assert local.wait(version)["status"] == "CREATE STOPPED"
