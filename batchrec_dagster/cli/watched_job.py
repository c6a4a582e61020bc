"""A job that runs in a separate process, with its stages and its end shown on the terminal."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from batchrec_dagster.cli.dagster_home import (
    EVENTS_OF_ALL_RUNS,
    RUNS,
    has_history,
    hold_databases_open,
    locate_events_of_run,
    open_dagster_home,
    open_dagster_instance,
)
from batchrec_dagster.cli.page_address import answers, read_page_address
from batchrec_dagster.reporting.views.plain import format_program

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.cli.project import Project
    from batchrec_dagster.cli.run_stages import RunStages

SECONDS_BETWEEN_UPDATES = 0.25
# Dagster gives a run its id only when the run starts, so this tag is used to find the run.
# Dagster's web page hides tags that start with a dot, and people have no use for this one.
TAG = ".dagster/batchrec/run"
# The signals of Ctrl-C, of kill, and of a closed terminal.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The number of lines to show if the process ends before Dagster has started the run.
LINES_OF_OUTPUT = 20


@contextmanager
def start_job(project: Project, job: str, configs: Sequence[Path]) -> Iterator[WatchedJob]:
    """Yield a job of the project, started in a separate process.

    A job that has not ended by the end of the block is stopped.

    configs: files with run configuration. If several files have a setting, Dagster takes the value
        in the first file.
    """
    if not has_history(open_dagster_home()):
        with open_dagster_instance():
            pass  # Opening creates the databases. If two processes created them, one would fail.
    tag = uuid.uuid4().hex
    dagster = [sys.executable, "-m", "batchrec_dagster.cli.dagster_command"]
    definitions = ["-m", project.definitions_module, "-d", str(project.code)]
    command = [*dagster, "job", "execute", *definitions, "-j", job]
    command += ["--tags", json.dumps({TAG: tag})]
    for config in configs:
        command += ["-c", str(config)]
    with TemporaryFile() as output, _catch_signals() as signals:
        # The process gets a session of its own, so that Ctrl-C does not reach the process before
        # Dagster knows that the run is canceled.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield WatchedJob(process, tag, output, signals)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


@contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Yield a list of the numbers of stop signals, which grows as signals arrive."""
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
class WatchedJob:
    """A job in a separate process."""

    process: subprocess.Popen[bytes]
    tag: str
    """The value of the run's tag TAG, used to find the run."""
    output: IO[bytes]
    """The output of the process."""
    signals: list[int]
    """The stop signals that have arrived so far."""
    stages: RunStages | None = None
    """The stages of the run; None until Dagster has started the run."""
    started_at: float = field(default_factory=time.time)

    @property
    def exit_code(self) -> int:
        """The exit code for the command that waited for this job."""
        if self.signals:
            return 128 + self.signals[0]
        return 1 if self.process.returncode else 0

    @property
    def duration(self) -> str:
        """The time since the job started, in words."""
        from batchrec_dagster.reporting.insight.numbers import format_duration

        return format_duration(time.time() - self.started_at)

    def watch(self, title: str, arguments: Sequence[str]) -> None:
        """Show the stages until the job has ended.

        If the job did not succeed, also print why, and what to do.

        title: the name of the pipeline, or the address of the list, that the job is for.
        arguments: the arguments of `batchrec` that start the job again.
        """
        with open_dagster_instance() as instance:
            self._show_stages(title, instance)
            run = instance.get_run_by_id(self.stages.run.run_id) if self.stages else None
        if self.stages is None or run is None:
            self._explain_missing_run(title)
        elif not run.is_success:
            self._explain_failure(title, self.stages, arguments)

    def _show_stages(self, title: str, instance: dg.DagsterInstance) -> None:
        """Show the run's stages until its process has ended."""
        import dagster as dg

        from batchrec_dagster.cli.run_stages import RunStages
        from batchrec_dagster.reporting.views.run import open_stage_lines
        from batchrec_dagster.reporting.views.terminal import Terminal

        with_tag = dg.RunsFilter(tags={TAG: self.tag})
        signals_handled = 0
        home = open_dagster_home()
        with open_stage_lines(Terminal(), title) as show, ExitStack() as databases:
            databases.enter_context(hold_databases_open(home / RUNS, home / EVENTS_OF_ALL_RUNS))
            while True:
                has_ended = self.process.poll() is not None
                if self.stages is None and (runs := instance.get_runs(with_tag, limit=1)):
                    self.stages = RunStages(instance, runs[0])
                    events = home / locate_events_of_run(runs[0].run_id)
                    databases.enter_context(hold_databases_open(events))
                if len(self.signals) > signals_handled:
                    signals_handled = len(self.signals)
                    self._stop(instance, force=signals_handled > 1)
                if self.stages is not None:
                    ended_stages = [*self.stages.update()]
                    if has_ended:
                        self._report_end(instance, self.stages)
                        ended_stages += self.stages.update()
                    show(self.stages.stages.values(), ended_stages)
                if has_ended:
                    return
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(SECONDS_BETWEEN_UPDATES)

    def _stop(self, instance: dg.DagsterInstance, *, force: bool) -> None:
        """Interrupt the run.

        Dagster is told first, so that it calls the run canceled, not failed.

        force: whether to kill the process instead.
        """
        if force:
            self.process.kill()
            return
        if self.stages is not None:
            instance.report_run_canceling(self.stages.run)
        self.process.send_signal(signal.SIGINT)

    def _report_end(self, instance: dg.DagsterInstance, stages: RunStages) -> None:
        """Report the run's end to Dagster if a killed process has not reported it.

        Without this report, the run would stay under way in Dagster forever.
        """
        from batchrec_dagster.pipeline.failure_reasons import explain_signal

        run = instance.get_run_by_id(stages.run.run_id)
        code = self.process.returncode
        if run is None or run.is_finished:
            return
        if self.signals:
            instance.report_run_canceled(run)
        else:
            what = ", ".join(stage.name for stage in stages.under_way) or "the run"
            early = f"the process of {what} ended early"
            instance.report_run_failed(run, explain_signal(what, -code) if code < 0 else early)

    def _explain_missing_run(self, title: str) -> None:
        """Print why Dagster has started no run, from the output of the process."""
        from batchrec_dagster.reporting.views.terminal import Terminal

        if self.signals:
            Terminal().print_outcome("watch", f"{title}: stopped before the run started")
            return
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        # Dagster prints a mistake in a run's configuration as "    Error 1: …".
        mistakes = re.findall(r"^ +Error \d+: (.+)", text, re.MULTILINE)
        terminal = Terminal(stderr=True)
        terminal.print_outcome("refuse", f"{title}: the run did not start")
        for line in mistakes or text.splitlines()[-LINES_OF_OUTPUT:]:
            terminal.print_sentence(line, hang=4)

    def _explain_failure(self, title: str, stages: RunStages, arguments: Sequence[str]) -> None:
        """Print why the run was stopped or failed, and how to continue."""
        from batchrec_dagster.reporting.views.run import print_failure
        from batchrec_dagster.reporting.views.terminal import Terminal

        program = format_program()
        command_again = f"{program} {shlex.join(stages.drop_done_options(arguments))}"
        if self.signals:
            terminal = Terminal()
            terminal.print_line()
            terminal.print_outcome(
                "watch", f"{title}: stopped after {self.duration}. Continue with:"
            )
            terminal.print_line(f"  {command_again}")
            return
        page = read_page_address(open_dagster_home())
        start = "" if answers(page) else f", once `{program} ui` runs"
        print_failure(
            Terminal(stderr=True),
            f"{title}: failed after {self.duration}",
            stages.reasons,
            stages.describe_published(),
            command_again,
            (f"Its log{start}:", f"{page}/runs/{stages.run.run_id}"),
        )
