"""`batchrec run`."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import click
import yaml

from batchrec_dagster.cli import project as of
from batchrec_dagster.cli.dagster_home import (
    EVENTS_OF_ALL_RUNS,
    RUNS,
    dagster_instance,
    databases_held_open,
    events_of_run,
    has_history,
    use_dagster_home,
)
from batchrec_dagster.cli.project import complete_pipelines

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.reporting.run_stages import RunStages, Stage

LOOK_EVERY = 0.25  # seconds
# Dagster names a run only when it has started: this tag finds it.
TAG = "batchrec/run"
# Ctrl-C, kill, and a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(short_help="Run a pipeline, and watch its stages.")
@click.argument("pipeline", metavar="[NAME]", required=False, shell_complete=complete_pipelines)
@click.option(
    "-c",
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run configuration as YAML, for example to force a training.",
)
@click.pass_context
def run(context: click.Context, pipeline: str | None, config: Path | None) -> None:
    """Make a pipeline's recommendations: run its job NAME_refresh, and show its stages.

    The run and its log are in Dagster's web page too (`batchrec ui`). A second run finds what is
    unchanged, and neither imports it nor trains on it again. Ctrl-C stops the run; the next one
    continues where it stopped. NAME can be left out if there is one pipeline.

    \b
    Examples:
      batchrec run
      batchrec run shop
      batchrec run shop --config force.yaml
      batchrec run shop | tee run.log          # one line a stage

    \b
    Exit codes:
      0    the run succeeded
      1    it failed
      3    no such pipeline
      130  it was stopped by Ctrl-C
    """
    name = _chosen(pipeline)
    if config:
        _check_config(config)
    stream: Any = sys.stdout
    stream.reconfigure(errors="backslashreplace")
    tag, started = uuid.uuid4().hex, time.time()
    command = [*of.job_command(f"{name}_refresh"), "--tags", json.dumps({TAG: tag})]
    with ExitStack() as stack, TemporaryFile() as said, _signals() as received:
        if not has_history():
            with dagster_instance():
                pass  # Makes the databases: of two processes that do, Dagster lets one fail.
        # In a session of its own, Ctrl-C does not reach it before Dagster knows that it is wanted.
        process = subprocess.Popen(
            [*command, *(["-c", str(config)] if config else [])],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            # Meanwhile: both processes take their time to import Dagster.
            instance = stack.enter_context(dagster_instance())
            _import_for_the_end()
            watched = _Run(name, tag, instance, process, said, received, config)
            watched.watch()
            watched.conclude(time.time() - started)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
    if received or process.returncode:
        context.exit(128 + received[0] if received else 1)


def _import_for_the_end() -> None:
    """Import what `_result` needs while the run goes on: afterwards somebody would wait for it."""
    from batchrec_dagster import deployment  # noqa: F401
    from batchrec_dagster.config import project, templates  # noqa: F401
    from batchrec_dagster.reporting import published, summary  # noqa: F401


def _chosen(pipeline: str | None) -> str:
    declared = of.declared_pipelines(of.find_project())
    known = ", ".join(sorted(declared))
    if pipeline is None:
        if len(declared) != 1:
            raise click.UsageError(f"name one of the pipelines: {known}" if known else of.NONE)
        (pipeline,) = declared
    if pipeline not in declared:
        raise of.not_declared(pipeline, declared)
    return pipeline


def _check_config(file: Path) -> None:
    """Raise click.ClickException for a file that is no YAML with settings."""
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), of.TextDates)  # noqa: S506
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or error
        raise click.ClickException(f"{file}{line}: this is not YAML: {why}") from error
    if not isinstance(found, dict):
        raise click.ClickException(f"{file}: a run's settings start with ops:")


@contextmanager
def _signals() -> Iterator[list[int]]:
    received: list[int] = []
    before = {one: signal.signal(one, lambda number, _: received.append(number)) for one in SIGNALS}
    try:
        yield received
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@dataclass
class _Run:
    """A run in a process of its own. said: by the process; received: signals to stop; config: the
    file with its run configuration; stages: None until Dagster has started the run."""

    name: str
    tag: str
    instance: dg.DagsterInstance
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    received: list[int]
    config: Path | None
    stages: RunStages | None = None

    def watch(self) -> None:
        """Show it until its process has ended."""
        import dagster as dg

        from batchrec_dagster.reporting.run_stages import RunStages

        of_tag = dg.RunsFilter(tags={TAG: self.tag})
        asked = 0
        home = use_dagster_home()
        with _view(self.name) as show, ExitStack() as databases:
            databases.enter_context(databases_held_open(home / RUNS, home / EVENTS_OF_ALL_RUNS))
            while True:
                ended = self.process.poll() is not None
                for run in self.instance.get_runs(of_tag, limit=1) if self.stages is None else ():
                    self.stages = RunStages(self.instance, run)
                    events = home / events_of_run(run.run_id)
                    databases.enter_context(databases_held_open(events))
                if len(self.received) > asked:
                    asked = len(self.received)
                    self._stop(force=asked > 1)
                done = list(self.stages.update()) if self.stages else []
                if ended and self.stages is not None:
                    self._close(self.stages)
                    done += self.stages.update()
                show(self.stages, done, ended)
                if ended:
                    return
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(LOOK_EVERY)

    def _stop(self, *, force: bool) -> None:
        """Interrupt it, after a note to Dagster, which then calls it canceled and not failed."""
        if force:
            self.process.kill()
            return
        if self.stages is not None:
            self.instance.report_run_canceling(self.stages.run)
        self.process.send_signal(signal.SIGINT)

    def _close(self, stages: RunStages) -> None:
        """End it in Dagster if its process was killed: it would be under way for ever."""
        from batchrec_dagster.reporting.failure_reasons import explain_signal

        run, code = self.instance.get_run_by_id(stages.run.run_id), self.process.returncode
        if run is None or run.is_finished:
            return
        if self.received:
            self.instance.report_run_canceled(run)
        else:
            what = ", ".join(stages.running) or "the run"
            early = f"the process of {what} ended early"
            self.instance.report_run_failed(run, explain_signal(what, -code) if code < 0 else early)

    def conclude(self, seconds: float) -> None:
        """Say what came out of it, and what to do next."""
        from batchrec_dagster.reporting.run_stages import format_duration

        name, stages, took = self.name, self.stages, format_duration(seconds)
        batchrec = of.program()
        again = f"{batchrec} run {shlex.quote(name)}"
        run = None if stages is None else self.instance.get_run_by_id(stages.run.run_id)
        if stages is None or run is None:
            if self.received:
                click.echo(f"{name}: stopped before the run started")
            else:
                click.echo(f"{name}: the run did not start. {self._why_not()}", err=True)
        elif run.is_success:
            click.echo("\n".join(_result(name, run, stages, took)))
        elif self.received:
            click.echo(f"\n{name}: stopped after {took}. Continue with: {again}")
        else:
            lines = [f"\n{name}: failed after {took}", *(f"  {error}" for error in stages.errors)]
            lines.append(f"Fix it, then continue with: {again}")
            where = f"http://127.0.0.1:3000/runs/{run.run_id}"
            lines.append(f"Its log: {batchrec} ui, then {where}")
            click.echo("\n".join(lines), err=True)

    def _why_not(self) -> str:
        """Why the definitions do not load, or else the last lines of the process."""
        from batchrec_dagster.cli.pipelines import problems

        of.storage()  # raises click.ClickException for wrong settings
        if found := problems(of.find_project()):
            return "\n".join(found)
        self.said.seek(0)
        text = self.said.read().decode(errors="replace")
        if self.config and (wrong := re.findall(r"^ +Error \d+: (.+)", text, re.MULTILINE)):
            return "\n".join(f"{self.config}: {error}" for error in wrong)
        return "\n".join(text.splitlines()[-20:])


Show = Callable[["RunStages | None", "list[Stage]", bool], None]


@contextmanager
def _view(name: str) -> Iterator[Show]:
    """Shows the stages: a table that changes, or in a pipe each stage's line when it ends."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not sys.stdout.isatty() or console.is_dumb_terminal:

        def lines(stages: RunStages | None, ended: list[Stage], last: bool) -> None:
            for stage in ended:
                assert stages is not None
                click.echo(stages.format_line(stage))

        yield lines
        return
    with Live(f"{name}: loading", console=console, auto_refresh=False) as live:

        def table(stages: RunStages | None, ended: list[Stage], last: bool) -> None:
            if stages is None:
                live.update("" if last else f"{name}: loading", refresh=True)
                return
            if last:
                stages.finish()
                live.vertical_overflow = "visible"
            live.update(stages.build_table(time.time()), refresh=True)

        yield table


# By how many letters a command may be longer than the shortest and move the comments of all.
MORE = 40


def _result(name: str, run: dg.DagsterRun, stages: RunStages, took: str) -> list[str]:
    from batchrec_dagster.reporting.published import PublishedResults
    from batchrec_dagster.reporting.summary import describe_run_result, format_show_arguments

    published = PublishedResults(of.storage(name), name)
    lines = ["", *describe_run_result(published, run.run_id, took)]
    lines += [f"  {'warning':<9} {warning}" for warning in stages.warnings]
    batchrec, user = of.program(), published.find_example_user()
    commands = {
        "open": "the report, in a browser",
        f"show --pipeline {name}": "the data, the metrics, the table",
    }
    if user is not None:
        commands[format_show_arguments(user)] = "a user's history and list"
    commands["ui"] = "this run in Dagster"
    return [*lines, "", *aligned({f"{batchrec} {one}": what for one, what in commands.items()})]


def aligned(commands: Mapping[str, str]) -> list[str]:
    """Each command with its comment, below each other; after a long id, a comment stands alone."""
    width = min(map(len, commands)) + MORE
    width = max(len(one) for one in commands if len(one) <= width)
    return [f"{one:<{width}}  # {what}" for one, what in commands.items()]
