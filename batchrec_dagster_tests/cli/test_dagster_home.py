"""Dagster's home: its settings, and who can read its databases."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from batchrec_dagster.cli import NO_MEMORY
from batchrec_dagster.cli.dagster_home import (
    EVENTS_OF_ALL_RUNS,
    RUNS,
    SCHEDULES,
    HistoryError,
    hold_databases_open,
    locate_events_of_run,
    open_dagster_instance,
)
from batchrec_dagster_tests.guard.builders import declaration, module_project


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without runs."""
    home = tmp_path / "dagster"
    home.mkdir(0o700)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


def create_idle_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    run = instance.create_run_for_job(dg.GraphDefinition(name="idle").to_job())
    instance.report_engine_event("ana bought a test", run)
    return run


@pytest.mark.slow
@pytest.mark.attack
@pytest.mark.parametrize(
    ("home_mode", "umask", "folder_mode", "file_mode"),
    [
        (0o700, 0o022, 0o700, 0o600),
        # `mkdir` creates it like this. Others could read the runs, which nobody wants on purpose.
        (0o755, 0o022, 0o700, 0o600),
        (0o775, 0o002, 0o770, 0o660),
        (0o770, 0o007, 0o770, 0o660),
    ],
)
def test_only_who_may_write_to_the_home_can_read_the_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    home_mode: int,
    umask: int,
    folder_mode: int,
    file_mode: int,
) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    home.chmod(home_mode)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    (home / "dagster.yaml").touch()
    umask_before = os.umask(umask)
    try:
        with open_dagster_instance() as instance:
            for name in ("history", "history/runs", "schedules"):
                assert (home / name).stat().st_mode & 0o777 == folder_mode
            run = create_idle_run(instance)
    finally:
        os.umask(umask_before)
    databases = [*home.rglob("*.db*")]
    assert home / locate_events_of_run(run.run_id) in databases
    assert {path.stat().st_mode & 0o777 for path in databases} == {file_mode}
    assert home.stat().st_mode & 0o777 == home_mode


@pytest.mark.slow
def test_a_database_held_open_keeps_its_log_between_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").touch()
    with open_dagster_instance() as instance, ExitStack() as databases:
        run = create_idle_run(instance)
        events = tmp_path / locate_events_of_run(run.run_id)
        log = events.with_name(f"{events.name}-wal")
        assert not log.exists()
        databases.enter_context(hold_databases_open(events, tmp_path / "missing.db"))
        instance.report_engine_event("bob bought a test", run)
        # Whoever closes the last connection copies the log into the database, syncs and deletes it.
        assert log.stat().st_size > 0
        databases.close()
        assert not log.exists()
        assert "bob bought a test" in str(instance.all_logs(run.run_id)[-1].dagster_event)
    assert not (tmp_path / "missing.db").exists()


def test_a_file_that_is_no_database_is_not_held_open(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("lists")
    with hold_databases_open(tmp_path / "runs.db"), pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "runs.db").execute("SELECT name FROM sqlite_master")


@pytest.mark.parametrize("database", [RUNS, EVENTS_OF_ALL_RUNS, SCHEDULES])
def test_a_damaged_database_of_dagster_is_one_line(home: Path, database: str) -> None:
    with open_dagster_instance():
        pass
    (home / database).write_bytes(b"wild bytes " * 1000)
    with pytest.raises(HistoryError) as caught, open_dagster_instance():
        pass
    message = caught.value.message
    assert message.startswith(f"Dagster's history of {home} is damaged (file is not a data")
    assert "\n" not in message


def test_a_full_disk_under_dagsters_history_is_one_line(home: Path) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    with pytest.raises(HistoryError) as caught, open_dagster_instance():
        raise OperationalError("INSERT INTO runs", {}, full)
    assert caught.value.message == (
        f"cannot open Dagster's history of {home}: database or disk is full. Check the disk"
        " and its free space, and run again"
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [["run", "shop"], ["list"], ["ui", "--no-daemon"]])
def test_commands_report_a_damaged_database_in_one_line(tmp_path: Path, command: list[str]) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "orders.csv"))
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    with dg.DagsterInstance.from_config(project.process_environment()["DAGSTER_HOME"]) as instance:
        assert instance.get_runs() == []
    events = tmp_path / ".batchrec/dagster" / EVENTS_OF_ALL_RUNS
    events.write_bytes(b"wild bytes " * 1000)
    for name in ("index.db-wal", "index.db-shm"):
        # Python may not have closed a connection of this process: with its log, SQLite reads a part
        # of what the file had.
        events.with_name(name).unlink(missing_ok=True)
    result = project.run("batchrec", *command)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "is damaged (file is not a database)" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_too_little_memory_to_start_is_one_line(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    batchrec = Path(sys.executable).with_name("batchrec")
    # Enough for Python, but not for the libraries that the command needs.
    limited = f"ulimit -v 400000; exec {batchrec} list"
    result = subprocess.run(
        ["bash", "-c", limited],
        cwd=tmp_path,
        env=project.process_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1] == f"Error: {NO_MEMORY}"
