"""The ways in, as a user takes them: the `dagster` command and the UI in a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import polars as pl
import pytest
import yaml

from batchrec_dagster_tests.guard.builders import (
    ASSETS,
    Project,
    copied_project,
    declaration,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.servers.dagster_ui import UPRIGHT, answers, go
from batchrec_dagster_tests.guard.servers.processes import Started, free_ports, started

pytestmark = pytest.mark.slow

MODULE = ("-m", "batchrec_dagster.definitions")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = copied_project(tmp_path / "project")
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    return project


def table(project: Project, name: str = "shop") -> pl.DataFrame:
    return pl.read_parquet(
        project.storage / name / "curated/recommendations/recommendations.parquet"
    )


def has_trained(log: str) -> bool:
    """Whether a run says that it trained, rather than found what was trained before."""
    (line,) = [line for line in log.splitlines() if "aws-user-personalization-v2 on data" in line]
    return line.endswith(": trained")


@contextmanager
def background(project: Project, log: Path, command: str, *arguments: str) -> Iterator[Started]:
    """A command that goes on until the test has seen what it wanted."""
    program = str(Path(sys.executable).parent / command)
    environment = project.process_environment()
    with started([program, *arguments], project.root, environment, log) as process:
        yield process


@contextmanager
def instance_of(project: Project) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of the commands that run in the project."""
    with dg.DagsterInstance.from_config(project.process_environment()["DAGSTER_HOME"]) as instance:
        yield instance


def test_assets_run_by_command_and_train_again_when_forced(
    project: Project, first_run: FirstRun
) -> None:
    first_run.copy_to(project)
    record = project.storage / "shop/records/solution_version.json"
    first = json.loads(record.read_text())["solution_version_arn"]
    config = project.root / "config.yaml"
    config.write_text(
        yaml.safe_dump({"ops": {"shop__solution_version": {"config": {"force_train": True}}}})
    )
    command = ("dagster", "asset", "materialize", *MODULE, "--select", "group:shop")
    process = project.run(*command, "--config", str(config))
    assert process.returncode == 0, process.stderr
    assert has_trained(process.stderr)
    assert json.loads(record.read_text())["solution_version_arn"] != first
    assert table(project).get_column("user_id").n_unique() == 60


def test_what_fails_ends_the_command_with_an_error(project: Project) -> None:
    (project.root / "ratings.csv").unlink()
    process = project.run("dagster", "job", "execute", *MODULE, "-j", "shop_refresh")
    assert process.returncode == 1
    # The reason stands in the last line but Dagster's own, without the stack traces.
    reason = process.stderr.splitlines()[-2]
    assert "RUN_FAILURE" in reason
    assert "Failure: ratings.csv: there is no such file" in reason
    assert "Stack Trace" not in process.stderr
    with instance_of(project) as instance:
        run = instance.get_runs()[0].run_id
        (failure_log,) = instance.all_logs(run, of_type=dg.DagsterEventType.STEP_FAILURE)
        errors = [
            entry.user_message
            for entry in instance.all_logs(run)
            if entry.dagster_event is None and entry.step_key == failure_log.step_key
        ]
    assert failure_log.dagster_event is not None
    error = failure_log.dagster_event.step_failure_data.error
    assert error is not None
    assert error.message.startswith("Failure: ratings.csv: there is no such file")
    assert (error.stack, error.cause) == ([], None)
    # Also where Dagster's page hides events.
    assert [f"Failure: {text}" for text in errors] == [error.message.rstrip()]
    # Nothing is stored but that the night failed.
    (record,) = project.storage.rglob("*.*")
    assert record.parent.name == "unpublished_runs"


def test_the_ui_shows_the_lineage_materializes_it_and_ends_by_ctrl_c(
    project: Project, tmp_path: Path, browser: Any
) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    project.declare(declaration("movielens", "ratings.csv"))
    home = project.root / ".batchrec" / "dagster"
    home.mkdir(mode=0o700, parents=True)
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    urls: list[str] = []
    with background(project, tmp_path / "log", "batchrec", "ui", "--port", str(port)) as dev:
        dev.wait_for(lambda: answers(f"{address}/server_info"), "answer of the UI", timeout=300)
        page = browser.new_page(viewport={"width": 1400, "height": 1760})
        page.on("request", lambda request: urls.append(request.url))
        page.on("websocket", lambda socket: urls.append(socket.url))

        page.add_init_script(UPRIGHT)
        page.goto(f"{address}/locations/batchrec_dagster/asset-groups/movielens/lineage")
        for asset in ASSETS:
            page.get_by_text(asset, exact=True).first.wait_for()
        page.get_by_role("button", name="Materialize all").click()
        page.get_by_text("View", exact=True).first.click()
        page.wait_for_url("**/runs/*")
        end = page.get_by_text(re.compile("^(Success|Failure)$")).first
        end.wait_for()
        assert end.inner_text() == "Success", dev.log.read_text()

        go(page, f"{address}/locations/batchrec_dagster/asset-groups/movielens/lineage")
        for asset in ASSETS:
            page.get_by_text(asset, exact=True).first.wait_for()
        expect(page.get_by_text("Never materialized")).to_have_count(0)
        expect(page.get_by_text("Materialized")).to_have_count(len(ASSETS))
        page.close()
        ends_with_all_its_processes(dev)

    hosts = {urlsplit(url).hostname for url in urls if urlsplit(url).scheme not in LOCAL_SCHEMES}
    assert hosts == {"127.0.0.1"}
    assert table(project, "movielens").get_column("user_id").n_unique() == 60
    databases = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
    assert {(home / name).stat().st_mode & 0o077 for name in ("history", *databases)} == {0}


def ends_with_all_its_processes(ui: Started) -> None:
    """Web server, daemon, code servers; by Ctrl-C as a terminal does it."""
    ui.wait_for(lambda: "following daemons" in ui.log.read_text() or None, "daemon", timeout=300)
    assert len(of_session(ui.process.pid)) >= 4  # with the code server's own child
    os.killpg(ui.process.pid, signal.SIGINT)
    assert ui.process.wait(300) == 0
    deadline = time.monotonic() + 300
    while left := of_session(ui.process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def of_session(session: int) -> list[str]:
    """The commands of the session's processes that run."""
    commands = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            state, _, _, its_session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if its_session == str(session) and state != "Z":
                commands.append((folder / "cmdline").read_text())
    return commands


# What such URLs stand for is in the page or in the browser.
LOCAL_SCHEMES = ("data", "blob", "chrome-extension")
