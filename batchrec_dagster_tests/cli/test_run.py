"""`batchrec run`, in a pipe and on a terminal, and `batchrec list`, `check` and `open`."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from batchrec_dagster.cli import main, watched_run
from batchrec_dagster.cli.dagster_home import use_dagster_home
from batchrec_dagster.cli.run_result import align_comments
from batchrec_dagster.reporting.run_stages import RunStages, format_duration, summarize_metadata
from batchrec_dagster.sinks.sink import SinkUnavailableError
from batchrec_dagster.storage.lease import Lease
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.web.page_address import recorded_page
from batchrec_dagster_tests.guard.builders import (
    ASSETS,
    Project,
    copied_project,
    declaration,
    definitions,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.processes import started

BATCHREC = str(Path(sys.executable).parent / "batchrec")
HOME = ".batchrec/dagster"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of one pipeline that has not run."""
    project = copied_project(tmp_path_factory.mktemp("run") / "project")
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    return project


def build_environment() -> dict[str, str]:
    """The environment of a user who has set nothing: the code is that of the project's folder."""
    prefixes = ("BATCHREC_", "DAGSTER_", "AWS_")
    other_variables = {
        name: value for name, value in os.environ.items() if not name.startswith(prefixes)
    }
    return {**other_variables, "PYTHONPATH": "."}


def run_in_pipe(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BATCHREC, "run", *arguments],
        cwd=project.root,
        env=build_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_on_terminal(project: Project, *arguments: str) -> tuple[int, list[str]]:
    """The exit code, and what a terminal of 80 columns and 25 lines shows in the end."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    process = subprocess.Popen(
        [BATCHREC, "run", *arguments],
        cwd=project.root,
        env={**build_environment(), "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    output = b""
    try:
        while piece := os.read(controller, 65_536):
            output += piece
    except OSError:  # so a terminal ends on Linux
        pass
    os.close(controller)
    return process.wait(300), render_screen(output.decode())


def render_screen(output: str) -> list[str]:
    """The lines that a terminal shows in the end.

    rich moves the cursor up and erases a line before it writes the line again.
    """
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


def list_runs(project: Project) -> list[dg.DagsterRun]:
    """The runs that Dagster's web page shows, newest first."""
    with history(project) as instance:
        return [*instance.get_runs()]


@contextmanager
def history(project: Project) -> Iterator[dg.DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(project.root / HOME))
        with dg.DagsterInstance.get() as instance:
            yield instance


def parse_stage_lines(output: str) -> list[list[str]]:
    """The name, status and details of each stage's line."""
    stages = []
    for line in output.splitlines():
        if match := re.match(r"(\w+) +(done|failed|stopped) +[\d. a-z]*? s\b *(.*)", line):
            stages.append([*match.groups()])
    return stages


@pytest.mark.slow
def test_a_run_in_a_pipe_says_a_line_a_stage_and_the_next_says_that_nothing_changed(
    shop: Project,
) -> None:
    result = run_in_pipe(shop)
    assert result.returncode == 0, result.stderr
    lines = parse_stage_lines(result.stdout)
    assert [name for name, _, _ in lines] == ASSETS
    assert {status for _, status, _ in lines} == {"done"}
    assert lines[1][2] == "1,598 of 1,800 rows kept"
    assert lines[5][2] == "1,500 rows for 60 users"
    assert "shop: published edition 1 in " in result.stdout
    output = " ".join(result.stdout.split())
    verdict = r"Look before you send: .* NDCG@25 0\.\d{4} compared with 0\.\d{4}, measured"
    assert re.search(verdict, output)
    assert "batchrec show 1 " in result.stdout
    # The run is in the history that `make ui` opens, which has the settings of the project.
    (run,) = list_runs(shop)
    assert (run.job_name, run.status) == ("shop_refresh", dg.DagsterRunStatus.SUCCESS)
    settings = (shop.root / HOME / "dagster.yaml").read_text()
    assert settings.startswith((shop.root / "dagster.yaml").read_text())

    code, screen_lines = run_on_terminal(shop, "shop")
    text = "\n".join(screen_lines)
    assert code == 0, text
    assert len(screen_lines) <= 25
    assert max(len(line) for line in screen_lines if BATCHREC not in line) <= 80
    assert "last run" in screen_lines[0]
    table = screen_lines[1 : 1 + len(ASSETS)]
    assert [line.split()[0] for line in table] == ASSETS
    assert all(line.split()[1] == "done" for line in table)
    for participle in ("copied", "imported", "trained", "inferred"):
        assert f"unchanged: not {participle} again" in text
    assert "shop: the lists are unchanged (" in text
    assert ": edition 1 of 20" in text


