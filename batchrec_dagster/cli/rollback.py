"""The `batchrec rollback` command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.dagster_home import open_instance_if_any
from batchrec_dagster.cli.pipelines import UnknownNameError, load_pipelines
from batchrec_dagster.cli.project import enter_project, load_storage
from batchrec_dagster.cli.published_lists import explain_nothing_published
from batchrec_dagster.cli.watched_job import start_job
from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.durable import temporary_folder

if TYPE_CHECKING:
    from batchrec_dagster.editions.edition import Edition
    from batchrec_dagster.editions.editions import Editions


@click.command(short_help="Publish an older edition of the recommendations again.")
@click.argument("address", metavar="NAME")
@click.option(
    "--to",
    metavar="EDITION",
    help="Edition number. Default: the newest before the published one that was not rolled back.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rollback(address: str, to: str | None, yes: bool) -> None:
    """Publish an older edition of the recommendations again, or finish a rollback that was killed.

    NAME is a pipeline or one of its lists, such as shop/newsletter or shop/similar_items. Shows the
    kept editions, asks, and runs the job NAME_rollback, or shop__newsletter_rollback for a list.
    The job publishes the older edition in one atomic put, keeps the replaced edition, and updates
    the report and the sinks. The next refresh publishes new recommendations, but does not publish
    the rolled-back ones again.

    \b
    Examples:
      batchrec rollback shop               # to the edition before
      batchrec rollback shop --to 12       # to edition 12
      batchrec rollback shop --yes         # in a script
      batchrec rollback shop/newsletter    # one of several lists
    """  # noqa: D301
    import dagster as dg

    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.pipeline.run_history import DagsterRuns
    from batchrec_dagster.steps.lists.rollback import (
        PREVIOUS,
        build_rollback_config,
        choose_edition,
        find_unfinished,
    )
    from batchrec_dagster.storage.layout import ListKeys

    project = enter_project()
    files = ListFiles(load_storage(), ListKeys(address))
    editions, unfinished = files.editions, None
    try:
        live = editions.live()
        if live is None:
            raise UnknownNameError(explain_nothing_published(address, files))
        with open_instance_if_any() as instance:
            if instance is not None:
                unfinished = find_unfinished(live, DagsterRuns(instance))
        edition = choose_edition(editions, to or PREVIOUS, unfinished)
    except UserError as error:
        raise UnknownNameError(str(error)) from error
    click.echo(_list_editions(editions, live, edition))
    if unfinished is not None and edition.is_copy_of(unfinished):
        click.echo(
            f"The rollback to edition {edition.number} was not finished: this updates the report"
            " and the sinks. To go further back, name an edition with --to"
        )
    elif edition.is_copy_of(live):
        raise click.ClickException(f"edition {edition.number} is already published")
    keys = files.keys
    key = dg.AssetKey(keys.asset_key)
    load_pipelines(project).require_list(address)
    if not yes:
        click.confirm(f"Publish edition {edition.number} again?", abort=True)
    with temporary_folder() as folder:
        config = folder / "rollback.yaml"
        config.write_text(
            json.dumps(build_rollback_config(key.to_python_identifier(), str(edition.number)))
        )
        with start_job(project, keys.rollback_job, [config]) as job:
            job.watch(address, ["rollback", address, "--to", str(edition.number)])
    _print_published(address, editions)
    click.get_current_context().exit(job.exit_code)


def _print_published(address: str, editions: Editions) -> None:
    """Print which edition is published now."""
    from batchrec_dagster.reporting.views.terminal import Terminal

    terminal = Terminal()
    terminal.print_line()
    terminal.print_outcome("good", f"{address}: {_describe_published(editions.live())}")


def _describe_published(edition: Edition | None) -> str:
    from batchrec_dagster.steps.lists.rollback import describe_rows_against_only

    if edition is None:
        return "no edition is published"
    text = f"edition {edition.number} is published"
    if edition.users_dropped:
        dropped = f"{edition.users_dropped:,} of its {edition.counts.subjects:,} users"
        text += f", without {dropped}: gone from the current users, or erased"
    if edition.rows_against_only:
        text += f". {describe_rows_against_only(edition)}"
    return text


def _list_editions(editions: Editions, live: Edition, edition: Edition) -> str:
    """Return the published and the kept editions as lines, with an arrow at the chosen edition."""
    from batchrec_dagster.steps.lists.publish import summarize_edition

    record = editions.record()
    lines = [f"published: {summarize_edition(live)}"]
    if record.live is not None and record.live.ended == "restored":
        lines.append(f"           {record.live.description}")
    for older in editions.older():
        line = f"kept:      {summarize_edition(older)}"
        if record.is_withdrawn(older):
            line += " (rolled back)"
        lines.append(f"{line} <-" if older.is_copy_of(edition) else line)
    return "\n".join(lines)
