"""The output of `batchrec run`: a line for each stage as it ends, the result, and next commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Group
from rich.live import Live
from rich.text import Text

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.reporting.insight.numbers import format_count, format_duration
from batchrec_dagster.reporting.insight.overview import ListOverview
from batchrec_dagster.reporting.insight.stages import Stage, StageStatus
from batchrec_dagster.reporting.views.plain import (
    escape_line,
    format_program,
    format_show_arguments,
    format_time,
    shorten_location,
)
from batchrec_dagster.reporting.views.terminal import Terminal

STYLES: Mapping[StageStatus, str] = {
    "running": "bold",
    "retrying": "yellow",
    "done": "green",
    "failed": "bold red",
    "stopped": "yellow",
}
# A function that shows all stages of a run, and the stages that have ended since its last call.
ShowStages = Callable[[Collection[Stage], Sequence[Stage]], None]
# If a command is longer than the shortest command by more than this many letters, its comment is
# not aligned with the other comments.
MOST_INDENTATION = 40


def format_stage(stage: Stage, now: float, name_width: int) -> Text:
    """Return a line about a stage that runs, has ended or waits for a retry.

    now: the current time in seconds since the epoch.
    name_width: the length of the longest name of all stages.
    """
    duration = format_duration(stage.measure_seconds(now))
    return Text.assemble(
        f"{escape_line(stage.name):<{name_width}}  ",
        (f"{stage.status:<8}", STYLES.get(stage.status, "dim")),
        f"  {duration:>9}  {escape_line(stage.details)}".rstrip(),
        no_wrap=True,
        overflow="ellipsis",
    )


@contextmanager
def open_stage_lines(terminal: Terminal, title: str) -> Iterator[ShowStages]:
    """Yield a function that prints a line for each ended stage, above the stages under way.

    A pipe gets only the lines of stages that have ended.

    title: the name of the pipeline or list, which a terminal shows until the first stage starts.
    """
    with ExitStack() as stack:
        live = None
        if terminal.rewrites_lines:
            text = Text(f"{escape_line(title)}: loading")
            live = stack.enter_context(
                Live(text, console=terminal.console, auto_refresh=False, transient=True)
            )

        def show(stages: Collection[Stage], ended: Sequence[Stage]) -> None:
            now = time.time()
            name_width = max(len(stage.name) for stage in stages)
            under_way = [stage for stage in stages if stage.is_under_way]
            if live is not None:
                live.update(Group(*(format_stage(stage, now, name_width) for stage in under_way)))
            for stage in ended:
                terminal.print_line(format_stage(stage, now, name_width), cut=True)
            if live is not None:
                live.refresh()

        yield show


def print_result(terminal: Terminal, overview: ListOverview, run: str, duration: str) -> bool:
    """Print whether the run has published a new edition of a list, and facts about the edition.

    run: the run's id.
    duration: the duration of the run, in words.

    Returns whether the run published an edition.
    """
    address, edition = overview.address, overview.edition
    terminal.print_line()
    if edition is None:
        terminal.print_outcome("watch", f"{address}: nothing is published yet")
        return False
    name = f"edition {edition.number}"
    is_new = edition.run == run
    if is_new:
        terminal.print_outcome("good", f"{address}: published {name} in {duration}")
    else:
        made = format_time(edition.made_at.astimezone())
        terminal.print_outcome("good", f"{address}: unchanged ({duration}), {name} of {made} stays")
    if overview.verdict is not None and edition.users is not None:
        terminal.print_verdict(overview.verdict)
    if is_new:
        terminal.print_facts([("lists", describe_lists(edition)), *describe_rules(edition)])
    if overview.report is not None:
        terminal.print_facts([("report", shorten_location(overview.report))])
    return is_new


def describe_lists(edition: Edition) -> str:
    """Return the size of the edition, such as `1,500 recommendations for 60 users`."""
    counts = edition.counts
    if edition.users is None:
        rows, subjects = "similar item", f"of {format_count(counts.subjects, 'item')}"
    else:
        rows, subjects = "recommendation", f"for {format_count(edition.users, 'user')}"
    return f"{format_count(counts.rows, rows)} {subjects}"


def describe_rules(edition: Edition) -> Iterator[tuple[str, str]]:
    """Yield a fact with its label on what each rule did to the lists; nothing without rules."""
    left_out = {rule.rule: rule.removed for rule in edition.rules if rule.removed}
    added = {rule.rule: rule.added for rule in edition.rules if rule.added}
    if edition.filled is not None and edition.filled.popular_rows:
        added["popular items"] = edition.filled.popular_rows
    parts = [
        f"{verb} {', '.join(f'{rule} {number:,}' for rule, number in numbers.items())}"
        for verb, numbers in (("left out:", left_out), ("added:", added))
        if numbers
    ]
    if edition.rules:
        yield "rules", "; ".join(parts) or "they changed nothing"


def print_next_commands(
    terminal: Terminal, pipeline: str, user: str | None, *, is_only: bool
) -> None:
    """Print commands that the user can type next.

    user: a user who has a list; None if no such user is known.
    is_only: whether the project has no other pipeline that may know a user with this id.
    """
    batchrec = format_program()
    of_pipeline = None if is_only else pipeline
    show_user = "show USER" if user is None else format_show_arguments(user, of_pipeline)
    commands = {
        f"{batchrec} open": "the report, in a browser",
        f"{batchrec} show --pipeline {pipeline}": "the data, the metrics, the table",
        f"{batchrec} {show_user}": "a user's history and list",
        f"{batchrec} ui": "this run in Dagster",
    }
    terminal.print_line()
    for line in align_comments(commands):
        terminal.print_line(line)


def align_comments(commands: Mapping[str, str]) -> list[str]:
    """Return a line for each command with its comment, with the comments below each other.

    A very long command, for example with a long user id, does not move the other comments.
    """
    longest = min(map(len, commands)) + MOST_INDENTATION
    width = max(len(command) for command in commands if len(command) <= longest)
    return [f"{command:<{width}}  # {comment}" for command, comment in commands.items()]


def print_failure(
    terminal: Terminal,
    title: str,
    reasons: Sequence[str],
    readers: str,
    command: str,
    log: tuple[str, str],
) -> None:
    """Print why a run failed, and what to do.

    title: the run that failed, in words.
    readers: a sentence about the lists that readers have now; empty if the run was not going to
        publish any.
    command: the command that continues the run.
    log: a label for the run's log, and the log's address.
    """
    terminal.print_line()
    terminal.print_outcome("refuse", title)
    for reason in reasons:
        terminal.print_sentence(reason, hang=4)
    terminal.print_line()
    if readers:
        terminal.print_line(readers)
    terminal.print_line("Fix it, then continue with:")
    terminal.print_line(f"  {command}")
    terminal.print_line(log[0])
    terminal.print_line(f"  {log[1]}")
