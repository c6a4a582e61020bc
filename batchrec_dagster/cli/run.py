"""`batchrec run`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
import yaml

from batchrec_dagster.cli.dagster_home import has_history, open_dagster_instance
from batchrec_dagster.cli.project import (
    NO_PIPELINES,
    TextDates,
    complete_pipelines,
    find_declared_pipelines,
    find_project,
    make_job_command,
    make_undeclared_error,
)
from batchrec_dagster.cli.run_process import TAG, RunProcess

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
    name = _choose_pipeline(pipeline)
    if config:
        _require_settings(config)
    stream: Any = sys.stdout
    stream.reconfigure(errors="backslashreplace")
    tag = uuid.uuid4().hex
    started_at = time.time()
    command = [*make_job_command(f"{name}_refresh"), "--tags", json.dumps({TAG: tag})]
    if config:
        command += ["-c", str(config)]
    with ExitStack() as stack, TemporaryFile() as output, _catch_signals() as signals:
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
            run_process = RunProcess(name, tag, instance, process, output, signals, config)
            run_process.watch()
            run_process.conclude(time.time() - started_at)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
    if signals:
        context.exit(128 + signals[0])
    if process.returncode:
        context.exit(1)


def _import_for_conclusion() -> None:
    """Import what `describe_result` needs while the run goes on, so that nobody waits for it."""
    from batchrec_dagster import deployment  # noqa: F401
    from batchrec_dagster.config import project, templates  # noqa: F401
    from batchrec_dagster.reporting import published, summary  # noqa: F401


def _choose_pipeline(name: str | None) -> str:
    """The pipeline of this name, or the only one.

    Raises click.UsageError if several could be meant, UnknownNameError if it is not declared.
    """
    declared = find_declared_pipelines(find_project())
    if name is None:
        if not declared:
            raise click.UsageError(NO_PIPELINES)
        if len(declared) > 1:
            names = ", ".join(sorted(declared))
            raise click.UsageError(f"name one of the pipelines: {names}")
        (name,) = declared
    if name not in declared:
        raise make_undeclared_error(name, declared)
    return name


def _require_settings(file: Path) -> None:
    """Raise click.ClickException for a file that is not YAML with settings."""
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), TextDates)  # noqa: S506
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise click.ClickException(f"{file}{line}: this is not YAML: {problem}") from error
    if not isinstance(settings, dict):
        raise click.ClickException(f"{file}: a run's settings start with ops:")


@contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Yield a list to which the numbers of signals to stop are added as they arrive."""
    caught: list[int] = []
    handlers_before = {
        number: signal.signal(number, lambda number, _: caught.append(number)) for number in SIGNALS
    }
    try:
        yield caught
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
