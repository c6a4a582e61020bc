"""Which of Dagster's runs are deleted once they are old, and what of them is left on disk."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.dagster_internals.run_files import locate_events_of_run
from batchrec_dagster.pipeline.automation import old_runs
from batchrec_dagster.pipeline.automation.old_runs import delete_old_runs
from batchrec_dagster_tests.support import declaration

SHOP = Pipeline.model_validate(declaration("shop", "ratings.csv", retention={"runs_days": 30}))
pytestmark = pytest.mark.slow

LOG = logging.getLogger("old runs")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose runs are in SQLite, as in the home that batchrec makes."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture(autouse=True)
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs of the test are 31 days old when they are looked at."""
    monkeypatch.setattr(old_runs, "now", lambda: datetime.now(UTC) + timedelta(days=31))


@dg.asset(check_specs=[dg.AssetCheckSpec("good", asset="lists")])
def lists(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
    print("a line of the step's output")
    context.log_event(dg.AssetObservation("seen"))
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])


@dg.asset
def report() -> None:
    """An asset of its own, which not every run makes."""


@dg.asset_check(asset="report", name="fine")
def report_fine() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def run(home: dg.DagsterInstance, job: str, *selected: Any) -> str:
    """Run a job of this name on these assets and checks; the run's id."""
    selection: dg.AssetSelection = dg.AssetSelection.assets(*(selected or [lists]))
    if report_fine in selected:
        selection = dg.AssetSelection.checks(report_fine)
    definitions = dg.Definitions(
        assets=[lists, report],
        asset_checks=[report_fine],
        jobs=[dg.define_asset_job(job, selection)],
    )
    result = definitions.resolve_job_def(job).execute_in_process(instance=home)
    assert result.success
    return result.run_id


def list_runs(home: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in home.get_runs()}


def test_old_runs_go_with_all_that_is_on_disk_of_them(
    home: dg.DagsterInstance, tmp_path: Path
) -> None:
    older = [run(home, "shop_refresh") for _ in range(2)]
    others = [run(home, "other_refresh"), run(home, "shop_rollback")]
    newest = run(home, "shop_refresh")
    assert all((tmp_path / locate_events_of_run(run_id)).is_file() for run_id in older)
    assert any(older[0] in str(path) for path in (tmp_path / "storage").rglob("*"))
    for _ in range(2):
        delete_old_runs(home, SHOP, LOG)
        # The job of another pipeline is not this one's.
        assert list_runs(home) == {others[0], newest}
    gone = {*older, others[1]}
    assert not [path for path in tmp_path.rglob("*") if any(run in str(path) for run in gone)]
    # What assets and checks have to say is still there.
    event = home.get_latest_materialization_event(lists.key)
    assert event is not None
    assert event.run_id == newest


def test_a_run_with_the_last_result_of_anything_stays(instance: dg.DagsterInstance) -> None:
    with_report = run(instance, "shop_refresh", lists, report)
    run(instance, "shop_rollback")
    with_check = run(instance, "shop_teardown", report_fine)
    newest = run(instance, "shop_refresh")
    delete_old_runs(instance, SHOP, LOG)
    assert list_runs(instance) == {with_report, with_check, newest}
    checked = run(instance, "other_check", report_fine)
    observed = run(instance, "other_refresh")
    reported = run(instance, "other_report", report)
    delete_old_runs(instance, SHOP, LOG)
    assert list_runs(instance) == {checked, observed, reported}


def test_young_and_unfinished_runs_stay(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = instance.create_run_for_job(
        dg.GraphDefinition(name="shop_refresh").to_job(), status=dg.DagsterRunStatus.STARTED
    )
    old = run(instance, "shop_refresh")
    newest = run(instance, "shop_refresh")
    monkeypatch.setattr(old_runs, "now", lambda: datetime.now(UTC) + timedelta(days=29))
    delete_old_runs(instance, SHOP, LOG)
    assert list_runs(instance) == {started.run_id, old, newest}
    monkeypatch.setattr(old_runs, "now", lambda: datetime.now(UTC) + timedelta(days=31))
    delete_old_runs(instance, SHOP, LOG)
    assert list_runs(instance) == {started.run_id, newest}


def test_what_a_killed_deletion_leaves_goes_later(
    home: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, newest = run(home, "shop_refresh"), run(home, "shop_refresh")
    with monkeypatch.context() as patch:
        for name in ("delete_events_file", "delete_orphaned_events"):
            patch.setattr(old_runs, name, lambda *_: None)
        delete_old_runs(home, SHOP, LOG)
    assert list_runs(home) == {newest}
    assert (tmp_path / locate_events_of_run(old)).is_file()
    delete_old_runs(home, SHOP, LOG)
    assert not (tmp_path / locate_events_of_run(old)).exists()
    assert (tmp_path / locate_events_of_run(newest)).is_file()


def test_no_more_than_some_at_a_time(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_runs, "MOST_RUNS", 2)
    runs = [run(instance, "shop_refresh") for _ in range(4)]
    delete_old_runs(instance, SHOP, LOG)
    assert list_runs(instance) == set(runs[2:])
    delete_old_runs(instance, SHOP, LOG)
    assert list_runs(instance) == {runs[-1]}


def test_an_error_is_only_logged(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = {run(instance, "shop_refresh"), run(instance, "shop_refresh")}

    def fail(*_: Any) -> None:
        raise ConnectionError("the database is gone\nand more")

    monkeypatch.setattr(type(instance), "delete_run", fail)
    delete_old_runs(instance, SHOP, LOG)
    assert list_runs(instance) == runs
    (record,) = [record for record in caplog.records if record.name == LOG.name]
    assert record.getMessage() == (
        "retention: old runs could not be deleted, the next run tries again: the database is gone"
    )
