"""The process of a run: shows its stages while it runs, and its result in the end."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from batchrec_dagster.cli.dagster_home import (
    EVENTS_OF_ALL_RUNS,
    RUNS,
    hold_databases_open,
    locate_events_of_run,
    use_dagster_home,
)
from batchrec_dagster.cli.project import find_project, format_program, load_storage
from batchrec_dagster.cli.run_view import show_stages

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.reporting.run_stages import RunStages

SECONDS_BETWEEN_UPDATES = 0.25
# Dagster names a run only when it has started: this tag finds it.
TAG = "batchrec/run"


@dataclass
class RunProcess:
    """A run of a pipeline's refresh job, and the process of its own in which it runs."""

    pipeline: str
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
    stages: RunStages | None = None
    """None until Dagster has started the run."""

    def watch(self) -> None:
        """Show the run's stages until its process has ended."""
        import dagster as dg

        from batchrec_dagster.reporting.run_stages import RunStages

        with_tag = dg.RunsFilter(tags={TAG: self.tag})
        signals_handled = 0
        home = use_dagster_home()
        with show_stages(self.pipeline) as show, ExitStack() as databases:
            databases.enter_context(hold_databases_open(home / RUNS, home / EVENTS_OF_ALL_RUNS))
            while True:
                ended = self.process.poll() is not None
                if self.stages is None:
                    for started_run in self.instance.get_runs(with_tag, limit=1):
                        self.stages = RunStages(self.instance, started_run)
                        events = home / locate_events_of_run(started_run.run_id)
                        databases.enter_context(hold_databases_open(events))
                if len(self.signals) > signals_handled:
                    signals_handled = len(self.signals)
                    self._stop(force=signals_handled > 1)
                ended_stages = list(self.stages.update()) if self.stages else []
                if ended and self.stages is not None:
                    self._report_end(self.stages)
                    ended_stages += self.stages.update()
                show(self.stages, ended_stages, ended)
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
        from batchrec_dagster.reporting.failure_reasons import explain_signal

        run = self.instance.get_run_by_id(stages.run.run_id)
        code = self.process.returncode
        if run is None or run.is_finished:
            return
        if self.signals:
            self.instance.report_run_canceled(run)
        else:
            what = ", ".join(stages.running) or "the run"
            early = f"the process of {what} ended early"
            self.instance.report_run_failed(run, explain_signal(what, -code) if code < 0 else early)

    def conclude(self, seconds: float) -> None:
        """Print the run's result, and what to do next."""
        from batchrec_dagster.reporting.run_stages import format_duration

        name = self.pipeline
        stages = self.stages
        duration = format_duration(seconds)
        batchrec = format_program()
        run_again = f"{batchrec} run {shlex.quote(name)}"
        run = None if stages is None else self.instance.get_run_by_id(stages.run.run_id)
        if stages is None or run is None:
            if self.signals:
                click.echo(f"{name}: stopped before the run started")
            else:
                click.echo(
                    f"{name}: the run did not start. {self._explain_failed_start()}", err=True
                )
        elif run.is_success:
            click.echo("\n".join(describe_result(name, run, stages, duration)))
        elif self.signals:
            click.echo(f"\n{name}: stopped after {duration}. Continue with: {run_again}")
        else:
            lines = [
                f"\n{name}: failed after {duration}",
                *(f"  {error}" for error in stages.errors),
            ]
            lines.append(f"Fix it, then continue with: {run_again}")
            page = f"http://127.0.0.1:3000/runs/{run.run_id}"
            lines.append(f"Its log: {batchrec} ui, then {page}")
            click.echo("\n".join(lines), err=True)

    def _explain_failed_start(self) -> str:
        """Why the definitions do not load, or else the last lines of the process's output."""
        from batchrec_dagster.cli.pipelines import find_pipeline_errors

        load_storage()  # Raises click.ClickException for wrong settings of the deployment.
        lines = find_pipeline_errors(find_project())
        if lines:
            return "\n".join(lines)
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        config_errors = re.findall(r"^ +Error \d+: (.+)", text, re.MULTILINE)
        if self.config and config_errors:
            return "\n".join(f"{self.config}: {error}" for error in config_errors)
        return "\n".join(text.splitlines()[-20:])


# A command that is longer than the shortest by more letters does not move the comments of all.
MOST_INDENTATION = 40


def describe_result(name: str, run: dg.DagsterRun, stages: RunStages, duration: str) -> list[str]:
    """Lines about what the run has published, and the commands that show more of it."""
    from batchrec_dagster.reporting.published import PublishedResults
    from batchrec_dagster.reporting.summary import describe_run_result, format_show_arguments

    published = PublishedResults(load_storage(name), name)
    lines = ["", *describe_run_result(published, run.run_id, duration)]
    lines += [f"  {'warning':<9} {warning}" for warning in stages.warnings]
    user = published.find_example_user()
    commands = {
        "open": "the report, in a browser",
        f"show --pipeline {name}": "the data, the metrics, the table",
    }
    if user is not None:
        commands[format_show_arguments(user)] = "a user's history and list"
    commands["ui"] = "this run in Dagster"
    batchrec = format_program()
    full_commands = {f"{batchrec} {command}": comment for command, comment in commands.items()}
    return [*lines, "", *align_comments(full_commands)]


def align_comments(commands: Mapping[str, str]) -> list[str]:
    """A line for each command, with its comment. The comments are below each other.

    A command that is very long, as with a long user id, moves its own comment only.
    """
    longest = min(map(len, commands)) + MOST_INDENTATION
    width = max(len(command) for command in commands if len(command) <= longest)
    return [f"{command:<{width}}  # {comment}" for command, comment in commands.items()]
