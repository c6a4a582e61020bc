"""Shows a run's stages: on a terminal in a table that changes, in a pipe by a line as each ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from batchrec_dagster.reporting.run_stages import RunStages, Stage

Show = Callable[["RunStages | None", "list[Stage]", bool], None]


@contextmanager
def show_stages(name: str) -> Iterator[Show]:
    """Yield a function that shows the stages of a run.

    It takes the stages (None before the run has started), those that have ended since the last
    call, and whether the run has ended.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not sys.stdout.isatty() or console.is_dumb_terminal:

        def print_lines(stages: RunStages | None, ended_stages: list[Stage], ended: bool) -> None:
            for stage in ended_stages:
                assert stages is not None
                click.echo(stages.format_line(stage))

        yield print_lines
        return
    with Live(f"{name}: loading", console=console, auto_refresh=False) as live:

        def update_table(stages: RunStages | None, ended_stages: list[Stage], ended: bool) -> None:
            if stages is None:
                live.update("" if ended else f"{name}: loading", refresh=True)
                return
            if ended:
                stages.finish()
                live.vertical_overflow = "visible"
            live.update(stages.build_table(time.time()), refresh=True)

        yield update_table
