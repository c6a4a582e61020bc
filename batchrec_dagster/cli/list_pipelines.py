"""The `batchrec list` command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.dagster_home import open_dagster_instance
from batchrec_dagster.cli.pipelines import (
    NO_PIPELINES,
    expand_names,
    load_pipelines,
    make_undeclared_error,
    warn_of_errors,
)
from batchrec_dagster.cli.project import enter_project, load_storage
from batchrec_dagster.cli.published_lists import read_ended_runs_if_any

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.reporting.insight.overview import ListOverview


@click.command("list", short_help="List the pipelines, the verdict on each, and the last night.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--editions", is_flag=True, help="List each night: what it published, or why nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_pipelines(names: tuple[str, ...], editions: bool, as_json: bool) -> None:
    """List the declared pipelines: the published edition, the verdict, and the last night.

    With --editions, prints a line for each night instead, newest first: the edition that it
    published, the check that refused it, or the step that failed; NDCG@25 with its interval, the
    users, the cost in Personalize, and the time until the lists were live. A NAME is a pipeline or
    one of its lists, such as shop/newsletter. Default: all pipelines.

    \b
    Examples:
      batchrec list
      batchrec list shop --editions
      batchrec list --json | jq -r '.[] | select(.last_run.status == "FAILURE") | .pipeline'
    """  # noqa: D301
    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.reporting.insight.published_tables import find_published
    from batchrec_dagster.storage.layout import ListKeys

    loaded = load_pipelines(enter_project())
    storage = load_storage()
    published = {files.keys.address for files in find_published(storage)}
    # If the project does not load, its declarations are unknown, so its published lists are shown.
    declared = sorted(published) if loaded.errors else loaded.addresses
    undeclared = sorted(published.difference(declared))
    # The editions of a pipeline or a list stay when its declaration is removed.
    addresses = [*declared, *(undeclared if editions else [])]
    if loaded.errors and not addresses:
        raise click.ClickException("\n".join(loaded.errors))
    warn_of_errors(loaded)
    chosen = expand_names(names, addresses) or declared
    for name in chosen:
        if name not in addresses:
            raise make_undeclared_error(name, declared)
    lists = [ListFiles(storage, ListKeys(address)) for address in chosen]
    if editions:
        _list_nights(lists, as_json=as_json)
        return
    _list_overviews(lists, as_json=as_json)
    if not lists and not as_json:
        click.echo(NO_PIPELINES)
    if undeclared and not names and not as_json:
        click.echo(f"Published in this storage too, but not declared here: {', '.join(undeclared)}")


def _list_overviews(lists: Sequence[ListFiles], *, as_json: bool) -> None:
    """Print the current state of each list.

    Raises UserError.
    """
    from batchrec_dagster.pipeline.ended_runs import read_ended_runs
    from batchrec_dagster.reporting.insight.overview import read_overview
    from batchrec_dagster.reporting.views.list_pipelines import print_overviews
    from batchrec_dagster.reporting.views.terminal import Terminal

    with open_dagster_instance() as instance:
        last_runs = [_read_last_run(instance, files) for files in lists]
        overviews = [read_overview(files, read_ended_runs(instance, files)) for files in lists]
    if not as_json:
        runs_under_way = {
            overview.address: "interrupted" if run["status"] == "INTERRUPTED" else "running now"
            for overview, run in zip(overviews, last_runs, strict=True)
            if run is not None and run["seconds"] is None
        }
        print_overviews(Terminal(), overviews, runs_under_way)
        return
    described = [
        _describe_overview(overview, last_run)
        for overview, last_run in zip(overviews, last_runs, strict=True)
    ]
    click.echo(json.dumps(described, indent=2))


def _describe_overview(
    overview: ListOverview, last_run: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the current state of a list, for JSON.

    last_run: the last refresh of the list's pipeline, as `_read_last_run` returns it.
    """
    from batchrec_dagster.reporting.insight.nights import format_iso
    from batchrec_dagster.reporting.insight.overview import describe_last_night

    edition, live = overview.edition, overview.live
    published: dict[str, Any] | None = None
    if edition is not None:
        published = {
            "number": edition.number,
            "made": format_iso(edition.made_at),
            "users": edition.users,
            "live_since": None if live is None else format_iso(live.time),
            "live_because": None if live is None else live.because,
            "verdict": str(overview.verdict),
        }
    return {
        "pipeline": overview.address,
        "last_run": last_run,
        "last_night": describe_last_night(overview),
        "edition": published,
    }


def _read_last_run(instance: dg.DagsterInstance, files: ListFiles) -> dict[str, Any] | None:
    """Return the last refresh of the pipeline, for JSON; None if there was none.

    Raises UserError.
    """
    from batchrec_dagster.pipeline.automation.runs_under_way import filter_refreshes
    from batchrec_dagster.pipeline.ended_runs import is_interrupted
    from batchrec_dagster.reporting.insight.nights import format_iso

    for record in instance.get_run_records(filter_refreshes(files), limit=1):
        status = record.dagster_run.status.value
        if is_interrupted(instance, record, files):
            status = "INTERRUPTED"
        began = record.start_time or record.create_timestamp.timestamp()
        return {
            "run_id": record.dagster_run.run_id,
            "status": status,
            "began": format_iso(datetime.fromtimestamp(began, UTC)),
            "seconds": round(record.end_time - began, 1) if record.end_time else None,
        }
    return None


def _list_nights(lists: Sequence[ListFiles], *, as_json: bool) -> None:
    """Print the nights of each list.

    Raises UserError.
    """
    from batchrec_dagster.reporting.insight.nights import describe_nights, list_nights
    from batchrec_dagster.reporting.views.list_pipelines import print_nights
    from batchrec_dagster.reporting.views.terminal import Terminal

    ended_runs = read_ended_runs_if_any(lists)
    nights = {
        files.keys.address: list_nights(files, ended_runs.get(files.keys.address, ()))
        for files in lists
    }
    if as_json:
        described = [describe_nights(address, nights[address]) for address in nights]
        click.echo(json.dumps(described, indent=2))
        return
    terminal = Terminal()
    for number, address in enumerate(nights):
        if number:
            terminal.print_line()
        print_nights(terminal, address, nights[address])
