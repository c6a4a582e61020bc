"""Tests of the Dagster home that commands make: its settings and its databases' permissions."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import NO_MEMORY, main
from batchrec_dagster.cli.dagster_home import locate_events_of_run, open_dagster_instance
from batchrec_dagster_tests.guard.builders import Project, module_project

pytestmark = pytest.mark.slow


@pytest.mark.attack
@pytest.mark.parametrize(
    ("home_mode", "umask", "folder_mode", "file_mode"),
    [
        (0o700, 0o022, 0o700, 0o600),
        # `mkdir` creates a folder like this. Other users of the machine could read the runs.
        (0o755, 0o022, 0o700, 0o600),
        (0o775, 0o002, 0o770, 0o660),
        (0o770, 0o007, 0o770, 0o660),
    ],
)
def test_only_users_with_write_access_to_the_home_can_read_runs(
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
            run = instance.create_run_for_job(dg.GraphDefinition(name="idle").to_job())
            instance.report_engine_event("ana bought a test", run)
    finally:
        os.umask(umask_before)
    databases = [*home.rglob("*.db*")]
    assert home / locate_events_of_run(run.run_id) in databases
    assert {path.stat().st_mode & 0o777 for path in databases} == {file_mode}
    assert home.stat().st_mode & 0o777 == home_mode


@pytest.mark.attack
def test_a_home_is_made_for_its_user_alone_with_the_projects_settings(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / "home"))
    (project.root / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    settings = project.root / "home/dagster/dagster.yaml"
    CliRunner().invoke(main, ["list"])
    assert settings.read_text() == "telemetry: {enabled: false}\n"
    assert settings.stat().st_mode & 0o777 == 0o600
    for folder in (settings.parent, project.root / "home"):
        assert folder.stat().st_mode & 0o777 == 0o700
    settings.write_text("{}\n")  # the user's own settings
    monkeypatch.delenv("DAGSTER_HOME")
    CliRunner().invoke(main, ["list"])
    assert settings.read_text() == "{}\n"


def test_several_first_commands_make_the_databases_of_a_new_home_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").touch()
    start = threading.Barrier(3)

    def count_runs(_: int) -> int:
        start.wait()
        with open_dagster_instance() as instance:
            return instance.get_runs_count()

    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(count_runs, range(3))] == [0, 0, 0]


def test_too_little_memory_to_start_is_one_line(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    # Enough for Python, but not for the libraries that the command needs.
    limited = f"ulimit -v 400000; exec {Path(sys.executable).with_name('batchrec')} list"
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
