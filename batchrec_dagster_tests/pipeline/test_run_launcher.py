"""A run whose code location was killed is noticed: Dagster by itself holds it for running."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import WorkerStatus

from batchrec_dagster.pipeline.automation.run_launcher import WatchedRunLauncher
from batchrec_dagster_tests.processes import Started, free_ports, started
from batchrec_dagster_tests.support import REPOSITORY

pytestmark = pytest.mark.slow

SLEEPER = """
import time
import dagster as dg

@dg.op
def sleep():
    time.sleep(120)

@dg.job
def sleeper():
    sleep()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An instance by the run launcher of deploy/dagster.yaml, and a code location to serve."""
    deployed_settings = yaml.safe_load((REPOSITORY / "deploy" / "dagster.yaml").read_text())
    instance = {
        "run_launcher": deployed_settings["run_launcher"],
        "run_coordinator": {
            "module": "dagster._core.run_coordinator",
            "class": "DefaultRunCoordinator",
        },
        "telemetry": {"enabled": False},
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"}


def dagster(home: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(Path(sys.executable).with_name("dagster")), *arguments]
    return subprocess.run(
        command, cwd=home, env=environment(home), capture_output=True, check=False
    )


def test_a_run_is_lost_when_its_code_location_was_killed_and_is_back(home: Path) -> None:
    (port,) = free_ports(1)
    (home / "workspace.yaml").write_text(
        f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: here}}}}]\n"
    )

    @contextmanager
    def start_server(name: str) -> Iterator[Started]:
        command = [
            *(str(Path(sys.executable).with_name("dagster")), "api", "grpc", "-f", "sleeper.py"),
            *("--host", "127.0.0.1", "--port", str(port), "--location-name", "here"),
        ]
        with started(command, home, environment(home), home / f"{name}.log") as server:
            server.wait_for(answers, "answer of the code location", timeout=300)
            yield server

    def answers() -> bool | None:
        return dagster(home, "api", "grpc-health-check", "-p", str(port)).returncode == 0 or None

    with dg.DagsterInstance.from_config(str(home)) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, WatchedRunLauncher)
        with start_server("first") as server:
            launch_process = dagster(home, "job", "launch", "-w", "workspace.yaml", "-j", "sleeper")
            assert launch_process.returncode == 0, launch_process.stderr.decode()[-2000:]
            (run,) = instance.get_runs()
            assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
            server.kill()
        # Nobody can tell yet.
        assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        with start_server("second"):
            health = launcher.check_run_worker_health(run)
        assert health.status == WorkerStatus.FAILED
        assert health.msg == "its code location was restarted"
        instance.report_run_failed(run)
        assert launcher.check_run_worker_health(run).status == WorkerStatus.SUCCESS
