"""Tests of a first night in a new project, command by command."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import dagster as dg
import pytest
import yaml

from batchrec_dagster_tests.guard.builders import (
    ASSETS,
    Project,
    count_created,
    declaration,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.hostile import CONTROLS, HOSTILE, quote_cells
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.dagster_ui import answers
from batchrec_dagster_tests.guard.servers.processes import Started, free_ports, started

pytestmark = pytest.mark.slow

BATCHREC = str(Path(sys.executable).parent / "batchrec")
HOME = ".batchrec/dagster"


@dataclass
class Evening:
    """A project, and the results of its typed commands."""

    project: Project
    said: dict[str, CompletedProcess[str]] = field(default_factory=dict)

    def type(self, command: str, folder: Path | None = None) -> CompletedProcess[str]:
        """Type `batchrec COMMAND` in the project's folder, or in another folder."""
        result = subprocess.run(
            [BATCHREC, *command.split()],
            cwd=folder or self.project.root,
            env=bare_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.said[command] = result
        return result

    @contextmanager
    def starting(self, *command: str) -> Iterator[Started]:
        """Yield a command that runs until the end of the block."""
        log = self.project.root / f"{command[-1]}.log"
        with started([BATCHREC, *command], self.project.root, bare_environment(), log) as process:
            yield process

    @contextmanager
    def history(self) -> Iterator[dg.DagsterInstance]:
        """Yield Dagster's instance with the history of the project."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(self.project.root / HOME))
            with dg.DagsterInstance.get() as instance:
                yield instance

    def last_run(self) -> dg.DagsterRun:
        with self.history() as instance:
            return instance.get_runs(limit=1)[0]


def bare_environment() -> dict[str, str]:
    """Return the environment of a user who has set no variables."""
    prefixes = ("BATCHREC_", "DAGSTER_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def parse_stages(output: str) -> list[tuple[str, str]]:
    """Return the name and status of each stage in the output of a run that writes to a pipe."""
    return re.findall(r"^(\w+) +(done|failed|stopped) ", output, re.MULTILINE)


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Evening:
    """Yield a project after the commands of a first night: init, new, check, run."""
    folder = tmp_path_factory.mktemp("evening")
    evening = Evening(Project(folder / "lists"))
    write_ratings(folder / "ratings.csv")
    assert evening.type("init lists", folder).returncode == 0
    for command in ("new shop --ratings ../ratings.csv", "check", "run shop"):
        result = evening.type(command)
        assert result.returncode == 0, result.stdout + result.stderr
    return evening


def test_a_new_pipeline_passes_the_check(evening: Evening) -> None:
    assert "FAILED" not in evening.said["check"].stdout
    (file,) = evening.project.root.rglob("defs.yaml")
    attributes = yaml.safe_load(file.read_text())["attributes"]
    assert attributes["name"] == "shop"
    assert Path(attributes["ratings"]["source"]) == evening.project.root.parent / "ratings.csv"


def test_a_run_tells_a_line_a_stage_and_publishes_lists_for_all(evening: Evening) -> None:
    said = evening.said["run shop"].stdout
    assert parse_stages(said) == [(asset, "done") for asset in ASSETS]
    assert "edition 1" in said
    assert "\x1b" not in said
    lists = table(evening.project, "shop")
    assert lists.get_column("user_id").n_unique() == 60
    assert (evening.project.storage / "shop/curated/report/index.html").is_file()


def test_a_run_is_in_the_history_that_dagsters_page_shows(evening: Evening) -> None:
    with evening.history() as instance:
        first = instance.get_runs()[-1]
    assert (first.job_name, first.status) == ("shop_refresh", dg.DagsterRunStatus.SUCCESS)
    # The home has the settings of the project, and nobody else may read it.
    home = evening.project.root / HOME
    assert "telemetry: {enabled: false}" in (home / "dagster.yaml").read_text()
    assert {path.stat().st_mode & 0o077 for path in (home, home.parent)} == {0}


def test_show_list_and_open_know_what_was_published(evening: Evening) -> None:
    (shown,) = json.loads(evening.type("show 7 --json").stdout)["pipelines"]
    lists = table(evening.project, "shop").filter(user_id="7").sort("rank")
    items = [entry["item"] for entry in shown["recommendations"]]
    assert items == lists.get_column("item_id").to_list()
    (listed,) = json.loads(evening.type("list --json").stdout)
    assert (listed["pipeline"], listed["edition"]["number"]) == ("shop", 1)
    report = evening.project.storage / "shop/curated/report/index.html"
    opened = evening.type("open")
    assert opened.returncode == 0, opened.stderr
    assert (evening.project.root / opened.stdout.strip()).resolve() == report


def run_on_terminal(evening: Evening, *arguments: str) -> tuple[int, list[str]]:
    """Run a command in a terminal of 80 by 25, and return its exit code and the final screen."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    process = subprocess.Popen(
        [BATCHREC, *arguments],
        cwd=evening.project.root,
        env={**bare_environment(), "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    output = b""
    # Linux reports the end of a terminal as an error.
    with suppress(OSError):
        while piece := os.read(controller, 65_536):
            output += piece
    os.close(controller)
    return process.wait(300), render_screen(output.decode())


def render_screen(output: str) -> list[str]:
    """Return the lines of the final screen, because commands erase and rewrite lines."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[?\d;]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif cursor_up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(cursor_up[1])
        elif part[0] not in "\x1b\r":
            lines[row] += part
    return [line.rstrip() for line in lines]


@nightly("a process for each step takes seconds")
def test_the_next_run_makes_nothing_again_and_fits_the_terminal(evening: Evening) -> None:
    lists = table(evening.project, "shop")
    made_once = {"imports": 1, "models": 1, "jobs": 1}
    assert count_created(evening.project) == made_once
    code, lines = run_on_terminal(evening, "run", "shop")
    assert code == 0, lines
    assert count_created(evening.project) == made_once
    assert table(evening.project, "shop").equals(lists)
    assert len(lines) <= 25
    assert max(len(line) for line in lines if BATCHREC not in line) <= 80
    text = "\n".join(lines)
    assert all(re.search(rf"^{asset} +done", text, re.MULTILINE) for asset in ASSETS)
    assert "edition 1" in text
    (night, _) = json.loads(evening.type("list shop --editions --json").stdout)[0]["nights"]
    assert night["status"] == "unchanged"


@nightly("a process for each step takes seconds")
def test_an_option_of_a_run_imports_and_trains_again(evening: Evening) -> None:
    assert evening.type("run shop --import --train").returncode == 0
    assert count_created(evening.project) == {"imports": 2, "models": 2, "jobs": 2}


@contextmanager
def waiting_in_import(evening: Evening) -> Iterator[Started]:
    """Yield a run that waits in its import for a lock that another process holds."""
    store = Store.open(evening.project.storage)
    with (
        store.lock("personalize_dataset", "another"),
        evening.starting("run", "shop") as process,
    ):
        process.wait_for(
            lambda: "interactions" in process.log.read_text() or None, "a stage", timeout=300
        )
        yield process


def test_ctrl_c_cancels_the_run(evening: Evening) -> None:
    with waiting_in_import(evening) as run:
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(300) == 130
        assert "stopped" in run.log.read_text()
    assert evening.last_run().status == dg.DagsterRunStatus.CANCELED


@nightly("a process for each step takes seconds")
def test_a_run_whose_process_was_killed_says_so_and_what_to_do(evening: Evening) -> None:
    with waiting_in_import(evening) as run:
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
        # A step ends like this if Polars runs out of memory.
        os.kill(int(children.read_text()), signal.SIGABRT)
        assert run.process.wait(300) == 1
        text = run.log.read_text()
    assert "SIGABRT" in text
    assert "memory" in text
    assert "Traceback" not in text
    assert evening.last_run().status == dg.DagsterRunStatus.FAILURE


@nightly("a process for each step takes seconds")
def test_a_run_that_fails_says_why_and_where_its_log_is(evening: Evening) -> None:
    """Names in the file cannot control the terminal."""
    source = evening.project.root / "strange.csv"
    source.write_text(f"{quote_cells(*HOSTILE)}\n{quote_cells(*HOSTILE)}\n")
    file = evening.project.declare(declaration("strange", "strange.csv"))
    try:
        result = evening.type("run strange")
    finally:
        file.unlink()
        file.parent.rmdir()
    assert result.returncode == 1
    said = result.stdout + result.stderr
    assert parse_stages(result.stdout) == [("raw_ratings", "failed")]
    assert "raw_ratings: " in result.stderr
    assert "strange.csv" in result.stderr
    assert "Nothing was published: what readers have stays." in result.stderr
    assert re.search(r"continue with:\n.*batchrec run strange$", result.stderr, re.MULTILINE)
    assert f"/runs/{evening.last_run().run_id}" in result.stderr
    assert "Traceback" not in said
    assert "\\x1b[2J" in said
    assert not CONTROLS.search(said)


@nightly("Dagster's older command takes seconds")
def test_dagsters_own_command_says_the_reason_and_fails(evening: Evening) -> None:
    file = evening.project.declare(declaration("gone", "gone.csv"))
    try:
        job = ("dagster", "job", "execute", "-m", "lists.definitions", "-j", "gone_refresh")
        process = evening.project.run(*job)
    finally:
        file.unlink()
        file.parent.rmdir()
    assert process.returncode == 1
    assert "gone.csv" in process.stderr.splitlines()[-2]
    assert "Stack Trace" not in process.stderr


@nightly("Dagster's older command takes seconds")
def test_dagsters_own_command_takes_the_options_of_a_step(evening: Evening) -> None:
    before = count_created(evening.project)["models"]
    config = evening.project.root / "config.yaml"
    config.write_text(
        yaml.safe_dump({"ops": {"shop__solution_version": {"config": {"force_train": True}}}})
    )
    select = (
        "dagster",
        "asset",
        "materialize",
        "-m",
        "lists.definitions",
        "--select",
        "group:shop",
    )
    process = evening.project.run(*select, "--config", str(config))
    assert process.returncode == 0, process.stderr
    assert count_created(evening.project)["models"] == before + 1
    assert table(evening.project, "shop").get_column("user_id").n_unique() == 60


@nightly("Dagster's page takes seconds of CPU")
def test_the_page_answers_and_ctrl_c_ends_all_its_processes(evening: Evening) -> None:
    (port,) = free_ports(1)
    with evening.starting("ui", "--port", str(port)) as ui:
        address = f"http://127.0.0.1:{port}/server_info"
        ui.wait_for(lambda: answers(address), "answer of the page", timeout=300)
        ui.wait_for(lambda: "daemons" in ui.log.read_text() or None, "daemon", timeout=300)
        assert len(list_processes(ui.process.pid)) >= 4  # including the code server's child process
        os.killpg(ui.process.pid, signal.SIGINT)
        assert ui.process.wait(300) == 0
        deadline = time.monotonic() + 300
        while left := list_processes(ui.process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.2)


def list_processes(session: int) -> list[str]:
    """Return the commands of the session's running processes."""
    commands = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # The process has just ended.
            state, _, _, its_session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if its_session == str(session) and state != "Z":
                commands.append((folder / "cmdline").read_text())
    return commands
