"""The `batchrec forget` command."""

from __future__ import annotations

import csv
import io
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.pipelines import (
    LoadedPipelines,
    describe_runs_under_way,
    load_pipelines,
)
from batchrec_dagster.cli.project import enter_project, load_storage, open_console_log
from batchrec_dagster.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from batchrec_dagster.reporting.views.terminal import Terminal
    from batchrec_dagster.steps.context import StepContext
    from batchrec_dagster.steps.erasure import Trace

# Words in the first line of a file of ids that are a header, not an id.
HEADERS = {"user", "users", "user_id", "userid", "id", "ids"}


@click.command(short_help="Erase people from everything that batchrec keeps.")
@click.argument("users", metavar="[USER]...", nargs=-1)
@click.option(
    "--file",
    "file",
    type=click.Path(
        exists=True, dir_okay=False, allow_dash=True, resolve_path=True, path_type=Path
    ),
    help="A CSV file whose first column has ids; - is the standard input.",
)
@click.option(
    "--pipeline",
    "names",
    metavar="NAME",
    multiple=True,
    help="Only this pipeline; repeat for more. Default: all that are declared.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def forget(
    users: tuple[str, ...], file: Path | None, names: tuple[str, ...], dry_run: bool, yes: bool
) -> None:
    """Erase people from everything that batchrec keeps, and keep them out.

    Shows the data about these people and what happens to the data, asks, and erases the data from
    copies of ratings, interactions, published lists and older editions, batch inputs and outputs,
    Personalize, segments, reports and sinks. From then on, refreshes leave these people out, even
    if a source still has them. Works on all declared pipelines, because a person can be in several.
    After an interruption, start it again with the same ids to continue.

    \b
    Examples:
      batchrec forget 10028                 # show, ask, erase
      batchrec forget --file ids.csv --dry-run
      batchrec forget --file ids.csv --yes  # in a script
      batchrec forget -- -7                 # an id that starts with a dash

    \b
    Exit codes:
      0  erased, or only shown
      1  not or not wholly erased; the message says why: run it again with the same ids
      3  no such pipeline
    """  # noqa: D301
    from batchrec_dagster.reporting.views.terminal import Terminal
    from batchrec_dagster.steps.erasure import find_sink_owners, find_traces

    rows = _read_ids(file) if file is not None else []
    if not users and file is None:
        raise click.UsageError("name at least one USER, or --file")
    log = open_console_log()
    loaded = load_pipelines(enter_project())
    loaded.require_any()
    for name in names:
        loaded.require(name)
    all_steps = loaded.open_steps("forget", log)
    steps = [all_steps[name] for name in sorted(names or all_steps)]
    if rows and rows[0].strip().lower() in HEADERS.union(*map(_name_user_column, steps)):
        rows = rows[1:]
    people = {*users, *rows}
    if not people:
        raise click.UsageError(f"{file} has no ids")
    if "" in people:
        raise click.UsageError("an id is empty")
    traces = {step.pipeline.name: find_traces(step, people) for step in steps}
    terminal = Terminal()
    _print_traces(terminal, traces)
    for step in steps:
        for sentence in _describe_consequences(step, traces[step.pipeline.name]):
            terminal.print_line(f"{step.pipeline.name}: {sentence}")
    if not names:
        _print_undeclared(terminal, all_steps)
    if dry_run:
        return
    _require_no_runs(loaded, steps)
    if not yes:
        click.confirm(f"Erase {_count_people(len(people))}? This cannot be undone", abort=True)
    owners = find_sink_owners([step.pipeline for step in all_steps.values()])
    _erase(steps, people, owners, log)


