"""Tests of wrong outputs of batch inference jobs: refused, or published without a few users.

Personalize is the embedded one. The tests change files of finished jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project, count_created, refresh, table, why
from batchrec_dagster_tests.guard.first_run import DECLARATION

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first_run_of_shop")]

Lines = list[dict[str, Any]]


def fail_users(lines: Lines, count: int) -> Lines:
    """Return the lines with an error in place of the first lists."""
    failed = [
        {**line, "output": None, "error": "Service error: try again"} for line in lines[:count]
    ]
    return [*failed, *lines[count:]]


@dataclass
class Shop:
    """A pipeline that has run once."""

    project: Project
    instance: dg.DagsterInstance

    def run(self) -> dg.ExecuteInProcessResult:
        """Run only the asset of the lists."""
        return refresh(self.project, "shop", self.instance, assets=["recommendations"])

    def find_output(self) -> Path:
        """Return the output file of the newest job."""
        outputs = (self.project.storage / "shop/curated/batch_inference").glob("*/*.out")
        return max(outputs, key=lambda file: file.stat().st_mtime_ns)

    def change_output(self, change: Callable[[Lines], Lines]) -> None:
        output = self.find_output()
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        output.write_text("".join(f"{json.dumps(line)}\n" for line in change(lines)))

    @property
    def lists(self) -> pl.DataFrame:
        return table(self.project, "shop")

    def count_jobs(self) -> int:
        return count_created(self.project)["jobs"]


@pytest.fixture
def shop(project: Project, instance: dg.DagsterInstance) -> Shop:
    return Shop(project, instance)


def test_a_damaged_output_fails_the_run_and_the_next_one_starts_a_new_job(shop: Shop) -> None:
    good = shop.lists
    changes: list[Callable[[Lines], Lines]] = [
        lambda lines: fail_users(lines, 6),
        lambda lines: lines[1:],
    ]
    for jobs, change in enumerate(changes, start=1):
        shop.change_output(change)
        refused = shop.run()
        assert "Run again: the next run starts a new job" in why(refused)
        assert shop.count_jobs() == jobs
        assert shop.lists.equals(good)
        result = shop.run()
        assert result.success, why(result)
        assert shop.count_jobs() == jobs + 1
        assert shop.lists.equals(good)
    # The right output is used from then on.
    assert shop.run().success
    assert shop.count_jobs() == len(changes) + 1


def test_too_many_failed_users_are_named_with_the_setting_and_the_reason(shop: Shop) -> None:
    shop.change_output(lambda lines: fail_users(lines, 6))
    reason = why(shop.run())
    assert "recommendations.max_failed_share" in reason
    assert "Service error: try again" in reason


def test_an_output_that_is_gone_is_made_again(shop: Shop) -> None:
    shop.find_output().unlink()
    assert shop.run().success
    assert shop.count_jobs() == 2


def test_few_failed_users_are_published_without_lists_and_named(shop: Shop) -> None:
    good = shop.lists
    shop.change_output(lambda lines: fail_users(lines, 3))
    shop.project.declare({**DECLARATION, "recommendations": {"max_failed_share": 0.05}})
    result = shop.run()
    assert result.success, why(result)
    assert shop.count_jobs() == 1
    failed_users = {*good["user_id"]} - {*shop.lists["user_id"]}
    assert len(failed_users) == 3
    assert shop.lists.equals(good.filter(~pl.col("user_id").is_in(failed_users)))
    environment = {"BATCHREC_HOME": str(shop.project.root / ".batchrec")}
    shown = CliRunner().invoke(main, ["show", min(failed_users)], env=environment)
    assert "Service error: try again" in " ".join(shown.output.split())
    # With the stricter setting, the same output is not good enough.
    shop.project.declare(DECLARATION)
    assert not shop.run().success
    assert shop.run().success
    assert shop.lists.equals(good)


def test_a_filter_that_leaves_nothing_is_named_and_its_job_is_paid_for_once(shop: Shop) -> None:
    good = shop.lists
    # Items that people had, which exclude_seen leaves out.
    nothing = 'INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
    shop.project.declare({**DECLARATION, "recommendations": {"filter": nothing}})
    for _ in range(2):
        assert "recommendations.filter excludes every item" in why(shop.run())
        assert shop.count_jobs() == 2
    assert shop.lists.equals(good)