def hold_import_lease(shop: Project) -> AbstractContextManager[None]:
    """The lease on the import, so that a run that is started meanwhile waits there."""
    store = ObjectStore(folders={"storage": shop.storage})
    folder = "s3://storage/shop/leases/personalize_dataset/"
    return Lease(store, folder, "another", logging.getLogger(), deadline_seconds=60).hold()


@pytest.mark.slow
def test_ctrl_c_cancels_the_run_and_the_exit_code_of_a_failed_run_is_one(
    shop: Project, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with (
        hold_import_lease(shop),
        started([BATCHREC, "run", "shop"], shop.root, build_environment(), log) as process,
    ):
        process.wait_for(
            lambda: "raw_ratings" in log.read_text() or None, "first stage", timeout=300
        )
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(300) == 130
    assert "shop: stopped after " in log.read_text()
    assert list_runs(shop)[0].status == dg.DagsterRunStatus.CANCELED

    with (
        hold_import_lease(shop),
        started([BATCHREC, "run", "shop"], shop.root, build_environment(), log) as process,
    ):
        process.wait_for(
            lambda: "raw_ratings" in log.read_text() or None, "first stage", timeout=300
        )
        children = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children")
        # A step in which Polars runs out of memory ends like this.
        os.kill(int(children.read_text()), signal.SIGABRT)
        assert process.process.wait(300) == 1
    log_text = log.read_text()
    assert re.search(
        r"^  the process of [\w, ]+ was killed by SIGABRT: memory most likely ran out\. Give the"
        r" machine .* more, .*, or prepare them on Spark",
        log_text,
        re.MULTILINE,
    ), log_text
    assert "Traceback" not in log_text
    assert list_runs(shop)[0].status == dg.DagsterRunStatus.FAILURE

    write_ratings(shop.root / "few.csv", users=3)
    shop.declare(declaration("few", "few.csv"))
    try:
        result = run_in_pipe(shop, "few")
    finally:
        (shop.package / "defs/few/defs.yaml").unlink()
    assert result.returncode == 1
    lines = parse_stage_lines(result.stdout)
    assert lines[-1][:2] == ["interactions", "failed"]
    assert "few: failed after " in result.stderr
    assert "interactions: " in result.stderr
    assert "1,000" in result.stderr
    assert f"/runs/{list_runs(shop)[0].run_id}" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.slow
def test_a_run_that_cannot_start_says_which_line_is_wrong(shop: Project) -> None:
    file = shop.declare(declaration("odd", "ratings.csv", no_such_setting=1))
    try:
        result = run_in_pipe(shop, "odd")
    finally:
        file.unlink()
    assert result.returncode == 1
    assert re.search(r"odd: the run did not start\n  .*odd/defs.yaml, line \d+", result.stderr)
    assert "no_such_setting" in result.stderr


@pytest.mark.slow
def test_a_run_configuration_with_an_unknown_setting_is_named(shop: Project) -> None:
    file = shop.root / "force.yaml"
    file.write_text("ops:\n  shop__solution_version: {config: {force_tran: true}}\n")
    result = run_in_pipe(shop, "shop", "-c", str(file))
    assert result.returncode == 1
    assert f'{file}: Received unexpected config entry "force_tran"' in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 2


# In this process


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"ops:\n\tx: 1\n", "run.yaml, line 2: this is not YAML: found character"),
        (b"ops: caf\xe9\n", "run.yaml cannot be read: 'utf-8' codec"),
        (b"ops: \x01\n", "run.yaml: this is not YAML: "),
        (b"# later\n", "run.yaml: a run's settings start with ops:"),
    ],
)
def test_a_run_configuration_that_is_none_is_refused(
    working_project: Project, text: bytes, message: str
) -> None:
    working_project.declare(declaration("shop", "ratings.csv"))
    (working_project.root / "run.yaml").write_bytes(text)
    code, output = run_batchrec("run", "shop", "-c", "run.yaml")
    assert code == 1
    assert output.startswith(f"Error: {message}")


