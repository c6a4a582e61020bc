"""The `batchrec open` command."""

from __future__ import annotations

from pathlib import Path

import click

from batchrec_dagster.cli.dagster_home import open_dagster_home
from batchrec_dagster.cli.page_address import answers, read_page_address
from batchrec_dagster.cli.pipelines import UnknownNameError, load_pipelines
from batchrec_dagster.cli.project import (
    Project,
    enter_project_if_any,
    find_project,
    load_storage,
)
from batchrec_dagster.reporting.views.plain import format_program, shorten_path


@click.command("open", short_help="Open the report or Dagster's web page in a browser.")
@click.argument("what", type=click.Choice(["report", "ui"]), default="report")
@click.option("--pipeline", metavar="NAME")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Of the web page. Default: that of `batchrec ui` here, or 3000.",
)
def open_page(what: str, pipeline: str | None, port: int | None) -> None:
    """Open the newest report, or Dagster's web page if it runs, and print where it is.

    Without --pipeline, opens the report that was written last.

    \b
    Examples:
      batchrec open
      batchrec open report --pipeline shop
      batchrec open ui
    """  # noqa: D301
    import webbrowser

    project = enter_project_if_any()
    if what == "ui":
        address = f"http://127.0.0.1:{port}" if port else read_page_address(open_dagster_home())
        if not answers(address):
            raise click.ClickException(
                f"nothing answers on {address}. Start Dagster's web page with:"
                f" {format_program()} ui"
            )
        click.echo(address)
    else:
        report = _find_report(project, pipeline)
        address = report.as_uri()
        click.echo(shorten_path(report))
    if not webbrowser.open(address):
        click.echo("There is no browser to open it with on this machine.", err=True)


def _find_report(project: Project | None, pipeline: str | None) -> Path:
    """Return the path of the pipeline's newest report.

    project: the current project, if any. Its declarations explain why there is no report.
    pipeline: None for the newest report of all pipelines.

    Raises click.ClickException if there is no report on this machine.
    """
    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.reporting.insight.published_tables import find_published
    from batchrec_dagster.storage.layout import ListKeys

    storage = load_storage()
    if pipeline is not None and "/" in pipeline:
        lists = [ListFiles(storage, ListKeys(pipeline))]
    else:
        lists = find_published(storage, pipeline)
    reports = [storage.store.head(files.uri(files.keys.report)) for files in lists]
    existing_reports = [report for report in reports if report is not None]
    newest = max(existing_reports, key=lambda report: report.last_modified, default=None)
    if newest is None:
        loaded = load_pipelines(project or find_project())
        loaded.require_any()
        name = pipeline.partition("/")[0] if pipeline else next(iter(loaded.pipelines))
        loaded.require(name)
        raise UnknownNameError(f"no report yet. Make one: {format_program()} run {name}")
    path = storage.store.local_path(newest.uri)
    if path is None:
        copy = f"aws s3 cp {newest.uri} report.html"
        raise click.ClickException(f"the report is in S3. Copy it: {copy}")
    return path