def _erase(
    steps: Sequence[StepContext],
    people: set[str],
    owners: Mapping[str, str],
    log: logging.Logger,
) -> None:
    """Erase the people from each pipeline, and print what was erased.

    owners: the address of the list that declares each sink, by the place that the sink writes to.

    Raises UserError at the end if anything was not erased.
    """
    from batchrec_dagster.steps.erasure import erase

    failures = []
    for step in steps:
        try:
            receipt = erase(step, people, owners, log)
        except UserError as error:
            # The people are still erased from the other pipelines.
            failures.append(str(error))
            continue
        erased = f"erased {_count_people(receipt.people)}"
        if not receipt.rows:
            erased = f"no rows of {_count_people(receipt.people)}; left out from now on"
        click.echo(f"{receipt.pipeline}: {erased}")
        for name, amount in receipt.erased.items():
            click.echo(f"  {name}: {amount}")
        for sentence in receipt.remains:
            click.echo(f"  {sentence}")
        click.echo(f"Receipt: {step.storage.where(step.files.uri(receipt.key))}")
    if failures:
        raise UserError("\n".join(failures))


def _print_traces(terminal: Terminal, traces: Mapping[str, Sequence[Trace]]) -> None:
    """Print a table of each pipeline's data about the people, and of what happens to the data."""
    from batchrec_dagster.reporting.views.terminal import Column

    rows = [
        (f"{pipeline}: {trace.name}", trace)
        for pipeline, pipeline_traces in traces.items()
        for trace in pipeline_traces
        if trace.number
    ]
    if not any(trace.is_of_people for _, trace in rows):
        terminal.print_line(
            "Not found anywhere. Erasing puts them on the list of people whom refreshes leave out."
        )
    terminal.print_table(
        "",
        [Column("where", "wrap"), Column("how much", "keep", right=True), Column("then", "wrap")],
        [(name, trace.amount, trace.consequence) for name, trace in rows],
    )


def _describe_consequences(step: StepContext, traces: Sequence[Trace]) -> Iterator[str]:
    """Yield sentences on the data that remain, and on the next refresh."""
    from batchrec_dagster.steps.erasure import describe_remains, estimate_next_refresh

    name, days = step.pipeline.name, step.pipeline.solution.retrain.every_days
    yield from describe_remains(step)
    if days is not None:
        yield (
            f"the model is trained without them when it is {days} days old"
            f" (solution.retrain.every_days), or at once: batchrec run {name} --train"
        )
    if step.resources.on_aws and any(trace.is_of_people and trace.number for trace in traces):
        yield (
            "the next refresh makes lists again from what it imports:"
            f" {estimate_next_refresh(step)}"
        )


def _print_undeclared(terminal: Terminal, declared: Collection[str]) -> None:
    """Print the pipelines that have published lists in the storage, but are not declared."""
    from batchrec_dagster.reporting.insight.published_tables import find_published

    published = {files.keys.pipeline for files in find_published(load_storage())}
    if undeclared := sorted(published.difference(declared)):
        terminal.print_line(
            f"Not looked at, because not declared: {', '.join(undeclared)}. To delete what such a"
            " pipeline left: batchrec teardown NAME --storage"
        )


def _require_no_runs(loaded: LoadedPipelines, steps: Sequence[StepContext]) -> None:
    """Raise UserError if a run of one of the pipelines is under way."""
    running = [line for step in steps for line in describe_runs_under_way(loaded, step)]
    if running:
        raise UserError(
            f"nothing was erased: {'; '.join(running)}, and could write again what is erased."
            " Wait until it ends, or stop it, and run batchrec forget again"
        )


def _count_people(number: int) -> str:
    """Return the number with its noun, such as `2 people`."""
    return f"{number:,} {'person' if number == 1 else 'people'}"


def _read_ids(file: Path) -> list[str]:
    """Return the first column of a CSV file, without empty lines.

    Raises click.ClickException if the file cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise click.ClickException(f"{file} cannot be read as CSV in UTF-8: {error}") from error
    return [row[0] for row in rows]


def _name_user_column(step: StepContext) -> set[str]:
    """Return the name of the user column in the ratings, in lower case, if it is declared."""
    columns = step.pipeline.ratings.columns
    column = None if columns is None else columns.user
    return {column.lower()} if isinstance(column, str) else set()