@pytest.fixture
def working_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in whose folder the commands run, without DAGSTER_HOME."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    monkeypatch.chdir(project.root)
    return project


def start_with_options(project: Project, *arguments: str) -> dict[str, Any]:
    """The run configuration with which `batchrec run` starts Dagster, which does not start."""
    configs: list[dict[str, Any]] = []

    def start_process(command: list[str], **_: object) -> None:
        files = [Path(command[place + 1]) for place, part in enumerate(command) if part == "-c"]
        configs.extend(yaml.safe_load(file.read_text()) for file in files)
        raise OSError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", start_process)
        CliRunner().invoke(main, ["run", *arguments])
    return configs[0] if configs else {}


@pytest.fixture
def job_of_lists(working_project: Project) -> dg.JobDefinition:
    """The job of a pipeline with items and two lists."""
    working_project.declare(
        {
            **declaration("shop", "ratings.csv"),
            "items": {"source": "items.csv", "columns": {"item": "id", "title": "title"}},
            "lists": {"home": {"num_results": 5}, "mail": {"num_results": 3}},
        }
    )
    return find_job(working_project, "shop")


def resolve_ops(job: dg.JobDefinition, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the ops of a run that is started with this config."""
    assert job.config_mapping is not None
    resolved = job.config_mapping.resolve_from_unvalidated_config(config)
    dg.validate_run_config(job, config)
    return dict(resolved["ops"])


def test_options_of_a_run_are_those_of_the_launchpad(working_project: Project) -> None:
    working_project.declare(declaration("shop", "ratings.csv"))
    assert start_with_options(working_project, "shop", "--publish-anyway") == {
        "publish_anyway": True
    }
    options = ("--import", "--train")
    assert start_with_options(working_project, "shop", *options) == {"import": True, "train": True}
    assert start_with_options(working_project, "shop") == {}


def test_an_option_is_that_of_all_ops_that_have_it(job_of_lists: dg.JobDefinition) -> None:
    anyway = {"config": {"skip_quality_gate": True}}
    assert resolve_ops(job_of_lists, {"publish_anyway": True, "train": False}) == {
        "shop__raw_items": anyway,
        "shop__interactions": anyway,
        "shop__home__recommendations": anyway,
        "shop__mail__recommendations": anyway,
    }
    assert resolve_ops(job_of_lists, {"import": True, "train": True}) == {
        "shop__personalize_dataset": {"config": {"force_import": True}},
        "shop__solution_version": {"config": {"force_train": True}},
    }
    assert resolve_ops(job_of_lists, {}) == {}


def test_the_config_of_an_op_can_stand_next_to_the_options(job_of_lists: dg.JobDefinition) -> None:
    own_ops = {"shop__mail__recommendations": {"config": {"skip_quality_gate": True}}}
    assert resolve_ops(job_of_lists, {"ops": own_ops}) == own_ops
    assert resolve_ops(job_of_lists, {"ops": own_ops, "train": True}) == {
        **own_ops,
        "shop__solution_version": {"config": {"force_train": True}},
    }
    not_this_model = {"shop__solution_version": {"config": {"force_train": False}}}
    assert resolve_ops(job_of_lists, {"ops": not_this_model, "train": True}) == not_this_model
    with pytest.raises(dg.DagsterInvalidConfigError, match="publish_anway"):
        dg.validate_run_config(job_of_lists, {"publish_anway": True})


def test_a_part_of_the_job_takes_the_options_too(job_of_lists: dg.JobDefinition) -> None:
    part = job_of_lists.get_subset(asset_selection={dg.AssetKey(["shop", "raw_ratings"])})
    dg.validate_run_config(part, {"publish_anyway": True, "train": True})


def test_the_launchpad_opens_with_the_options_of_a_run(job_of_lists: dg.JobDefinition) -> None:
    schema = job_of_lists.run_config_schema.config_type
    assert isinstance(schema, dg.Permissive)
    assert {name: field.default_value for name, field in schema.fields.items()} == {
        "publish_anyway": False,
        "import": False,
        "train": False,
    }
    assert all(str(field.description).endswith(".") for field in schema.fields.values())


def find_job(project: Project, name: str) -> dg.JobDefinition:
    with definitions(project) as defs:
        return defs.resolve_job_def(f"{name}_refresh")


def run_batchrec(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_a_pipeline_that_is_not_declared_is_not_found(working_project: Project) -> None:
    assert run_batchrec("run")[0] == 2
    assert "batchrec new NAME" in run_batchrec("run")[1]
    broken = working_project.package / "defs/odd/defs.yaml"
    broken.parent.mkdir(parents=True)
    broken.write_text("attributes:\n\tname: odd\n")
    code, output = run_batchrec("run")
    assert code == 1
    assert "odd/defs.yaml, line 2" in output
    broken.unlink()
    working_project.declare(declaration("shop", "ratings.csv"))
    working_project.declare(declaration("club", "ratings.csv"))
    code, output = run_batchrec("run")
    assert code == 2
    assert "name one of the pipelines: club, shop" in output
    code, output = run_batchrec("run", "shopp")
    assert code == 3
    assert "no pipeline 'shopp'. Declared: club, shop" in output


def test_dagster_s_home_is_in_batchrec_s_where_nothing_sets_it(
    working_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (working_project.root / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    use_dagster_home()
    home = working_project.root / HOME
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert home.stat().st_mode & 0o077 == 0
    settings = yaml.safe_load((home / "dagster.yaml").read_text())
    assert settings == {"telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text("{}\n")  # the user's own
    monkeypatch.delenv("DAGSTER_HOME")
    use_dagster_home()
    assert (home / "dagster.yaml").read_text() == "{}\n"


def test_a_run_starts_before_this_process_opens_a_history_that_is_there(
    working_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_project.declare(declaration("shop", "ratings.csv"))
    events: list[str] = []

    @contextmanager
    def open_instance() -> Iterator[None]:
        events.append("opened")
        yield

    def start_process(command: list[str], **options: object) -> None:
        events.append("started")
        raise OSError

    monkeypatch.setattr(watched_run, "open_dagster_instance", open_instance)
    monkeypatch.setattr(subprocess, "Popen", start_process)
    (working_project.root / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    CliRunner().invoke(main, ["run", "shop"])
    assert events == [
        "opened",
        "started",
    ]  # Of two processes that make databases, Dagster fails one.
    (working_project.root / HOME / "schedules").mkdir()
    (working_project.root / HOME / "schedules/schedules.db").touch()
    events.clear()
    CliRunner().invoke(main, ["run", "shop"])
    assert events == ["started"]


def test_a_storage_that_the_project_declares_stays(working_project: Project) -> None:
    storage_yaml = "storage: {sqlite: {base_dir: /var/lib/shop}}\n"
    (working_project.root / "dagster.yaml").write_text(storage_yaml)
    assert (use_dagster_home() / "dagster.yaml").read_text() == storage_yaml


def test_a_failure_fits_the_terminal_and_its_commands_can_be_copied(
    working_project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dg.op
    def imports() -> None: ...

    @dg.op(ins={"start": dg.In(dg.Nothing)})
    def interactions() -> None:
        checks = (
            "few: 988 interactions\nnot_shrunk: interactions fell from 1,598 to 988, that is by"
        )
        raise dg.Failure(f"{checks} 38%. Publish anyway: `batchrec run shop --publish-anyway`")

    @dg.job(executor_def=dg.in_process_executor)
    def shop_refresh() -> None:
        interactions(start=imports())

    monkeypatch.setattr(watched_run, "format_program", lambda: ".venv/bin/batchrec")
    monkeypatch.setattr(watched_run, "get_terminal_width", lambda: 80)
    monkeypatch.setitem(watched_run.STAGES_OF_OPTIONS, "--import", "imports")
    with (
        dg.DagsterInstance.ephemeral() as instance,
        recorded_page(use_dagster_home(), "127.0.0.1", 3001),
    ):
        run = shop_refresh.execute_in_process(instance=instance, raise_on_error=False).dagster_run
        stages = RunStages(instance, run)
        assert [stage.status for stage in stages.update()] == ["done", "failed"]
        process = watched_run._RunProcess(
            pipeline="shop",
            tag="",
            instance=instance,
            process=Mock(),
            output=io.BytesIO(),
            signals=[],
            config=None,
            describe=lambda *_: [],
            arguments=["run", "shop", "--import", "--train"],
            stages=stages,
        )
        capsys.readouterr()
        process.conclude(12)
    assert capsys.readouterr().err.splitlines() == [
        "",
        "shop: failed after 12 s",
        "  interactions: few: 988 interactions",
        "  interactions: not_shrunk: interactions fell from 1,598 to 988, that is by 38%.",
        "    Publish anyway: `.venv/bin/batchrec run shop --publish-anyway`",
        "",
        "Fix it, then continue with:",
        # What an option asked for is done.
        "  .venv/bin/batchrec run shop --train",
        "Its log:",
        f"  http://127.0.0.1:3001/runs/{run.run_id}",
    ]


@pytest.fixture
def stages() -> Iterator[RunStages]:
    """The stages of a run of two lists, which has not started."""

    @dg.op
    def shop__home__recommendations() -> None: ...

    @dg.op
    def shop__newsletter__recommendations() -> None: ...

    @dg.job(executor_def=dg.in_process_executor)
    def shop_refresh() -> None:
        shop__home__recommendations()
        shop__newsletter__recommendations()

    with dg.DagsterInstance.ephemeral() as instance:
        yield RunStages(instance, instance.create_run_for_job(shop_refresh))


def test_a_reason_that_several_stages_have_is_said_once(stages: RunStages) -> None:
    names = [stage.name for stage in stages.stages.values()]
    assert names == ["home/recommendations", "newsletter/recommendations"]
    stages.errors = [*(f"{name}: blocked.csv: no such file" for name in names), "killed: why"]
    assert stages.reasons == [f"{', '.join(names)}: blocked.csv: no such file", "killed: why"]


def test_a_run_that_failed_says_what_readers_have(stages: RunStages) -> None:
    describe = watched_run._describe_remaining_lists
    home, newsletter = stages.stages.values()
    assert describe(stages) == ["Nothing was published."]
    home.last_duration = newsletter.last_duration = 1.0
    assert describe(stages) == ["Nothing was published. Readers keep the lists that they have."]
    home.status, newsletter.status = "done", "failed"
    assert describe(stages) == [
        "Published: home. Of the others, readers keep the lists that they have."
    ]
    newsletter.status = "done"
    assert describe(stages) == ["The lists are published."]
    del stages.stages[next(iter(stages.stages))]
    next(iter(stages.stages.values())).name = "teardown"
    assert describe(stages) == []


def test_what_a_stage_did_is_shortened_where_it_does_not_fit(stages: RunStages) -> None:
    for stage in stages.stages.values():
        stage.details = "unchanged: not inferred again"
    for width, text in ((200, "unchanged: not inferred again"), (60, "unchanged")):
        console = Console(width=width, file=io.StringIO())
        console.print(stages.build_table(0.0, width))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert all(line.rstrip().endswith(text) for line in lines)


@pytest.mark.parametrize("width", [None, 75])
def test_an_error_fits_the_terminal(
    working_project: Project, monkeypatch: pytest.MonkeyPatch, width: int | None
) -> None:
    working_project.declare(declaration("shop", "ratings.csv", recommendation={}))
    monkeypatch.setattr("batchrec_dagster.cli.terminal.get_terminal_width", lambda: width)
    code, output = run_batchrec("run", "shopp")
    assert code == 3
    lines = output.splitlines()
    if width is None:
        assert lines[0].endswith("`batchrec check` names files that do not load.")
        return
    assert lines[0].startswith("Error: no pipeline 'shopp'. Declared: shop.")
    assert lines[-1].startswith("  ")
    code, output = run_batchrec("check", "--offline")
    assert code == 1
    finding = output[output.index("FAILED") :]
    assert " ".join(finding.split()).startswith(
        f"FAILED pipelines {working_project.package.name}/defs/shop/defs.yaml, line "
    )
    # The path, which is longer than the column, stays whole.
    assert all(len(line) <= 75 or line.endswith(".yaml,") for line in finding.splitlines())


@pytest.mark.slow
def test_a_stage_that_waits_for_another_try_says_when_and_why() -> None:
    tries: list[int] = []

    @dg.op
    def sink() -> None:
        if not tries:
            tries.append(1)
            error = SinkUnavailableError("cannot write the table lists: connection refused")
            raise dg.RetryRequested(seconds_to_wait=0.1) from error

    @dg.job(executor_def=dg.in_process_executor)
    def shop_refresh() -> None:
        sink()

    with dg.DagsterInstance.ephemeral() as instance:
        run = shop_refresh.execute_in_process(instance=instance).dagster_run
        view = RunStages(instance, run)
        lines = []
        for stage in view.update():
            if stage.status == "retrying":
                assert view.retries == [f"sink: {stage.details}"]
            lines.append(" ".join(view.format_line(stage).split()))
        assert view.retries == []
    retry_comment = "cannot write the table lists: connection refused, trying again in 0.1 s"
    assert re.fullmatch(rf"sink retrying [\d.]+ s {retry_comment}", lines[0])
    assert re.match(r"sink done [\d.]+ s", lines[1])
    assert len(lines) == 2


def test_a_long_id_moves_no_other_comment() -> None:
    commands = {"batchrec open": "the report", f"batchrec show {'x' * 200}": "a list"}
    aligned_commands = align_comments({**commands, "batchrec ui": "this run"})
    assert aligned_commands[0] == "batchrec open  # the report"
    assert aligned_commands[1].endswith("xx  # a list")
    assert aligned_commands[2] == "batchrec ui    # this run"


def test_pipelines_are_listed_with_their_last_run_and_edition_and_the_report_opens(
    working_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = working_project.root / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {working_project.root / "opened"}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    working_project.declare(declaration("club", "ratings.csv"))
    working_project.declare(
        declaration("shop", write_ratings(working_project.root / "ratings.csv"))
    )
    code, output = run_batchrec("open")
    assert code == 3
    assert "no report yet" in output
    use_dagster_home()
    with dg.DagsterInstance.get() as instance:
        result = refresh(working_project, "shop", instance, report=True)
        assert result.success
        view = RunStages(instance, result.dagster_run)
        assert [stage.name for stage in view.update()] == ASSETS
        # The run before was this one, which took that long.
        assert all(stage.last_duration is not None for stage in view.stages.values())
        assert "recommendation_report" in view.format_line(
            view.stages["shop__recommendation_report"]
        )

        # `batchrec run` ends a run like this if its process was killed.
        stopped_run = instance.create_run_for_job(find_job(working_project, "shop"))
        view = RunStages(instance, stopped_run)
        instance.report_run_failed(stopped_run, "The run's process was killed")
        assert [*view.update()] == []
        assert view.errors == ["The run's process was killed"]
        view.finish()
        assert {stage.status for stage in view.stages.values()} == {"not run"}

    code, output = run_batchrec("list")
    assert code == 0
    rows = [line.split() for line in output.splitlines()[2:]]
    assert rows[0] == ["club", "never", "none"]
    assert rows[1][:2] == ["shop", "failed"]
    assert rows[1][-4] == "1"
    assert rows[1][-1] == "60"
    notice = "Published in this storage too, but not declared here: old\n"
    assert notice not in output
    shutil.copytree(working_project.storage / "shop", working_project.storage / "old")
    assert run_batchrec("list")[1] == f"{output}{notice}"
    shutil.rmtree(working_project.storage / "old")
    (club, shop) = json.loads(run_batchrec("list", "--json")[1])
    assert club == {"pipeline": "club", "last_run": None, "edition": None}
    assert shop["last_run"]["run_id"] == stopped_run.run_id
    assert shop["last_run"]["status"] == "FAILURE"
    assert shop["edition"]["number"] == 1

    report = working_project.storage / "shop/curated/report/index.html"
    assert run_batchrec("open") == (0, ".batchrec/storage/shop/curated/report/index.html\n")
    assert (working_project.root / "opened").read_text() == f"{report.as_uri()}\n"
    code, output = run_batchrec("open", "--pipeline", "club")
    assert code == 3
    assert "no report yet. Make one: " in output
    code, output = run_batchrec("open", "--pipeline", "clubb")
    assert code == 3
    assert "no pipeline 'clubb'. Declared: club, shop" in output


def test_the_web_page_opens_only_if_it_runs(
    working_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER", "true")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = str(server.server_port)
    assert run_batchrec("open", "ui", "--port", port) == (0, f"http://127.0.0.1:{port}\n")
    server.server_close()
    with socket.socket() as mute:  # nobody else listens there meanwhile
        mute.bind(("127.0.0.1", 0))
        code, output = run_batchrec("open", "ui", "--port", str(mute.getsockname()[1]))
    assert code == 1
    assert "batchrec ui" in output


def test_check_is_strict_and_names_each_line(working_project: Project) -> None:
    write_ratings(working_project.root / "ratings.csv")
    working_project.declare(declaration("shop", "ratings.csv"))
    code, output = run_batchrec("check")
    assert (code, " load: shop\n" in output) == (0, True)
    working_project.declare(declaration("club", "ratings.csv", recommendations={"num_result": 5}))
    code, output = run_batchrec("check")
    assert code == 1
    assert re.search(r"club/defs\.yaml, line \d+: recommendations\.num_result: ", output)
    assert "did you mean num_results?" in output
    assert "Warning" not in output


def test_check_opens_sources_and_looks_for_variables(
    working_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_DATABASE_URL", raising=False)
    monkeypatch.delenv("SHOP_ALERTS", raising=False)
    write_ratings(working_project.root / "ratings.csv")
    columns = {"user": "usrId", "item": "movieId", "timestamp": "timestamp"}
    working_project.declare(
        {
            "name": "shop",
            "ratings": {"source": "ratings.csv", "columns": columns},
            "items": {"source": "films.csv", "columns": {"item": "id", "title": "title"}},
            "sinks": {"postgres": {"url_env": "SHOP_DATABASE_URL"}},
            "alerts": {"urls_env": "SHOP_ALERTS"},
        }
    )
    code, output = run_batchrec("check")
    assert code == 1
    assert [line for line in output.splitlines() if line.startswith("FAILED")] == [
        "FAILED   shop ratings           ratings.csv has no column 'usrId' (ratings.columns.user);"
        " it has: userId, movieId, rating, timestamp",
        "FAILED   shop items             films.csv: there is no such file: looked at"
        f" {working_project.root / 'films.csv'}",
        "FAILED   shop alerts            the environment variable SHOP_ALERTS is not set",
        "FAILED   shop postgres          the environment variable SHOP_DATABASE_URL is not set:"
        " set it to postgresql://***@HOST:PORT/DATABASE",
    ]
    assert run_batchrec("check", "--offline")[0] == 0


@pytest.mark.slow
def test_an_asset_of_ones_own_in_defs_brings_no_notices_of_dagster(
    working_project: Project,
) -> None:
    write_ratings(working_project.root / "ratings.csv")
    working_project.declare(declaration("shop", "ratings.csv"))
    own = "import dagster as dg\n\n\n@dg.asset\ndef top10() -> None: ...\n"
    (working_project.package / "defs" / "top10.py").write_text(own)
    result = working_project.run("batchrec", "check")
    assert (result.returncode, result.stderr) == (0, "")
    assert " load: shop\n" in result.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (7_790, "2 h 09 min")],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"outcome": "unchanged: not copied again", "dagster/row_count": 3}, "unchanged: not"),
        ({"dagster/row_count": 1_000, "rows_read": 2_000, "users": 5}, "1,000 of 2,000 rows kept"),
        ({"dagster/row_count": 60, "users": 60}, "60 users"),
        ({"dagster/row_count": 1_500, "users": 60}, "1,500 rows for 60 users"),
        ({"dagster/row_count": 1, "users": 599}, "1 row for 599 users"),
        ({"dagster/row_count": 25, "users": 1}, "25 rows for 1 user"),
        ({"dagster/row_count": 0}, "nothing yet"),
        ({"users": 60}, "60 users"),
        ({"outcome": "a\x1b[31m\nb"}, "a\\x1b[31m b"),
        ({}, ""),
    ],
)
def test_counts_of_a_stage(metadata: dict[str, object], text: str) -> None:
    assert summarize_metadata(metadata).startswith(text)
    assert bool(summarize_metadata(metadata)) == bool(text)
