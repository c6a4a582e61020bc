"""Runs a job in a process of its own, and shows its stages and its end on the terminal."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from batchrec_dagster.cli.dagster_home import (
    EVENTS_OF_ALL_RUNS,
    RUNS,
    has_history,
    hold_databases_open,
    locate_events_of_run,
    open_dagster_instance,
    use_dagster_home,
)
from batchrec_dagster.cli.pipelines import LoadedPipelines, load_pipelines
from batchrec_dagster.cli.project import enter_project, load_storage

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.cli.run_stages import RunStages
    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.reporting.insight.stages import Stage

# Prints the result of a run that succeeded, from its pipeline, the run, its stages and its duration
# in words.
PrintResult = Callable[["Pipeline", "dg.DagsterRun", "RunStages", str], None]

SECONDS_BETWEEN_UPDATES = 0.25
# Dagster names a run only when it has started: this tag finds it.
# Dagster's web page hides what starts with a dot: the value says nothing to people.
TAG = ".dagster/batchrec/run"
# The stage after which a run has done what an option says. The next one does not do it again.
STAGES_OF_OPTIONS = {"--import": "personalize_dataset", "--train": "solution_version"}
# Ctrl-C, kill, and a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def watch_run(
    name: str,
    command: Sequence[str],
    print_result: PrintResult,
    *,
    arguments: Sequence[str],
    config: Path | None,
) -> int:
    """Run a job in a process of its own, show its stages and its result, and return the exit code.

    name: the pipeline's, or the address of one of its lists.
    command: as `make_job_command` returns it.
    print_result: prints the result of a run that succeeded.
    arguments: those of batchrec that start the same run again.
    config: a file with the run configuration.

    Raises UnknownNameError if the project has no such pipeline.
    """
    tag = uuid.uuid4().hex
    started_at = time.time()
    command = [*command, "--tags", json.dumps({TAG: tag})]
    if config:
        command += ["-c", str(config)]
    with ExitStack() as stack, TemporaryFile() as output, _caught_signals() as signals:
        if not has_history():
            with open_dagster_instance():
                pass  # Makes the databases: of two processes that do, Dagster lets one fail.
        # In a session of its own, Ctrl-C does not reach it before Dagster knows that it is wanted.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            # Only now, because both processes take their time to import Dagster.
            instance = stack.enter_context(open_dagster_instance())
            _import_for_conclusion()
            loaded = load_pipelines(enter_project())
            if not loaded.errors:
                loaded.require(name.partition("/")[0])
            run_process = _RunProcess(
                name,
                loaded,
                tag,
                instance,
                process,
                output,
                signals,
                config,
                print_result,
                arguments,
            )
            run_process.watch()
            run_process.conclude(time.time() - started_at)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
    if signals:
        return 128 + signals[0]
    return 1 if process.returncode else 0


def _import_for_conclusion() -> None:
    """Import what describes a result while the run goes on, so that nobody waits for it."""
    from batchrec_dagster.pipeline import deployment  # noqa: F401
    from batchrec_dagster.reporting.insight import overview, tables  # noqa: F401
    from batchrec_dagster.reporting.views import run  # noqa: F401


@contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Yields a list to which the numbers of signals to stop are added as they arrive."""
    caught: list[int] = []
    handlers_before = {
        number: signal.signal(number, lambda number, _: caught.append(number)) for number in SIGNALS
    }
    try:
        yield caught
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


@dataclass
class _RunProcess:
    """A run of a pipeline's refresh job, and the process of its own in which it runs."""

    name: str
    """The pipeline's, or the address of one of its lists."""
    loaded: LoadedPipelines
    tag: str
    """The value of the run's tag TAG, by which it is found."""
    instance: dg.DagsterInstance
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    """What the process prints."""
    signals: list[int]
    """The signals to stop that have arrived until now."""
    config: Path | None
    """The file with the run configuration."""
    print_result: PrintResult
    """Prints the result of a run that succeeded."""
    arguments: Sequence[str]
    """Those of batchrec that start the same run again."""
    stages: RunStages | None = None
    """None until Dagster has started the run."""

    def watch(self) -> None:
        """Show the run's stages until its process has ended."""
        import dagster as dg

        from batchrec_dagster.cli.run_stages import RunStages

        with_tag = dg.RunsFilter(tags={TAG: self.tag})
        signals_handled = 0
        home = use_dagster_home()
        with _stages_view(self.name) as show, ExitStack() as databases:
            databases.enter_context(hold_databases_open(home / RUNS, home / EVENTS_OF_ALL_RUNS))
            while True:
                ended = self.process.poll() is not None
                if self.stages is None and (runs := self.instance.get_runs(with_tag, limit=1)):
                    self.stages = RunStages(self.instance, runs[0])
                    events = home / locate_events_of_run(runs[0].run_id)
                    databases.enter_context(hold_databases_open(events))
                if len(self.signals) > signals_handled:
                    signals_handled = len(self.signals)
                    self._stop(force=signals_handled > 1)
                ended_stages = list(self.stages.update()) if self.stages else []
                if ended and self.stages is not None:
                    self._report_end(self.stages)
                    ended_stages += self.stages.update()
                show(self.stages, ended_stages)
                if ended:
                    return
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(SECONDS_BETWEEN_UPDATES)

    def _stop(self, *, force: bool) -> None:
        """Interrupt the run, after telling Dagster, which then calls it canceled, not failed."""
        if force:
            self.process.kill()
            return
        if self.stages is not None:
            self.instance.report_run_canceling(self.stages.run)
        self.process.send_signal(signal.SIGINT)

    def _report_end(self, stages: RunStages) -> None:
        """Report the run's end to Dagster if its process was killed before it could.

        In Dagster, the run would be under way forever.
        """
        from batchrec_dagster.pipeline.failure_reasons import explain_signal

        run = self.instance.get_run_by_id(stages.run.run_id)
        code = self.process.returncode
        if run is None or run.is_finished:
            return
        if self.signals:
            self.instance.report_run_canceled(run)
        else:
            what = ", ".join(stage.name for stage in stages.under_way) or "the run"
            early = f"the process of {what} ended early"
            self.instance.report_run_failed(run, explain_signal(what, -code) if code < 0 else early)

    def conclude(self, seconds: float) -> None:
        """Print the run's result, and what to do next."""
        from batchrec_dagster.cli.page_address import DEFAULT_ADDRESS, find_page
        from batchrec_dagster.reporting.insight.numbers import format_duration
        from batchrec_dagster.reporting.views.plain import fit_terminal, format_program
        from batchrec_dagster.reporting.views.run import print_failure
        from batchrec_dagster.reporting.views.terminal import Terminal

        name, stages = self.name, self.stages
        duration = format_duration(seconds)
        program = format_program()
        command_again = f"{program} {shlex.join(self._list_arguments_again())}"
        run = None if stages is None else self.instance.get_run_by_id(stages.run.run_id)
        if stages is None or run is None:
            if self.signals:
                Terminal().outcome("watch", f"{name}: stopped before the run started")
                return
            reason = fit_terminal(self._explain_failed_start(), indentation="  ")
            terminal = Terminal(stderr=True)
            terminal.outcome("refuse", f"{name}: the run did not start")
            for line in reason.splitlines():
                terminal.line(line)
        elif run.is_success:
            pipeline = self.loaded.require(name.partition("/")[0])
            self.print_result(pipeline, run, stages, duration)
        elif self.signals:
            terminal = Terminal()
            terminal.line()
            terminal.outcome("watch", f"{name}: stopped after {duration}. Continue with:")
            terminal.line(f"  {command_again}")
        else:
            page = find_page(use_dagster_home())
            start = "" if page else f", once `{program} ui` runs"
            print_failure(
                Terminal(stderr=True),
                f"{name}: failed after {duration}",
                stages.reasons,
                _describe_remaining_lists(stages),
                command_again,
                (f"Its log{start}:", f"{page or DEFAULT_ADDRESS}/runs/{run.run_id}"),
            )

    def _list_arguments_again(self) -> list[str]:
        """Those of batchrec that go on from here."""
        stages = self.stages.stages.values() if self.stages else ()
        ended_well = {stage.name for stage in stages if stage.status == "done"}
        return [part for part in self.arguments if STAGES_OF_OPTIONS.get(part) not in ended_well]

    def _explain_failed_start(self) -> str:
        """Why the definitions do not load, or else the last lines of the process's output."""
        load_storage()  # Raises click.ClickException for wrong settings of the deployment.
        if self.loaded.errors:
            return "\n".join(self.loaded.errors)
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        if self.config and (errors := re.findall(r"^ +Error \d+: (.+)", text, re.MULTILINE)):
            return "\n".join(f"{self.config}: {error}" for error in errors)
        if databases := re.findall(r"\(?sqlite3\.\w+Error[):] *(.+)", text):
            return f"Dagster cannot use its history: {databases[-1]}. `batchrec check` checks it."
        if re.search(r"MemoryError|failed to map segment|annot allocate memory", text):
            return "Memory ran out while it started. Give this process more."
        return "\n".join(text.splitlines()[-20:])


def _describe_remaining_lists(stages: RunStages) -> str:
    """What readers have after a run that failed, in a sentence; empty if it was to publish
    nothing."""
    publishing = [
        stage for stage in stages.stages.values() if stage.name.split("/")[-1] == "recommendations"
    ]
    published = [stage for stage in publishing if stage.status == "done"]
    if not publishing:
        return ""
    if not published:
        is_first = all(stage.last_duration is None for stage in publishing)
        remain = "" if is_first else " Readers keep the lists that they have."
        return f"Nothing was published.{remain}"
    if len(published) == len(publishing):
        return "The lists are published."
    names = ", ".join(stage.name.removesuffix("/recommendations") for stage in published)
    return f"Published: {names}. Of the others, readers keep the lists that they have."


@contextmanager
def _stages_view(name: str) -> Iterator[Callable[[RunStages | None, list[Stage]], None]]:
    """Yields what prints a line for each stage that has ended, above those that are under way.

    It takes the stages, which are None before the run has started, and those that have ended since
    the last call. A pipe gets only the lines of stages that have ended.
    """
    from rich.live import Live

    from batchrec_dagster.reporting.views.plain import escape_line
    from batchrec_dagster.reporting.views.run import format_stage, format_stages
    from batchrec_dagster.reporting.views.terminal import Terminal

    terminal = Terminal()
    with ExitStack() as stack:
        live = None
        if terminal.width is not None and not terminal.console.is_dumb_terminal:
            start = f"{escape_line(name)}: loading"
            live = stack.enter_context(
                Live(start, console=terminal.console, auto_refresh=False, transient=True)
            )

        def show(stages: RunStages | None, ended: list[Stage]) -> None:
            if stages is None:
                return
            now = time.time()
            name_width = max(len(stage.name) for stage in stages.stages.values())
            if live is not None:
                live.update(format_stages(stages.under_way, now, name_width))
            for stage in ended:
                terminal.line(format_stage(stage, now, name_width), cut=True)
            if live is not None:
                live.refresh()

        yield show
